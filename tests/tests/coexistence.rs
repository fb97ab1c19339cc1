//! Others work on the same connections: weir works beside them and `weir check` names them, or it
//! says why it cannot and attaches nothing.

#[path = "coexistence/foreign.rs"]
mod foreign;
#[path = "coexistence/node.rs"]
mod node;
#[path = "coexistence/redirections.rs"]
mod redirections;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::cgroup::{Cgroup, within};
use weir_tests::daemon::Instance;
use weir_tests::fixture;
use weir_tests::lab::SERVER_V4;
use weir_tests::netns::{Netns, ip};
use weir_tests::peer::Peer;
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::PATIENCE;
use weir_tests::visits::{Outcome as Visit, visit};
use weir_tests::weir::binary;

use foreign::{CONNECT4, Counters, EGRESS, EXCLUSIVE, OVERRIDE, Program, SETSOCKOPT, SockMap};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;
const BYTES: u64 = 8 << 20;
/// An address of the server that the client reaches through it, and that nothing listens on.
const SERVICE: &str = "10.99.0.1";
/// `enum bpf_attach_type`: everything that weir attaches to a workload's cgroup.
const HOOKS: [u32; 9] = [3, 10, 11, 21, 22, 29, 30, 31, 32];

/// The lab, and a tree of cgroups: weir captures `workload`, clients run in `leaf` below it, weir
/// itself in `weir` beside it.
struct Place {
    top: Cgroup,
    lab: Lab,
}

/// A running `weir run` that captures `workload`.
struct Weir {
    process: Process,
    control: PathBuf,
    /// Dropped after the process: takes away what is pinned.
    _instance: Arc<Instance>,
}

// === impl Place ===

impl Place {
    fn new(role: &str) -> Result<Self> {
        let (lab, top) = (Lab::new()?, Cgroup::new(role)?);
        let place = Self { top, lab };
        for path in [place.leaf(), place.own()] {
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(place)
    }

    fn workload(&self) -> PathBuf {
        self.top.path().join("workload")
    }

    fn leaf(&self) -> PathBuf {
        self.workload().join("leaf")
    }

    fn own(&self) -> PathBuf {
        self.top.path().join("weir")
    }

    /// Starts weir in the cgroup and waits until it captures.
    fn weir(&self, own: &Path, flags: &[&str]) -> Result<Weir> {
        let (control, instance) = (self.lab.dir().join("weir.sock"), Instance::new());
        let mut command = self.lab.client.command(binary()?);
        command.args(["run", "--instance", instance.name()]);
        command.arg("--cgroup").arg(self.workload());
        command.arg("--control").arg(&control).args(flags);
        let process = Process::start("weir", within(own, &command), self.lab.dir())?;
        let mut weir = Weir { process, control, _instance: instance };
        wait_until("weir to get ready", PATIENCE * 3, || {
            if !weir.process.running()? {
                bail!("weir run ended");
            }
            Ok(weir.control.exists() && weir.verb(&self.lab, &["status"]).is_ok())
        })
        .with_context(|| format!("log of weir:\n{}", weir.process.log()))?;
        Ok(weir)
    }

    /// What `weir check`, run in the cgroup, says of the workload's: lines that name something.
    fn check(&self, own: &Path, something: &str) -> Result<Vec<(String, String)>> {
        let mut command = self.lab.client.command(binary()?);
        command.args(["check", "--no-proof", "-o", "json", "--cgroup"]).arg(self.workload());
        let finished = run(&mut within(own, &command), LIMIT)?;
        let report: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no report: {}", finished.stderr))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().context("no findings")?;
        Ok(findings
            .iter()
            .map(|finding| (text(&finding["level"]), text(&finding["detail"])))
            .filter(|(_, detail)| detail.contains(something))
            .collect())
    }

    /// One connection of a client in `leaf`, which must be told that it talks to whom it asked for.
    fn visit(&self, host: &str) -> Result<Visit> {
        self.visit_named(host, host)
    }

    /// One connection to a server that tells who connected; getpeername(2) must say `peer`.
    fn visit_named(&self, host: &str, peer: &str) -> Result<Visit> {
        visit(&self.lab.client, &self.leaf(), (host, PORT), peer)
    }

    /// Gives the server the service's address, where it refuses, and the client a route to it: only
    /// who is translated gets through.
    fn announce(&self) -> Result<()> {
        let (client, server) = (&self.lab.client, &self.lab.server);
        ip(&["-n", server.name(), "addr", "add", &format!("{SERVICE}/32"), "dev", "lo"])?;
        ip(&["-n", client.name(), "route", "add", SERVICE, "via", SERVER_V4])?;
        self.nft(
            server,
            &format!(
                "table ip service {{\n chain in {{\n type filter hook input priority 0;\n \
                 ip daddr {SERVICE} reject with tcp reset\n }}\n}}\n"
            ),
        )
    }

    /// Loads a rule set; it goes with the namespace.
    fn nft(&self, netns: &Netns, rules: &str) -> Result<()> {
        let file = self.lab.dir().join("rules.nft");
        std::fs::write(&file, rules)?;
        run(netns.command("nft").arg("-f").arg(&file), LIMIT)?.ok().map(drop)
    }

    /// Changes the client's table `nat` of old iptables; it goes with the namespace.
    fn iptables(&self, family: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.lab.client.command(format!("{family}-legacy"));
        run(command.args(["--wait", "-t", "nat"]).args(arguments), LIMIT)?.ok().map(drop)
    }
}

// === impl Weir ===

impl Weir {
    fn verb(&self, lab: &Lab, arguments: &[&str]) -> Result<String> {
        let mut command = lab.client.command(binary()?);
        command.args(arguments).arg("--control").arg(&self.control);
        Ok(run(&mut command, LIMIT)?.ok()?.stdout)
    }

    /// How many connections it has accepted for forwarding.
    fn served(&self, lab: &Lab) -> Result<u64> {
        let stat: Value = serde_json::from_str(&self.verb(lab, &["stat", "-o", "json"])?)?;
        let rows = stat["rows"].as_array().context("no rows")?;
        Ok(rows.iter().filter_map(|row| row["connections"].as_u64()).sum())
    }
}

// === helpers ===

/// A whoami server on the usual port of the server's namespace.
fn server(place: &Place) -> Result<Peer> {
    Peer::whoami(&place.lab.server, PORT)
}

fn octets(address: &str) -> Result<[u8; 4]> {
    Ok(address.parse::<std::net::Ipv4Addr>()?.octets())
}

/// Bytes that the client's loopback interface has carried.
fn loopback_bytes(lab: &Lab) -> Result<u64> {
    let text = run(lab.client.command("cat").arg("/proc/net/dev"), LIMIT)?.ok()?.stdout;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let received = line.and_then(|numbers| numbers.split_whitespace().next());
    Ok(received.context("no loopback interface")?.parse()?)
}

/// The test's own cgroup, which is not under the place's.
fn elsewhere() -> Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    let relative = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2")?;
    Ok(weir_tests::cgroup::mount_point()?.join(relative))
}

#[track_caller]
fn assert_says(findings: &[(String, String)], level: &str, words: &[&str]) {
    let all = |detail: &str| words.iter().all(|word| detail.contains(word));
    let said = findings.iter().any(|(found, detail)| found == level && all(detail));
    assert!(said, "no {level} with {words:?} in {findings:#?}");
}

// === beside others ===

#[test]
fn a_program_above_sees_the_connection_to_weir_and_then_weirs_own() -> Result<()> {
    let place = Place::new("above")?;
    let _peer = server(&place)?;
    let counters = Counters::new()?;
    let recorder = Program::recorder("recorder", &counters)?;
    let _link = recorder.link(place.top.path())?;
    let _weir = place.weir(&place.own(), &[])?;
    // weir has tried itself out.
    let before = (counters.get(0)?, counters.get(1)?);
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    let after = (counters.get(0)?, counters.get(1)?);
    // weir tries its listeners out once more where an interface has changed: over loopback as well.
    assert!(after.0 > before.0, "to loopback: {before:?}, {after:?}");
    assert_eq!(after.1, before.1 + 1, "from weir");
    let found = place.check(&place.own(), "recorder (id ")?;
    assert_says(&found, "ok", &["on connect4", "above", "runs after weir's"]);
    Ok(())
}

#[test]
fn a_program_below_sees_the_address_that_the_application_asked_for() -> Result<()> {
    let place = Place::new("below")?;
    let _peer = server(&place)?;
    let counters = Counters::new()?;
    let recorder = Program::recorder("recorder", &counters)?;
    let _link = recorder.link(&place.leaf())?;
    let _weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    assert_eq!((counters.get(0)?, counters.get(1)?), (0, 1));
    let found = place.check(&place.own(), "recorder (id ")?;
    assert_says(&found, "ok", &["below", "runs before weir's"]);
    Ok(())
}

/// As Cilium's socket load balancer at the root: weir asks for the service, as the application did,
/// and the balancer translates what weir asks for.
#[test]
fn a_load_balancer_above_both_translates_weirs_own_connection() -> Result<()> {
    let place = Place::new("lb")?;
    let _peer = server(&place)?;
    place.announce()?;
    let balancer = Program::balancer("balancer", octets(SERVICE)?, octets(SERVER_V4)?)?;
    let _link = balancer.link(place.top.path())?;
    assert_eq!(
        place.visit_named(SERVICE, SERVER_V4)?,
        Visit::Direct,
        "the balancer works without weir"
    );
    let weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVICE)?, Visit::Proxied);
    let stat = weir.verb(&place.lab, &["stat", "-o", "json"])?;
    ensure!(stat.contains(SERVICE), "weir knows the connection by another name: {stat}");
    Ok(())
}

/// A balancer sees weir's connection to the chosen endpoint, and not the service: what it would turn the
/// service into leads nowhere.
#[test]
fn a_load_balancer_above_leaves_weirs_connection_to_an_endpoint_alone() -> Result<()> {
    let place = Place::new("lbchosen")?;
    let _peer = server(&place)?;
    place.announce()?;
    let another = "10.77.0.3";
    let server = place.lab.server.name();
    ip(&["-n", server, "addr", "add", &format!("{another}/24"), "dev", "eth0"])?;
    let balancer = Program::balancer("balancer", octets(SERVICE)?, octets("10.77.0.99")?)?;
    let _link = balancer.link(place.top.path())?;
    let service = format!("shop@{SERVICE}:{PORT}={SERVER_V4}:{PORT},{another}:{PORT}");
    let _weir = place.weir(&place.own(), &["--service", &service])?;
    for _ in 0..4 {
        assert_eq!(place.visit(SERVICE)?, Visit::Proxied);
    }
    Ok(())
}

/// A service address without a route: to weir the kernel would refuse it, so it goes direct, and
/// the balancer translates it then.
#[test]
fn a_service_without_a_route_goes_direct_to_the_load_balancer() -> Result<()> {
    let place = Place::new("lbroute")?;
    let _peer = server(&place)?;
    let balancer = Program::balancer("balancer", octets(SERVICE)?, octets(SERVER_V4)?)?;
    let _link = balancer.link(place.top.path())?;
    let _weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit_named(SERVICE, SERVER_V4)?, Visit::Direct);
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    Ok(())
}

/// What weir cannot reach goes direct for the retry; the check tells how to exempt it for good.
#[test]
fn a_load_balancer_that_does_not_cover_weir_is_named() -> Result<()> {
    let place = Place::new("lbapart")?;
    let _peer = server(&place)?;
    place.announce()?;
    let balancer = Program::balancer("balancer", octets(SERVICE)?, octets(SERVER_V4)?)?;
    let _link = balancer.link(place.top.path())?;
    let apart = elsewhere()?;
    let weir = place.weir(&apart, &[])?;
    ensure!(matches!(place.visit(SERVICE)?, Visit::Failed(_)), "weir reached the service");
    assert_eq!(place.visit_named(SERVICE, SERVER_V4)?, Visit::Direct, "the retry");
    let found = place.check(&apart, "balancer (id ")?;
    assert_says(&found, "warn", &["above", "not weir's own connections"]);
    drop(weir);
    let _weir = place.weir(&apart, &["--skip-cidrs", SERVICE])?;
    assert_eq!(place.visit_named(SERVICE, SERVER_V4)?, Visit::Direct, "as the hint says");
    Ok(())
}

#[test]
fn a_load_balancer_below_translates_before_weir() -> Result<()> {
    let place = Place::new("lbbelow")?;
    let _peer = server(&place)?;
    place.announce()?;
    let balancer = Program::balancer("balancer", octets(SERVICE)?, octets(SERVER_V4)?)?;
    let _link = balancer.link(&place.leaf())?;
    let weir = place.weir(&elsewhere()?, &[])?;
    assert_eq!(place.visit_named(SERVICE, SERVER_V4)?, Visit::Proxied);
    let stat = weir.verb(&place.lab, &["stat", "-o", "json"])?;
    ensure!(stat.contains(SERVER_V4) && !stat.contains(SERVICE), "{stat}");
    Ok(())
}

#[test]
fn sockets_of_another_programs_sock_map_work_with_sk_msg() -> Result<()> {
    let place = Place::new("sockmap")?;
    let counters = Counters::new()?;
    let map = SockMap::new()?;
    let collector = Program::collector("collector", &map, &counters)?;
    let _link = collector.link(&place.leaf())?;
    let mut bulk = fixture::command(&place.lab.server, "bulk.py");
    bulk.args(["serve", &PORT.to_string()]);
    let _bulk = Process::serve("bulk", bulk, place.lab.dir(), (&place.lab.server, PORT))?;
    let _weir = place.weir(&place.own(), &["--sk-msg", "on"])?;
    let before = loopback_bytes(&place.lab)?;
    for way in ["download", "upload"] {
        let mut client = fixture::command(&place.lab.client, "bulk.py");
        client.args([way, SERVER_V4, &PORT.to_string(), &BYTES.to_string()]);
        run(&mut within(&place.leaf(), &client), LIMIT)?.ok()?;
    }
    assert_eq!(counters.get(0)?, 2, "both sockets were in the other's map");
    let crossed = loopback_bytes(&place.lab)? - before;
    ensure!(crossed >= 2 * BYTES, "{crossed} bytes crossed loopback: not on the TCP stack");
    let found = place.check(&place.own(), "collector (id ")?;
    assert_says(&found, "warn", &["on sockops", "below", "sock map", "EBUSY"]);
    assert_says(&place.check(&place.own(), "foreign_msg (sk_msg)")?, "ok", &["this machine"]);
    Ok(())
}

#[test]
fn programs_that_choose_listeners_are_named() -> Result<()> {
    let place = Place::new("lookup")?;
    let program = Program::pass(foreign::SK_LOOKUP, "chooser")?;
    let _link = program.link(&place.lab.client.path())?;
    let found = place.check(&place.own(), "chooser (id ")?;
    assert_says(&found, "warn", &["the network namespace", "the last selection counts"]);
    Ok(())
}

// === in the way ===

/// As systemd's `IPAddressDeny=` for a service that is running. weir's own connections would get past it.
#[test]
fn a_filter_of_what_the_cgroup_sends_holds_from_the_next_connection_on() -> Result<()> {
    let place = Place::new("filter")?;
    let _peer = server(&place)?;
    let filter = Program::pass(EGRESS, "filter")?;
    let weir = place.weir(&place.own(), &[])?;
    for cgroup in [place.workload(), place.leaf()] {
        assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied, "{}", cgroup.display());
        let link = filter.link(&cgroup)?;
        assert_eq!(place.visit(SERVER_V4)?, Visit::Direct, "{}", cgroup.display());
        drop(link);
        wait_until("connections to be captured again", PATIENCE, || {
            Ok(place.visit(SERVER_V4)? == Visit::Proxied)
        })?;
    }
    let status = weir.verb(&place.lab, &["status", "-o", "json"])?;
    ensure!(status.contains("filtered"), "the reason is not counted: {status}");
    // weir's own pass this one.
    let _link = filter.link(place.top.path())?;
    wait_until("connections to be captured", PATIENCE, || {
        Ok(place.visit(SERVER_V4)? == Visit::Proxied)
    })?;
    drop(weir);
    let _again = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied, "from the start");
    Ok(())
}

#[test]
fn weir_attaches_nothing_where_an_exclusive_program_is_in_the_way() -> Result<()> {
    for above in [false, true] {
        let place = Place::new("exclusive")?;
        let workload = place.workload();
        let cgroup = if above { place.top.path().to_owned() } else { workload.clone() };
        let _direct = Program::pass(CONNECT4, "lonely")?.direct(&cgroup, EXCLUSIVE)?;
        let found = place.check(&place.own(), "lonely (id ")?;
        let relation = if above { "above" } else { "here" };
        assert_says(&found, "fail", &["on connect4", relation, "EPERM"]);
        let error = place.weir(&place.own(), &[]).err().context("weir started")?;
        let error = format!("{error:#}");
        ensure!(error.contains("cannot attach") && error.contains("connect4"), "{error}");
        for hook in HOOKS {
            let expected = u32::from(!above && hook == CONNECT4.1);
            assert_eq!(foreign::attached(&workload, hook)?, expected, "hook {hook}");
        }
    }
    Ok(())
}

/// Of what it tells nothing depends.
#[test]
fn weir_does_without_the_setsockopt_hook_where_it_cannot_have_it() -> Result<()> {
    let place = Place::new("exclset")?;
    let _peer = server(&place)?;
    let lonely = Program::pass(SETSOCKOPT, "lonely")?.direct(&place.workload(), EXCLUSIVE)?;
    let found = place.check(&place.own(), "lonely (id ")?;
    assert_says(&found, "warn", &["on setsockopt", "EPERM", "after connect(2)"]);
    let weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    let log = weir.process.log();
    ensure!(log.contains("cannot attach setsockopt") && log.contains("lonely"), "{log}");
    ensure!(!weir.verb(&place.lab, &["status"])?.contains("setsockopt"), "it is among the hooks");
    drop((weir, lonely));
    let linked = Program::pass(SETSOCKOPT, "other")?;
    let _link = linked.link(place.top.path())?;
    let found = place.check(&place.own(), "other (id ")?;
    assert_says(&found, "ok", &["on setsockopt", "after weir's"]);
    let weir = place.weir(&place.own(), &[])?;
    ensure!(weir.verb(&place.lab, &["status"])?.contains("setsockopt"), "not among the hooks");
    Ok(())
}

#[test]
fn an_exclusive_program_below_is_not_in_the_way() -> Result<()> {
    let place = Place::new("exclbelow")?;
    let _peer = server(&place)?;
    let counters = Counters::new()?;
    let recorder = Program::recorder("recorder", &counters)?;
    let _direct = recorder.direct(&place.leaf(), EXCLUSIVE)?;
    let _weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    assert_eq!((counters.get(0)?, counters.get(1)?), (0, 1));
    Ok(())
}

/// The kernel's rule, not weir's: weir can only say so beforehand.
#[test]
fn an_overridable_program_above_gives_way_and_is_named() -> Result<()> {
    let place = Place::new("override")?;
    let _peer = server(&place)?;
    let counters = Counters::new()?;
    let recorder = Program::recorder("recorder", &counters)?;
    let _direct = recorder.direct(place.top.path(), OVERRIDE)?;
    let apart = elsewhere()?;
    let found = place.check(&apart, "recorder (id ")?;
    assert_says(&found, "warn", &["above", "replaces it in the captured cgroup"]);
    let weir = place.weir(&apart, &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    assert_eq!((counters.get(0)?, counters.get(1)?), (0, 0));
    drop(weir);
    assert_eq!(place.visit(SERVER_V4)?, Visit::Direct);
    assert_eq!(counters.get(1)?, 1, "back with weir gone");
    Ok(())
}

#[test]
fn another_weir_is_named_wherever_it_is() -> Result<()> {
    let place = Place::new("second")?;
    for (relation, cgroup) in [
        ("same", place.workload()),
        ("above", place.top.path().to_owned()),
        ("below", place.leaf()),
    ] {
        let program = Program::pass(CONNECT4, "weir_connect4")?;
        let link = program.link(&cgroup)?;
        let found = place.check(&place.own(), "captures connections")?;
        assert_says(&found, "warn", &[relation, &cgroup.display().to_string()]);
        assert_eq!(found.len(), 1, "{found:?}");
        drop(link);
    }
    assert_eq!(place.check(&place.own(), "captures connections")?, []);
    Ok(())
}

//! Port states: given on the command line, changed in a running weir, and explained.

use std::time::Duration;

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{run, wait_until};
use weir_tests::servers::mariadb;
use weir_tests::visits::{Visitor, now};
use weir_tests::weir::{Daemon, Exec, Run};

const LIMIT: Duration = Duration::from_secs(60);
/// How long the visitor's connections go on around a change.
const VISIT: Duration = Duration::from_secs(4);

#[test]
fn a_skipped_port_goes_direct_and_is_still_counted() -> Result<()> {
    let lab = Lab::new()?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let program = format!(
        "import socket\n\
         s = socket.create_connection(('{SERVER_V4}', 9000), 10)\n\
         print(s.makefile().read().split()[1] == str(s.getsockname()[1]))"
    );
    let seen = Exec::new(&lab).flags(&["--skip-outbound-ports", "8999-9001"]).python(&program)?;
    assert_eq!(seen.stdout(), "True", "the server sees the client's own port");
    assert_eq!(peer.seen().len(), 1);
    seen.records.assert_treated(9000, "skip");
    Ok(())
}

#[test]
fn opaque_ports_are_added_to_the_defaults_by_a_plus() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let _mysql = Peer::whoami(&lab.server, 3306)?;
    let program = format!(
        "import socket\n\
         for port in (9000, 3306): socket.create_connection(('{SERVER_V4}', port), 10).recv(99)"
    );
    let seen = Exec::new(&lab).flags(&["--opaque-ports", "+9000"]).python(&program)?;
    seen.records.assert_treated(9000, "opaque");
    assert_eq!(seen.records.only_connection(9000).text("source"), "config");
    seen.records.assert_treated(3306, "opaque");
    Ok(())
}

/// From the moment that `weir ports skip` returns, every new connection is direct; none fails.
#[test]
fn a_port_is_skipped_and_captured_again_while_connections_are_made() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("ports")?;
    let peer = Peer::whoami(&lab.server, 4406)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut visitor = Visitor::start(&lab, &cgroup, peer.port(), VISIT)?;
    visitor.wait_for(40)?;
    let before = now()?;
    daemon.verb(&lab, &["ports", "skip", "4406", "--outbound"])?.ok()?;
    let skipped = now()?;
    let address = format!("{SERVER_V4}:4406");
    let why = daemon.verb(&lab, &["explain", &address])?.ok()?;
    assert!(why.stdout.contains("skip"), "{}", why.stdout);
    visitor.wait_for(120)?;
    let direct = now()?;
    daemon.verb(&lab, &["ports", "detect", "4406", "--outbound"])?.ok()?;
    let again = now()?;
    let why = daemon.verb(&lab, &["explain", &address])?.ok()?;
    assert!(why.stdout.contains("detect"), "{}", why.stdout);
    let visits = visitor.finish()?;
    visits.assert_no_error();
    let stale = daemon.stale()?;
    visits.assert_all_proxied(0, before, stale);
    visits.assert_all_direct(skipped, direct);
    visits.assert_all_proxied(again, u64::MAX, stale);
    Ok(())
}

#[test]
fn hits_of_a_skip_rule_are_counted() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("hits")?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let daemon = Daemon::start(&lab, &cgroup, &["--skip-outbound-ports", "9000"])?;
    let program = format!(
        "import socket\n\
         for _ in range(7): socket.create_connection(('{SERVER_V4}', 9000), 10).recv(99)"
    );
    let mut client = lab.client.command(weir_tests::fixture::PYTHON);
    client.args(["-c", &program]);
    run(&mut cgroup.wrap(&client), Duration::from_secs(20))?.ok()?;
    let list = daemon.verb(&lab, &["ports", "list", "-o", "json"])?.ok()?;
    let report: serde_json::Value = serde_json::from_str(&list.stdout)?;
    let rules = report["rules"].as_array().cloned().unwrap_or_default();
    let hits = rules.iter().filter(|rule| rule.to_string().contains("9000"));
    let hits: u64 = hits.filter_map(|rule| rule["hits"].as_u64()).sum();
    assert_eq!(hits, 7, "{report:#}");
    Ok(())
}

/// The server says who is connected, and `ss` beside the client says the same.
#[test]
fn mariadb_sees_the_clients_own_port_only_when_it_is_skipped() -> Result<()> {
    let lab = Lab::new()?;
    let _server = mariadb::start(&lab, mariadb::PORT)?;
    let line = mariadb::whoami(SERVER_V4, mariadb::PORT);
    let captured = Exec::new(&lab).ok(&line)?;
    assert!(!mariadb::saw_own_port(captured.stdout())?, "{}", captured.stdout());
    let skipped = Exec::new(&lab).flags(&["--skip-outbound-ports", "4406"]).ok(&line)?;
    assert!(mariadb::saw_own_port(skipped.stdout())?, "{}", skipped.stdout());
    Ok(())
}

/// The ports of `weir ports diff`, each list as it is written.
fn different(daemon: &Daemon) -> Result<Vec<String>> {
    let found = daemon.json(&["ports", "diff"])?;
    let all = found.as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter_map(|it| Some(it["ports"].as_str()?.to_owned())).collect())
}

#[test]
fn ports_are_put_back_on_request_and_when_their_time_is_over() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("back")?;
    let daemon = Daemon::start(&lab, &cgroup, &["--skip-outbound-ports", "9000"])?;
    assert!(different(&daemon)?.is_empty());
    daemon.ask(&["ports", "detect", "9000", "--outbound"])?.ok()?;
    daemon.ask(&["ports", "opaque", "9100", "--outbound"])?.ok()?;
    daemon.ask(&["ports", "skip", "9200", "--outbound", "--for", "1s"])?.ok()?;
    daemon.ask(&["ports", "skip", "9300", "--outbound", "--for", "1h"])?.ok()?;
    let list = daemon.ask(&["ports", "list"])?.ok()?.stdout;
    let line = list.lines().find(|line| line.contains("9300")).unwrap_or_default();
    assert!(line.contains("59m") || line.contains("1h00m"), "{list}");
    wait_until("a port to be put back", LIMIT, || Ok(different(&daemon)?.len() == 3))?;
    assert_eq!(different(&daemon)?, ["9000", "9100", "9300"]);
    let diff = daemon.ask(&["ports", "diff"])?.ok()?.stdout;
    assert!(diff.contains("outbound 9000: skip (config) -> detect (cli)\n"), "{diff}");
    daemon.ask(&["ports", "reset", "9100"])?.ok()?;
    assert_eq!(different(&daemon)?, ["9000", "9300"]);
    let text = daemon.ask(&["ports", "reset", "--all"])?.ok()?.stdout;
    assert!(text.contains("outbound 9000: detect (cli) -> skip (config)\n"), "{text}");
    assert!(different(&daemon)?.is_empty());
    let why = daemon.ask(&["explain", &format!("{SERVER_V4}:9000")])?.ok()?;
    assert!(why.stdout.contains("skip (config)"), "{}", why.stdout);

    let log = daemon.process.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ports changed")).collect();
    assert_eq!(lines.len(), 8, "{log}");
    for words in ["caller.uid=0", "caller.pid=", "from=\"skip (config)\"", "to=\"detect (cli)\""] {
        assert!(lines[0].contains(words), "no {words} in {}", lines[0]);
    }
    assert!(lines.iter().any(|line| line.contains("time is over") && line.contains("9200")));
    Ok(())
}

#[test]
fn a_change_for_a_time_ends_with_the_process() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("passing")?;
    let run = || Run::new(&lab.client, lab.dir()).workload("client", &cgroup, None);
    let mut first = run().start()?;
    let skip = |daemon: &Daemon, flags: &[&str]| {
        let line = [&["ports", "skip", "--outbound"], flags].concat();
        daemon.ask(&line)?.ok().map(drop)
    };
    skip(&first, &["9000", "--for", "1h"])?;
    skip(&first, &["9100"])?;
    // What lasted before is what comes back.
    first.ask(&["ports", "opaque", "9200", "--outbound"])?.ok()?;
    skip(&first, &["9200", "--for", "1h"])?;
    // One that is set again without a time stays.
    skip(&first, &["9400", "--for", "1h"])?;
    skip(&first, &["9400"])?;
    let check = |daemon: &Daemon| -> Result<()> {
        assert_eq!(different(daemon)?, ["9100,9400", "9200"]);
        let diff = daemon.ask(&["ports", "diff"])?.ok()?.stdout;
        assert!(diff.contains("outbound 9200: detect (default) -> opaque (cli)\n"), "{diff}");
        Ok(())
    };
    first.process.kill_hard()?;
    let second = run().after(&first).start()?;
    check(&second)?;
    skip(&second, &["9000", "--for", "1h"])?;
    skip(&second, &["9200", "--for", "1h"])?;
    let third = run().flags(&["--upgrade"]).after(&second).start()?;
    check(&third)
}

//! What one workload does is no other's loss: connections never cross, attempts that come to nothing
//! leave nothing, and who has used up a share goes direct.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use nix::sys::signal::Signal;
use weir_common::{Shares, maps};
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture;
use weir_tests::metrics::{self, Metrics};
use weir_tests::netns::Netns;
use weir_tests::peer::Peer;
use weir_tests::pods::{CLIENT, Pods};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::{PATIENCE, is_captured};
use weir_tests::soak::holdings::{entries_of, maps_of};
use weir_tests::visits::{Outcome, visit};
use weir_tests::weir::{Daemon, Run};

const PORT: u16 = 19_300;

/// Prints `connected`, then what the server says.
const CLIENT_PROGRAM: &str = "import socket, sys\n\
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)\n\
    print('connected', flush=True)\n\
    print(c.makefile().read(), flush=True)";

/// weir on the node, with pod A as a workload.
fn capture(pods: &Pods) -> Result<Daemon> {
    let run = Run::new(&pods.node, pods.dir()).flags(&metrics::FLAGS);
    run.workload("a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns)).start()
}

fn sysctl(netns: &Netns, setting: &str) -> Result<()> {
    let mut command = netns.command("sysctl");
    command.args(["-qw", setting]);
    run(&mut command, PATIENCE)?.ok().map(drop)
}

/// Tells each client its own port.
fn says_its_port(netns: &Netns, port: u16) -> Result<Peer> {
    Peer::start(netns, port, move |mut stream| write!(stream, "{port}"))
}

/// How often the hooks decided so for workload a.
fn decisions(pods: &Pods, direction: &str, reason: &str) -> Result<f64> {
    let labels =
        ["workload=\"a\"", &format!("direction=\"{direction}\""), &format!("reason=\"{reason}\"")];
    Ok(Metrics::scrape(&pods.node)?.sum("weir_kernel_decisions_total", &labels))
}

/// Gives two workloads other shares than weir has. Lasts until a workload comes or goes.
fn share_out(pinned: &Path, other: Shares) -> Result<()> {
    let data = MapData::from_pin(pinned.join(maps::SHARES)).context("no map SHARES")?;
    let mut shares = Array::<_, Shares>::try_from(Map::Array(data))?;
    wait_until("the shares of two workloads", PATIENCE, || {
        Ok(shares.get(&0, 0)? == Shares::among(2))
    })?;
    Ok(shares.set(0, other, 0)?)
}

fn says(process: &Process, word: &str) -> bool {
    process.log().lines().any(|line| line.starts_with(word))
}

/// Guards against notes that are keyed by the source alone: with one local port for both, the kernel
/// gives it to both, since they go to two listeners.
#[test]
fn connections_of_two_workloads_from_one_port_reach_each_its_own_server() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods)?;
    let (netns, other) = (&pods.pod_a.netns, Cgroup::new("other")?);
    daemon.add("b", &other, netns, &[])?;
    let servers = [PORT, PORT + 1];
    let _peers: Vec<Peer> = servers
        .iter()
        .map(|port| says_its_port(&pods.client_a.netns, *port))
        .collect::<Result<_>>()?;
    sysctl(netns, "net.ipv4.ip_local_port_range=40000 40000")?;
    let client = |cgroup: &Path, port: u16| -> Result<Process> {
        let mut command: Command = netns.command_in(cgroup, fixture::PYTHON);
        command.args(["-c", CLIENT_PROGRAM, CLIENT[0], &port.to_string()]);
        Process::start(&format!("client-{port}"), command, pods.dir())
    };
    // Neither is dialled for before both are on their way.
    let pinned = maps_of(&daemon)?;
    daemon.process.signal(Signal::SIGSTOP)?;
    let clients =
        [client(pods.pod_a.cgroup().path(), servers[0])?, client(other.path(), servers[1])?];
    let noted = wait_until("both connections", PATIENCE, || {
        Ok(entries_of(&pinned, maps::PENDING)? == clients.len())
    });
    daemon.process.signal(Signal::SIGCONT)?;
    noted?;
    for (mut client, port) in clients.into_iter().zip(servers) {
        client.wait(PATIENCE)?;
        let log = client.log();
        ensure!(log.trim().ends_with(&format!("\n{port}")), "asked {port}, got:\n{log}");
    }
    Ok(())
}

/// A weir that is stopped dials for no workload: the attempts hang.
#[test]
fn attempts_that_end_leave_no_note_and_more_than_a_share_goes_direct() -> Result<()> {
    const SHARE: usize = 4;
    const ATTEMPTS: usize = 12;
    let pods = Pods::new()?;
    let netns = &pods.pod_a.netns;
    let daemon = capture(&pods)?;
    daemon.add("b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    let _peer = says_its_port(&pods.client_a.netns, PORT)?;
    let pinned = maps_of(&daemon)?;
    share_out(&pinned, Shares { in_flight: SHARE as u32, ..Shares::among(2) })?;

    let mut hanging = 0;
    for attempt in 0.. {
        daemon.process.signal(Signal::SIGSTOP)?;
        let mut command = fixture::command(netns, "connects.py");
        command.args([CLIENT[0], &PORT.to_string(), &ATTEMPTS.to_string()]);
        let name = format!("connects-{attempt}");
        let mut client = Process::start(&name, command, pods.dir())?;
        let begun = wait_until("the attempts", PATIENCE, || Ok(says(&client, "begun")));
        let noted = entries_of(&pinned, maps::PENDING);
        client.kill_hard()?;
        // The hooks see the end; weir has no part in it.
        let gone =
            wait_until(
                "the notes to go",
                PATIENCE,
                || Ok(entries_of(&pinned, maps::PENDING)? == 0),
            );
        daemon.process.signal(Signal::SIGCONT)?;
        begun?;
        gone?;
        hanging = noted?;
        ensure!(hanging <= SHARE, "{hanging} notes with a share of {SHARE}");
        // On a slow machine weir may have been taken for dead before the attempts began.
        if hanging > 0 || attempt == 20 {
            break;
        }
        wait_until("weir's heartbeat", PATIENCE, || {
            Ok(decisions(&pods, "outbound", "redirected").is_ok())
        })?;
    }
    ensure!(hanging > 0, "no attempt hung, so that nothing was tried");
    ensure!(decisions(&pods, "outbound", "pending_full")? > 0.0, "no attempt went direct");
    // The share is free again, and the neighbour has not noticed.
    let listener = pods.client_a.listen(format!("{}:{}", CLIENT[0], PORT + 1).parse()?)?;
    wait_until("a to be captured", PATIENCE, || {
        is_captured(&pods.pod_a, listener.local_addr()?, &listener)
    })?;
    let listener = pods.client_b.listen(format!("{}:{}", CLIENT[0], PORT + 1).parse()?)?;
    ensure!(is_captured(&pods.pod_b, listener.local_addr()?, &listener)?, "b is not captured");
    Ok(())
}

/// What is beyond the share of listening sockets is not captured, and said; a neighbour's is.
#[test]
fn listeners_beyond_the_share_go_direct_and_are_counted() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods)?;
    daemon.add("b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    let pinned = maps_of(&daemon)?;
    share_out(&pinned, Shares { listening: 2, ..Shares::among(2) })?;
    let on = |pod: &weir_tests::site::Site, port: u16| {
        pod.listen(format!("[::]:{port}").parse()?).context("listen")
    };
    let pod = &pods.pod_a;
    let listeners = [on(pod, PORT)?, on(pod, PORT + 1)?, on(pod, PORT + 2)?];
    let address = |port: u16| format!("{}:{port}", weir_tests::pods::POD[0]).parse();
    for (listener, (port, captured)) in
        listeners.iter().zip([(PORT, true), (PORT + 1, true), (PORT + 2, false)])
    {
        ensure!(
            is_captured(&pods.client_a, address(port)?, listener)? == captured,
            "port {port}: captured is not {captured}"
        );
    }
    ensure!(decisions(&pods, "inbound", "listening_full")? == 1.0, "not counted");
    let listener = on(&pods.pod_b, PORT)?;
    ensure!(is_captured(&pods.client_b, address(PORT)?, &listener)?, "b pays for it");
    // One less, and the next one has a place.
    let [first, ..] = listeners;
    weir_tests::site::close(pod, first)?;
    let listener = on(pod, PORT + 3)?;
    ensure!(is_captured(&pods.client_a, address(PORT + 3)?, &listener)?, "no place was given back");
    Ok(())
}

/// PrivateNetwork=, bubblewrap, rootless containers: the cgroup is the workload's, the namespace is not.
#[test]
fn a_process_of_the_cgroup_in_another_namespace_goes_direct() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods)?;
    let cgroup = pods.pod_a.cgroup().path();
    // Pod B's namespace has nothing of weir's; its client host is the server.
    let outside = Peer::whoami(&pods.client_b.netns, PORT)?;
    let elsewhere = Netns::new("elsewhere")?;
    elsewhere.cable_as(
        "eth9",
        ["10.79.0.1/24", "fd79::1/64"],
        &pods.client_b.netns,
        ["10.79.0.2/24", "fd79::2/64"],
    )?;
    let went = visit(&elsewhere, cgroup, ("10.79.0.2", outside.port()), "10.79.0.2")?;
    ensure!(went == Outcome::Direct, "{went:?}");
    let inside = Peer::whoami(&pods.client_a.netns, PORT)?;
    let went = visit(&pods.pod_a.netns, cgroup, (CLIENT[0], inside.port()), CLIENT[0])?;
    ensure!(went == Outcome::Proxied, "{went:?}");
    ensure!(decisions(&pods, "outbound", "other_netns")? == 1.0, "not counted");
    wait_until("one warning", Duration::from_secs(30), || {
        Ok(daemon.process.log().contains("reason other_netns"))
    })?;
    // What it listens on there is not taken for the workload's: no socket listens there in pod A.
    let mut command = elsewhere.command_in(cgroup, fixture::PYTHON);
    let program = format!(
        "import socket, time\ns = socket.create_server(('', {PORT}))\nprint('listens', flush=True)\ntime.sleep(600)"
    );
    command.args(["-c", &program]);
    let server = Process::start("elsewhere", command, pods.dir())?;
    wait_until("the server elsewhere", PATIENCE, || Ok(says(&server, "listens")))?;
    let refused = pods.client_a.connect(format!("{}:{PORT}", weir_tests::pods::POD[0]).parse()?);
    let error = refused.err().context("weir accepted for a listener of another namespace")?;
    ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
    Ok(())
}

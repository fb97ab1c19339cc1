//! What a workload cannot reach by way of weir: weir connects from the workload's own namespace, to
//! where the kernel has seen the workload go, and nowhere else.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::engine::Engine;
use weir_tests::fixture;
use weir_tests::metrics::{self, Metrics};
use weir_tests::peer::Peer;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{run, wait_until};
use weir_tests::site::{PATIENCE, join};
use weir_tests::weir::{Daemon, Run};
use weir_tests::wire::reset;
use weir_tests::{
    Lab,
    netns::{Netns, ip},
};

/// Of the listener that only weir's namespace reaches.
const SECRET: u16 = 19_100;
/// Of the server that the workload may talk to.
const SERVER: u16 = 19_200;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// On loopback of weir's own namespace, for both families. A client that gets here came through
/// weir.
fn secret(node: &Netns) -> Result<Peer> {
    Peer::start(node, SECRET, |mut stream| stream.write_all(b"the secret"))
}

/// weir on the node with a workload in pod A, connections to loopback included.
fn capture(pods: &Pods, engine: Engine) -> Result<Daemon> {
    let run = Run::new(&pods.node, pods.dir()).flags(&["--capture-loopback"]);
    let run = run.flags(&engine.flags()).flags(&metrics::FLAGS);
    run.workload("pod-a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns)).start()
}

/// The connection ends without a byte.
fn gets_nothing(connected: std::io::Result<TcpStream>, request: &[u8]) -> Result<()> {
    let Ok(mut stream) = connected else { return Ok(()) };
    // It may be reset before or while we speak.
    let _reset_already = stream.write_all(request);
    let mut answer = [0; 64];
    match stream.read(&mut answer) {
        Ok(0) => Ok(()),
        Ok(count) => bail!("it got {}", answer[..count].escape_ascii()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("it hangs"),
        Err(_) => Ok(()),
    }
}

/// Requests that name another destination than the connection's.
fn forged() -> Vec<Vec<u8>> {
    let secret = format!("127.0.0.1:{SECRET}");
    let authority = [&[0x41, 15][..], secret.as_bytes()].concat();
    let block = [&[0x82, 0x86, 0x84][..], &authority].concat();
    let length = u8::try_from(block.len()).expect("a short block");
    let http2 = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        [&[0, 0, length, 1, 5, 0, 0, 0, 1][..], &block].concat(),
    ];
    vec![
        format!("GET http://{secret}/ HTTP/1.1\r\nHost: {secret}\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: {secret}\r\nX-Forwarded-Host: {secret}\r\n\r\n").into(),
        format!("CONNECT {secret} HTTP/1.1\r\nHost: {secret}\r\n\r\n").into_bytes(),
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 1234 {SECRET}\r\nGET / HTTP/1.1\r\n\r\n").into(),
        http2.concat(),
    ]
}

#[test]
fn what_only_weirs_namespace_reaches_is_not_reached_by_way_of_weir() -> Result<()> {
    for engine in Engine::ALL {
        let pods = Pods::new()?;
        let secret = secret(&pods.node)?;
        let (daemon, pod) = (capture(&pods, engine)?, &pods.pod_a);
        // By address: captured, and dialled in the pod, where no socket listens.
        for ip in ["127.0.0.1", "::1"] {
            gets_nothing(pod.connect(at(ip, SECRET)), b"GET / HTTP/1.1\r\n\r\n")?;
        }
        // By what is said on a connection to another destination.
        let server = pods.client_a.listen(at("::", SERVER))?;
        for (request, ip) in forged().iter().zip(CLIENT.iter().cycle()) {
            let wire = join(pod, at(ip, SERVER), &server)?;
            (&wire.client).write_all(request)?;
            let mut first = [0; 3];
            (&wire.server).read_exact(&mut first).context("the server it was meant for")?;
            ensure!(request.starts_with(&first), "{engine}: it got {first:?}");
            drop(wire.server);
            gets_nothing(Ok(wire.client), b"").or_else(|error| {
                // The terminating engine says in its own words that there was no answer.
                ensure!(engine == Engine::Terminate, "{error}");
                Ok(())
            })?;
        }
        ensure!(secret.seen().is_empty(), "{engine}: reached from {:?}", secret.seen());
        // It can be reached, though.
        let mut direct = pods.node.enter(|| TcpStream::connect(("127.0.0.1", SECRET)))??;
        let mut said = String::new();
        direct.read_to_string(&mut said)?;
        ensure!(said == "the secret", "{said}");
        drop(daemon);
    }
    Ok(())
}

/// One for each family, for outbound connections another one of IPv4 and four of IPv6.
const LISTENERS: usize = 7;

/// weir's own ports in the pod: those that are there with weir and were not before.
fn own_ports(pods: &Pods) -> Result<Vec<u16>> {
    let ports: Vec<u16> = pods.pod_a.netns.listening_ports()?.into_iter().collect();
    ensure!(ports.len() == LISTENERS, "{LISTENERS} listeners expected: {ports:?}");
    Ok(ports)
}

#[test]
fn whoever_connects_to_weirs_listener_itself_is_refused_and_counted() -> Result<()> {
    let pods = Pods::new()?;
    let secret = secret(&pods.node)?;
    let (daemon, pod) = (capture(&pods, Engine::Passthrough)?, &pods.pod_a);
    let (mut tried, requests) = (0, forged());
    for port in own_ports(&pods)? {
        for ip in ["127.0.0.1", "::1"] {
            for request in &requests {
                gets_nothing(pod.connect(at(ip, port)), request)?;
                tried += 1;
            }
        }
    }
    ensure!(secret.seen().is_empty(), "reached from {:?}", secret.seen());
    // One family of each port is weir's; with --capture-loopback that is a loop. The other's was
    // captured, and refused by the kernel in the pod.
    let mut refused = 0;
    wait_until("the records", PATIENCE, || {
        let records = daemon.records()?;
        let ends = own_ports(&pods)?.into_iter().flat_map(|port| {
            let ends = records.connections(port).into_iter().map(|record| record.text("close"));
            ends.collect::<Vec<_>>()
        });
        refused = ends.filter(|end| end == "loop" || end == "no_original_destination").count();
        Ok(refused >= tried / 2)
    })
    .with_context(|| format!("{refused} of {tried} recorded as refused"))?;
    let metrics = Metrics::scrape(&pods.node)?;
    let counted = metrics.sum("tcp_close_total", &["peer=\"src\"", "errno=\""]);
    ensure!(counted >= refused as f64, "{counted} counted:\n{}", metrics.text());
    Ok(())
}

/// A process outside of the workload's cgroup, in its namespace: no hook sees it.
#[test]
fn a_listener_that_is_found_from_beside_the_workload_refuses() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, Engine::Terminate)?;
    for port in own_ports(&pods)? {
        for request in forged() {
            let netns = &pods.pod_a.netns;
            for ip in ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().expect("an address")) {
                let connected = netns.enter(|| {
                    let stream = TcpStream::connect((ip, port))?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Ok(stream)
                })?;
                gets_nothing(connected, &request)?;
            }
        }
    }
    let refused = |daemon: &Daemon| -> Result<bool> {
        let records = daemon.records()?;
        Ok(own_ports(&pods)?.into_iter().all(|port| {
            let all = records.connections(port);
            let refused = |end: &str| end == "no_original_destination";
            all.len() >= forged().len() && all.iter().all(|record| refused(&record.text("close")))
        }))
    };
    wait_until("the records", PATIENCE, || refused(&daemon))
}

/// What listens on every address of the loopback interface takes nothing that comes by another one, nor
/// by an address of another one: there the kernel answers as without weir.
#[test]
fn listeners_are_found_at_loopback_addresses_only() -> Result<()> {
    const ON_LOOPBACK: &str = "10.77.9.9";
    let pods = Pods::new()?;
    let netns = &pods.pod_a.netns;
    let device = ["-n", netns.name(), "address", "add", ON_LOOPBACK, "dev", "lo"];
    ip(&device)?;
    let client = ["-n", pods.client_a.netns.name(), "route", "add", ON_LOOPBACK, "via", POD[0]];
    ip(&client)?;
    let _daemon = capture(&pods, Engine::Passthrough)?;
    for port in own_ports(&pods)? {
        for ip in [POD[0], POD[1], ON_LOOPBACK] {
            let error = pods.client_a.connect(at(ip, port)).expect_err("from outside");
            ensure!(error.kind() == ErrorKind::ConnectionRefused, "{ip} {port}: {error}");
        }
        for ip in [POD[0], POD[1]] {
            let error = netns.enter(|| TcpStream::connect(at(ip, port)))?.expect_err("from inside");
            ensure!(error.kind() == ErrorKind::ConnectionRefused, "{ip} {port}: {error}");
        }
        for ip in ["127.0.0.1", "127.64.1.2", "127.255.0.1", ON_LOOPBACK] {
            gets_nothing(pods.pod_a.connect(at(ip, port)), &forged()[0])?;
            let connected = netns.enter(|| {
                let stream = TcpStream::connect(at(ip, port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            })?;
            gets_nothing(connected, &forged()[0])?;
        }
    }
    Ok(())
}

/// The note that the kernel leaves about a connection that ended before weir accepted it, taken for
/// one about the next from the same port: it may lead nowhere but where the first was going.
#[test]
fn a_note_about_another_connection_leads_nowhere_else() -> Result<()> {
    let pods = Pods::new()?;
    let secret = secret(&pods.node)?;
    let (daemon, pod) = (capture(&pods, Engine::Passthrough)?, &pods.pod_a);
    let server = Peer::start(&pods.client_a.netns, SERVER, |mut stream| {
        stream.read_to_end(&mut Vec::new()).map(drop)
    })?;
    let ports = own_ports(&pods)?;
    for round in 0..20 {
        let source = at(POD[0], 20_000 + round);
        // Reset at once: weir may see it or not.
        reset(pod.connect_from(source, at(CLIENT[0], SERVER))?)?;
        for port in &ports {
            let request = &forged()[2];
            gets_nothing(pod.connect_from(source, at("127.0.0.1", *port)), request)?;
        }
    }
    ensure!(secret.seen().is_empty(), "reached from {:?}", secret.seen());
    let own = POD[0].parse::<IpAddr>()?;
    ensure!(server.seen().iter().all(|seen| seen.ip() == own), "{:?}", server.seen());
    drop(daemon);
    Ok(())
}

/// Connects to each port on loopback and shows what it gets.
const VISIT: &str = "
import socket, sys
for port in map(int, sys.argv[1:]):
    for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
        with socket.socket(family) as s:
            s.settimeout(20)
            try:
                s.connect((host, port))
                s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
                print(host, port, s.recv(100) or 'nothing')
            except ConnectionError:
                print(host, port, 'nothing')
";

/// Two workloads of one namespace, as on a machine without containers.
#[test]
fn a_workload_gets_nothing_from_another_workloads_listener() -> Result<()> {
    let (lab, a, b) = (Lab::new()?, Cgroup::new("a")?, Cgroup::new("b")?);
    let secret = secret(&lab.server)?;
    let daemon = Daemon::start(&lab, &a, &["--capture-loopback"])?;
    daemon.add("b", &b, &lab.client, &["--capture-loopback"])?;
    let ports: Vec<String> =
        lab.client.listening_ports()?.into_iter().map(|port| port.to_string()).collect();
    ensure!(ports.len() == 2 * LISTENERS, "{LISTENERS} for each workload expected: {ports:?}");
    for cgroup in [&a, &b] {
        let mut command = lab.client.command(fixture::PYTHON);
        command.args(["-c", VISIT]).args(&ports);
        let said = run(&mut cgroup.wrap(&command), PATIENCE * 8)?.ok()?.stdout;
        let lines: Vec<_> = said.lines().collect();
        ensure!(lines.len() == 4 * LISTENERS, "{said}");
        ensure!(lines.iter().all(|line| line.ends_with(" nothing")), "{said}");
    }
    ensure!(secret.seen().is_empty(), "reached from {:?}", secret.seen());
    Ok(())
}

//! `weir explain` says what the hooks do, for every class of addresses and both directions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::fixture;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{run, wait_until};
use weir_tests::site::{PATIENCE, Site};
use weir_tests::weir::{Daemon, Run};

/// Where the servers listen, on every address.
const PORT: u16 = 9200;
/// Where no socket listens.
const CLOSED: u16 = 9201;
/// Of the pod and of its client, on a cable of their own: class E and unique local.
const CLASS_E: [&str; 2] = ["240.9.0.1", "240.9.0.2"];
const UNIQUE_LOCAL: [&str; 2] = ["fd99::1", "fd99::2"];
/// On another one: link-local.
const LINK_LOCAL4: [&str; 2] = ["169.254.9.1", "169.254.9.2"];
const LINK_LOCAL6: [&str; 2] = ["fe80::99:1", "fe80::99:2"];

/// Two pods with addresses of every class, and weir for pod A.
fn capture(flags: &[&str]) -> Result<(Pods, Daemon)> {
    let pods = Pods::new()?;
    let (pod, client) = (&pods.pod_a, &pods.client_a);
    let cables = [("eth8", CLASS_E, UNIQUE_LOCAL), ("eth9", LINK_LOCAL4, LINK_LOCAL6)];
    for (device, v4, v6) in cables {
        let [here, there] =
            [0, 1].map(|end| [format!("{}/24", v4[end]), format!("{}/64", v6[end])]);
        let [here, there] = [&here, &there].map(|list| list.each_ref().map(String::as_str));
        pod.netns.cable_as(device, here, &client.netns, there)?;
    }
    let run = Run::new(&pods.node, pods.dir());
    let daemon = run.workload("pod-a", pod.cgroup(), Some(&pod.netns)).flags(flags).start()?;
    wait_until("the routes to be known", PATIENCE, || {
        Ok(explain(&daemon, "outbound", (CLASS_E[1], PORT))?.to_string().contains("yes: from"))
    })?;
    Ok((pods, daemon))
}

/// What `weir explain` says.
fn explain(daemon: &Daemon, direction: &str, to: (&str, u16)) -> Result<serde_json::Value> {
    let address = SocketAddr::new(to.0.parse()?, to.1).to_string();
    let mut line = vec!["explain", &address, "--workload", "pod-a"];
    line.extend((direction == "inbound").then_some("--inbound"));
    let explanations = daemon.json(&line)?;
    explanations.get(0).cloned().with_context(|| format!("no explanation: {explanations}"))
}

/// How often the hooks of one direction have counted each reason.
fn counted(daemon: &Daemon, direction: &str) -> Result<BTreeMap<String, u64>> {
    let status = daemon.json(&["status"])?;
    let workload = &status["kernel"]["workloads"]["pod-a"];
    ensure!(workload.is_object(), "no counters: {status}");
    // Absent before the first decision.
    let counts: Option<_> = serde_json::from_value(workload[direction].clone())?;
    Ok(counts.unwrap_or_default())
}

/// Asks `weir explain`, has `connect` make a connection, and compares the answer with what the hooks have
/// counted. Returns the reason.
fn compare(
    daemon: &Daemon,
    direction: &str,
    to: (&str, u16),
    connect: impl FnOnce() -> Result<()>,
) -> Result<Option<String>> {
    let explained = explain(daemon, direction, to)?;
    let reason = explained["reason"].as_str().map(str::to_owned);
    let before = counted(daemon, direction)?;
    connect()?;
    let after = counted(daemon, direction)?;
    let made = |(reason, count): (&String, &u64)| {
        let more = count - before.get(reason).copied().unwrap_or_default();
        // Of weir's own connections to the workload, which follow those that it has accepted.
        let follows = direction == "inbound" && reason == "from_inside";
        (more > 0).then(|| (reason.clone(), follows))
    };
    let made: Vec<_> = after.iter().filter_map(made).collect();
    let same = match &reason {
        Some(reason) => {
            made.iter().any(|(made, _)| made == reason)
                && made.iter().all(|(made, follows)| made == reason || *follows)
        }
        None => made.iter().all(|(_, follows)| *follows),
    };
    ensure!(same, "{direction} {to:?}: the hooks counted {made:?}, explained as {explained:#}");
    Ok(reason)
}

/// Compares a table of addresses and expected reasons.
fn check(
    daemon: &Daemon,
    direction: &str,
    table: &[(&str, u16, Option<&str>)],
    mut connect: impl FnMut(&str, u16) -> Result<()>,
) -> Result<()> {
    for (ip, port, expected) in table {
        let reason = compare(daemon, direction, (ip, *port), || connect(ip, *port))?;
        ensure!(reason.as_deref() == *expected, "{direction} {ip} {port}: {reason:?}");
    }
    Ok(())
}

#[test]
fn outbound_every_address_is_explained_as_the_hooks_decide() -> Result<()> {
    let redirected = Some("redirected");
    let mapped = format!("::ffff:{}", CLIENT[0]);
    for loopback in [false, true] {
        let flags: &[&str] = if loopback { &["--capture-loopback"] } else { &[] };
        let (pods, daemon) = capture(flags)?;
        let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, PORT).into();
        let _servers = [pods.client_a.listen(any)?, pods.pod_a.listen(any)?];
        let of_loopback = |listened: bool| match (loopback, listened) {
            (false, _) => Some("loopback"),
            (true, true) => redirected,
            (true, false) => Some("not_listening"),
        };
        let table = [
            (CLIENT[0], PORT, redirected),
            (CLIENT[1], PORT, redirected),
            (&*mapped, PORT, redirected),
            (CLASS_E[1], PORT, redirected),
            (UNIQUE_LOCAL[1], PORT, redirected),
            (LINK_LOCAL4[1], PORT, redirected),
            (LINK_LOCAL6[1], PORT, Some("link_local")),
            ("224.0.0.1", PORT, Some("no_route")),
            ("239.1.2.3", PORT, Some("no_route")),
            ("ff02::1", PORT, Some("no_route")),
            ("255.255.255.255", PORT, Some("no_route")),
            // Of the client's network.
            ("10.77.0.255", PORT, Some("no_route")),
            ("192.0.2.1", PORT, Some("no_route")),
            // The pod's own.
            (POD[0], PORT, redirected),
            (POD[1], PORT, redirected),
            (CLASS_E[0], PORT, redirected),
            (POD[0], CLOSED, Some("not_listening")),
            (POD[1], CLOSED, Some("not_listening")),
            ("127.0.0.1", PORT, of_loopback(true)),
            ("127.1.2.3", PORT, of_loopback(true)),
            ("::ffff:127.0.0.1", PORT, of_loopback(true)),
            ("::1", PORT, of_loopback(true)),
            ("0.0.0.0", PORT, of_loopback(true)),
            ("::", PORT, of_loopback(true)),
            ("127.0.0.1", CLOSED, of_loopback(false)),
            ("::1", CLOSED, of_loopback(false)),
        ];
        // Kept, so that no segment of one is counted with the next.
        let mut open = Vec::new();
        check(&daemon, "outbound", &table, |ip, port| {
            let connected = pods.pod_a.connect(SocketAddr::new(ip.parse()?, port));
            open.extend(connected.ok());
            Ok(())
        })?;
    }
    Ok(())
}

/// Connects from a namespace to an address that may have a scope, and closes.
fn visit(client: &Site, host: &str, port: u16) -> Result<()> {
    let program = format!("import socket; socket.create_connection(('{host}', {port}), 20)");
    let mut command = client.netns.command(fixture::PYTHON);
    run(command.args(["-c", &program]), Duration::from_secs(60))?.ok()?;
    Ok(())
}

#[test]
fn inbound_every_address_is_explained_as_the_hooks_decide() -> Result<()> {
    let (pods, daemon) = capture(&[])?;
    let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, PORT).into();
    let _server = pods.pod_a.listen(any)?;
    let mapped = format!("::ffff:{}", POD[0]);
    let mut open = Vec::new();
    let inside = Some("from_inside");
    let loopback = [
        ("127.0.0.1", PORT, inside),
        ("127.1.2.3", PORT, inside),
        ("::ffff:127.0.0.1", PORT, inside),
        ("::1", PORT, inside),
    ];
    check(&daemon, "inbound", &loopback, |ip, port| {
        open.push(pods.pod_a.connect(SocketAddr::new(ip.parse()?, port))?);
        Ok(())
    })?;
    let redirected = Some("redirected");
    let table = [
        (POD[0], PORT, redirected),
        (POD[1], PORT, redirected),
        (&*mapped, PORT, redirected),
        (CLASS_E[0], PORT, redirected),
        (UNIQUE_LOCAL[0], PORT, redirected),
        (LINK_LOCAL4[0], PORT, redirected),
        (POD[0], CLOSED, Some("not_listening")),
        (POD[1], CLOSED, Some("not_listening")),
        // The kernel lets none of these leave the client, and would discard them.
        ("224.0.0.1", PORT, None),
        ("ff02::1", PORT, None),
        ("255.255.255.255", PORT, None),
    ];
    check(&daemon, "inbound", &table, |ip, port| {
        open.extend(pods.client_a.connect(SocketAddr::new(ip.parse()?, port)).ok());
        Ok(())
    })?;
    check(&daemon, "inbound", &[(LINK_LOCAL6[0], PORT, redirected)], |ip, port| {
        visit(&pods.client_a, &format!("{ip}%eth9"), port)
    })
}

//! What weir says: neither its log, nor records, metrics or answers have in them what the
//! application keeps secret.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use weir_tests::engine::Engine;
use weir_tests::metrics::{self, Metrics};
use weir_tests::pods::{CLIENT, Pods};
use weir_tests::process::wait_until;
use weir_tests::site::{PATIENCE, Site, join, read_all};
use weir_tests::weir::{Daemon, Run};

/// Where each of them was said: nothing else has this in it.
const MARK: &str = "hunter2";
const PORT: u16 = 19_000;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nSet-Cookie: c=hunter2-cookie\r\n\r\n\
    hunter2-body";

/// Requests, each with how many bytes of it are enough to answer.
fn requests() -> Vec<Vec<u8>> {
    let http1 = [
        "POST /path?token=hunter2-query HTTP/1.1\r\nHost: host.test\r\n\
         Authorization: Bearer hunter2-bearer\r\nCookie: a=hunter2-sent\r\nContent-Length: 12\r\n\r\n\
         hunter2-body",
        "GET http://user:hunter2-userinfo@host.test/absolute#hunter2-fragment HTTP/1.1\r\n\
         Authorization: Basic hunter2-basic\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user:hunter2-host@host.test\r\n\r\n",
        // What cannot be followed or is refused is not shown either.
        "GET /path HTTP/1.1\r\nHost: host.test\r\nContent-Length: hunter2-length\r\n\r\n",
        "GET /path HTTP/1.1\r\nHost: host.test\r\nhunter2 name: hunter2-value\r\n\r\n",
        "POST /chunks HTTP/1.1\r\nHost: host.test\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
        // Raw TCP.
        "\0\0hunter2-raw",
        "USER someone\r\nPASS hunter2-password\r\n",
    ];
    http1.iter().map(|request| request.as_bytes().to_vec()).chain([http2()]).collect()
}

/// A request with its secrets in literal fields, and a frame that is none.
fn http2() -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("a short text");
        [&[length], text.as_bytes()].concat()
    };
    let block = [
        &[0x83, 0x86, 0x04][..],
        &text("/path?token=hunter2-query"),
        &[0x41],
        &text("user:hunter2-userinfo@host.test"),
        &[0x10],
        &text("authorization"),
        &text("Bearer hunter2-bearer"),
    ]
    .concat();
    let frame = |kind, flags, stream, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a short frame");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, b"hunter2-body"),
        frame(1, 4, 0, b"hunter2-on-stream-0"),
    ]
    .concat()
}

fn talk(client: &Site, server: &Site) -> Result<usize> {
    let to = std::net::SocketAddr::new(CLIENT[0].parse()?, PORT);
    let listener = server.listen(to)?;
    let requests = requests();
    for request in &requests {
        let wire = join(client, to, &listener)?;
        (&wire.client).write_all(request)?;
        wire.client.shutdown(std::net::Shutdown::Write)?;
        // What the engines make of it is no matter here.
        let _whatever_arrives = read_all(&wire.server);
        let _gone_already = (&wire.server).write_all(OK);
        drop(wire.server);
        let _whatever_arrives = read_all(&wire.client);
    }
    Ok(requests.len())
}

/// All that weir has said, by where it was said.
fn said(daemon: &Daemon, pods: &Pods) -> Result<Vec<(&'static str, String)>> {
    let ask = |line: &[&str]| -> Result<String> { Ok(daemon.ask(line)?.ok()?.stdout) };
    let address = format!("{}:{PORT}", CLIENT[0]);
    Ok(vec![
        ("log", daemon.process.log()),
        ("records", format!("{:?}", daemon.records()?)),
        ("metrics", Metrics::scrape(&pods.node)?.text().to_owned()),
        ("status", ask(&["status", "-o", "json"])?),
        ("stat", ask(&["stat", "-o", "json"])?),
        ("ports", ask(&["ports", "list", "-o", "json"])?),
        ("explain", ask(&["explain", &address, "-o", "json"])?),
    ])
}

fn nothing_secret_is_said(engine: Engine, level: &str) -> Result<()> {
    let pods = Pods::new()?;
    let run = Run::new(&pods.node, pods.dir()).flags(&["--log-level", level, "--bpf-log", "debug"]);
    let run = run.flags(&["--learn", "off"]).flags(&engine.flags()).flags(&metrics::FLAGS);
    let pod = &pods.pod_a;
    let mut daemon = run.workload("pod-a", pod.cgroup(), Some(&pod.netns)).start()?;
    let connections = talk(pod, &pods.client_a)?;
    wait_until("the records", PATIENCE, || {
        Ok(daemon.records()?.connections(PORT).len() >= connections)
    })
    .with_context(|| daemon.process.log())?;
    let mut said = said(&daemon, &pods)?;
    daemon.stop()?;
    said.push(("log of the end", daemon.process.log()));
    for (place, text) in &said {
        let at = text.find(MARK).map(|at| &text[at.saturating_sub(80)..(at + 80).min(text.len())]);
        ensure!(at.is_none(), "{place}, {engine}, {level}: …{}…", at.unwrap_or_default());
    }
    // It says something: records with paths and hosts, and a log of the level.
    let has = |place: &str, word: &str| {
        said.iter().any(|(name, text)| *name == place && text.contains(word))
    };
    ensure!(has("records", "\"/path\"") && has("records", "host.test"), "{:?}", daemon.records());
    // Only libraries say anything at the most detailed level, and not those that every engine uses.
    let expected = if level == "trace" { "DEBUG".to_owned() } else { level.to_uppercase() };
    ensure!(has("log", &expected), "no {expected} in:\n{}", daemon.process.log());
    Ok(())
}

#[test]
fn the_passthrough_engine_says_no_secret() -> Result<()> {
    nothing_secret_is_said(Engine::Passthrough, "debug")?;
    nothing_secret_is_said(Engine::Passthrough, "trace")
}

#[test]
fn the_terminating_engine_says_no_secret() -> Result<()> {
    nothing_secret_is_said(Engine::Terminate, "debug")?;
    nothing_secret_is_said(Engine::Terminate, "trace")
}

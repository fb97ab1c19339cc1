//! Real clients and servers: the client is told the same with each engine as without weir, and the
//! records are the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::engine::Engine;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::run;
use weir_tests::servers::{grpc, nghttpd, nginx, websocket};
use weir_tests::weir::Exec;

use super::{all, equal};

const LIMIT: Duration = Duration::from_secs(60);

/// A shell line, in which `{h1}`, `{h2}` and `{nghttpd}` are URLs; and how often which status must be
/// recorded.
type Traffic = (&'static str, &'static [(u64, usize)]);

const HTTP1: &[(&str, Traffic)] = &[
    (
        "keep-alive",
        ("curl -sS {h1}/hello.txt {h1}/missing {h1}/hello.txt?a=b", &[(200, 2), (404, 1)]),
    ),
    ("HEAD", ("curl -sSI {h1}/hello.txt {h1}/hello.txt | grep -i length", &[(200, 2)])),
    ("204", ("curl -sS {h1}/nothing {h1}/nothing {h1}/hello.txt", &[(204, 2), (200, 1)])),
    (
        "304",
        (
            "curl -sS -H 'If-None-Match: *' {h1}/hello.txt {h1}/hello.txt {h1}/missing",
            &[(304, 2), (404, 1)],
        ),
    ),
    ("a chunked answer", ("curl -sS {h1}/chunked.txt {h1}/chunked.txt", &[(200, 2)])),
    ("HTTP/1.0", ("curl -sS --http1.0 {h1}/hello.txt {h1}/missing", &[(200, 1), (404, 1)])),
    (
        "a chunked upload",
        ("head -c 300000 /dev/zero | curl -sS -o /dev/null -T - {h1}/upload", &[(200, 1)]),
    ),
    (
        "an upload that waits for 100 Continue",
        (
            "head -c 2000000 /dev/zero | curl -sS -o /dev/null -H 'Expect: 100-continue' \
             --expect100-timeout 60 --data-binary @- {h1}/upload",
            &[(200, 1)],
        ),
    ),
    (
        "many connections",
        ("h2load --h1 -n 400 -c 8 {h1}/hello.txt | grep ^requests:", &[(200, 400)]),
    ),
    (
        "pipelining",
        ("h2load --h1 -n 400 -c 4 -m 10 {h1}/hello.txt | grep ^requests:", &[(200, 400)]),
    ),
];

const HTTP2: &[(&str, Traffic)] = &[
    ("GET", ("curl -sS --http2-prior-knowledge {h2}/hello.txt", &[(200, 1)])),
    ("404", ("curl -sS --http2-prior-knowledge {h2}/missing", &[(404, 1)])),
    ("204", ("curl -sS --http2-prior-knowledge {h2}/nothing", &[(204, 1)])),
    ("304", ("curl -sS --http2-prior-knowledge -H 'If-None-Match: *' {h2}/hello.txt", &[(304, 1)])),
    ("HEAD", ("curl -sSI --http2-prior-knowledge {h2}/hello.txt | grep -i length", &[(200, 1)])),
    (
        "an upload",
        (
            "head -c 2000000 /dev/zero | curl -sS -o /dev/null --http2-prior-knowledge \
             --data-binary @- {h2}/upload",
            &[(200, 1)],
        ),
    ),
    (
        "an echo and trailers",
        (
            "head -c 3000000 /dev/zero | curl -sS --http2-prior-knowledge --data-binary @- \
             {nghttpd}/echo | sha256sum",
            &[(200, 1)],
        ),
    ),
    (
        "nghttp with priorities",
        ("nghttp {nghttpd}/hello.txt {nghttpd}/missing", &[(200, 1), (404, 1)]),
    ),
    (
        "many streams of nghttpd",
        ("h2load -n 400 -c 4 -m 10 {nghttpd}/hello.txt | grep ^requests:", &[(200, 400)]),
    ),
    (
        "many streams of nginx",
        ("h2load -n 400 -c 4 -m 10 {h2}/hello.txt | grep ^requests:", &[(200, 400)]),
    ),
];

fn urls(line: &str) -> String {
    let at = |port: u16| format!("http://{SERVER_V4}:{port}");
    line.replace("{h1}", &at(nginx::HTTP1))
        .replace("{h2}", &at(nginx::H2C))
        .replace("{nghttpd}", &at(nghttpd::PORT))
}

/// Why the tap does not follow a connection to its end: the client has left it with bytes in its queue, as gRPC's
/// does now and then after its last call.
const UNREAD: &str = "bytes received and not read through the tap";

/// Runs the line without weir and with each engine.
fn alike(lab: &Lab, line: &str, statuses: &[(u64, usize)]) -> Result<()> {
    let line = ["bash", "-euo", "pipefail", "-c", line];
    let mut direct = lab.client.command(line[0]);
    let direct = run(direct.args(&line[1..]), LIMIT)?.ok()?;
    let mut records: Vec<Vec<Value>> = Vec::new();
    for engine in Engine::OBSERVING {
        let seen = Exec::without_timer(lab).flags(&engine.flags()).ok(&line)?;
        let said = &seen.finished.stdout;
        ensure!(*said == direct.stdout, "{engine}: {said:?} instead of {:?}", direct.stdout);
        for (status, count) in statuses {
            let requests = seen.records.requests();
            let found = requests.iter().filter(|record| record.number("status") == *status).count();
            ensure!(found == *count, "{engine}: {found} times {status} in {requests:#?}");
        }
        let requests = seen.records.requests();
        if engine == Engine::Tap {
            let connections = seen.records.values().filter(|record| record["kind"] == "connection");
            for record in connections {
                ensure!(record["engine"] == "tap", "{record} was proxied");
                let is_left = record["untracked"] == UNREAD;
                if is_left && record["close"] == "client_reset" {
                    // It was faster than the server: how its calls ended is not known.
                    return equal(&records[0], &records[1]);
                }
                ensure!(is_left || record["untracked"].is_null(), "{record} was not followed");
            }
        }
        let mut list: Vec<Value> = requests.iter().map(|record| record.comparable()).collect();
        // Connections, and streams, end in any order.
        list.sort_by_key(Value::to_string);
        records.push(list);
    }
    equal(&records[0], &records[1])?;
    equal(&records[0], &records[2])
}

#[test]
fn http1_leaves_the_same_records() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nginx::Nginx::start(&lab)?;
    all(HTTP1, |(line, statuses)| alike(&lab, &urls(line), statuses))
}

#[test]
fn http2_leaves_the_same_records() -> Result<()> {
    let lab = Lab::new()?;
    let _servers = (nginx::Nginx::start(&lab)?, nghttpd::start(&lab)?);
    all(HTTP2, |(line, statuses)| alike(&lab, &urls(line), statuses))
}

#[test]
fn websocket_leaves_the_same_records() -> Result<()> {
    let lab = Lab::new()?;
    let _server = websocket::start(&lab)?;
    alike(&lab, &shell(&websocket::client(SERVER_V4, 100)), &[(101, 1)])
}

#[test]
fn grpc_leaves_the_same_records() -> Result<()> {
    let lab = Lab::new()?;
    let _server = grpc::start(&lab)?;
    let rows = [
        ("every kind of call", ("all", [(200, 6)])),
        ("a call that its client cancels", ("cancel", [(200, 1)])),
        ("calls at the same time", ("together", [(200, 40)])),
    ];
    all(&rows, |(kind, statuses)| alike(&lab, &shell(&grpc::client(SERVER_V4, kind)), statuses))
}

/// Who is first with the end, the client or the server, is not weir's to say.
#[test]
fn a_grpc_call_beyond_its_deadline_is_recorded_as_what_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let _server = grpc::start(&lab)?;
    for engine in Engine::OBSERVING {
        let exec = Exec::without_timer(&lab).flags(&engine.flags());
        let seen = exec.ok(&grpc::client(SERVER_V4, "deadline"))?;
        let requests = seen.records.requests();
        assert_eq!(requests.len(), 1, "{engine}: {requests:#?}");
        let (end, code) = (requests[0].text("end"), requests[0].text("h2_error"));
        let by_client = end == "client_reset" && code == "8";
        let by_server = requests[0].text("grpc_status") == "4" || end == "upstream_reset";
        assert!(by_client || by_server, "{engine}: {requests:#?}");
    }
    Ok(())
}

fn shell(words: &[std::ffi::OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

//! Access logs in the formats of others. Spans of real requests, as a collector decodes them; and that
//! exporting them changes no byte and holds nothing up.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::collector::{Collector, attribute};
use weir_tests::fixture::PYTHON;
use weir_tests::frames;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{run, wait_until};
use weir_tests::servers::grpc;
use weir_tests::servers::nginx::{H2C, HTTP1, Nginx};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, Exec, Run};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ids of a child of the header.
fn assert_child(span: &Span) {
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!((span.span_id.len(), span.flags), (8, 0x301), "{span:?}");
    assert_ne!(hex(&span.span_id), PARENT);
    assert_eq!(attribute(span, "weir.observed"), "true");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
}

/// curl with a `traceparent`.
fn curl(flags: &[&str], header: &str, url: &str) -> Vec<String> {
    let header = format!("traceparent: {header}");
    let words = ["curl", "-sS", "-o", "/dev/null", "-H", &header];
    words.iter().chain(flags).chain([&url]).map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_request_of_either_version_is_a_child_of_its_header() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab)?;
    for (port, flags, version) in
        [(HTTP1, &[][..], "1.1"), (H2C, &["--http2-prior-knowledge"][..], "2")]
    {
        let collector = Collector::start(&lab.client)?;
        let url = format!("http://{SERVER_V4}:{port}/missing?secret=1");
        let exec = Exec::without_timer(&lab).flags(&["--otlp-endpoint", &collector.url()]);
        let seen = exec.ok(&curl(flags, &traceparent("01"), &url))?;
        // What waits is sent before weir ends.
        let [span] = &collector.spans()[..] else { panic!("{:?}", collector.spans()) };
        assert_child(span);
        assert_eq!((span.kind(), span.name.as_str()), (SpanKind::Client, "GET"));
        assert_eq!(span.status.as_ref().map(|it| it.code()), Some(StatusCode::Error));
        for (key, expected) in [
            ("http.request.method", "GET"),
            ("http.response.status_code", "404"),
            ("error.type", "404"),
            ("url.full", &format!("http://{SERVER_V4}:{port}/missing")),
            ("server.address", SERVER_V4),
            ("server.port", &port.to_string()),
            ("network.peer.address", SERVER_V4),
            ("network.protocol.version", version),
        ] {
            assert_eq!(attribute(span, key), expected, "{key}");
        }
        let [request] = seen.records.requests_to(port)[..] else { panic!("{:?}", seen.records) };
        assert_eq!(request.text("trace_id"), TRACE);
        assert_eq!(request.text("parent_id"), PARENT);
        assert_eq!(request.text("sampled"), "true");
    }
    Ok(())
}

#[test]
fn what_is_not_sampled_is_not_exported() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab)?;
    let collector = Collector::start(&lab.client)?;
    let url = format!("http://{SERVER_V4}:{HTTP1}/hello.txt");
    let exec = Exec::without_timer(&lab).flags(&["--otlp-endpoint", &collector.url()]);
    for header in [&traceparent("00"), "00-0-0-01", ""] {
        let seen = exec.ok(&curl(&[], header, &url))?;
        assert_eq!(seen.records.requests_to(HTTP1).len(), 1);
    }
    assert_eq!(collector.spans(), []);
    Ok(())
}

#[test]
fn calls_of_grpc_are_spans_with_service_and_method() -> Result<()> {
    let lab = Lab::new()?;
    let _server = grpc::start(&lab)?;
    let collector = Collector::start(&lab.client)?;
    let exec = Exec::without_timer(&lab).flags(&["--otlp-endpoint", &collector.url()]);
    let mut client = grpc::client(SERVER_V4, "traced");
    client.push(OsString::from(traceparent("01")));
    exec.ok(&client)?;
    let spans = collector.spans();
    let [unary, fail] = &spans[..] else { panic!("{spans:?}") };
    for (span, method, code) in [(unary, "Unary", "0"), (fail, "Fail", "9")] {
        assert_child(span);
        assert_eq!(span.name, format!("weir.test.Echo/{method}"));
        assert_eq!(attribute(span, "rpc.system"), "grpc");
        assert_eq!(attribute(span, "rpc.service"), "weir.test.Echo");
        assert_eq!(attribute(span, "rpc.method"), method);
        assert_eq!(attribute(span, "rpc.grpc.status_code"), code);
        let error = span.status.as_ref().map(|it| it.code()) == Some(StatusCode::Error);
        assert_eq!(error, code != "0");
    }
    assert_ne!(unary.span_id, fail.span_id);
    Ok(())
}

/// Sends what its third argument has in hexadecimal digits, and prints as many bytes of the answer as the
/// fourth says, with what is behind them.
const CLIENT: &str = "
import socket, sys
host, port, request, length = sys.argv[1:]
connection = socket.create_connection((host, int(port)))
connection.sendall(bytes.fromhex(request))
answer = b''
while len(answer) < int(length):
    part = connection.recv(4096)
    assert part, answer
    answer += part
connection.shutdown(socket.SHUT_WR)
while part := connection.recv(4096):
    answer += part
print(answer.hex())
";

/// What a server reads and a client reads of these two messages: by weir with `flags`, or without weir.
fn wire(lab: &Lab, sent: [&[u8]; 2], flags: Option<&[&str]>) -> Result<[String; 2]> {
    let [request, answer] = sent.map(<[u8]>::to_vec);
    let (port, length) = (HTTP1.to_string(), answer.len().to_string());
    let words = [PYTHON, "-c", CLIENT, SERVER_V4, &port, &hex(&request), &length];
    let kept = Arc::<Mutex<Vec<u8>>>::default();
    let _server = {
        let kept = Arc::clone(&kept);
        Peer::start(&lab.server, HTTP1, move |mut stream| {
            let (mut buffer, mut is_answered) = ([0; 4096], false);
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                let mut kept = kept.lock().expect("no other user panics");
                kept.extend_from_slice(&buffer[..count]);
                if kept.len() >= request.len() && !std::mem::replace(&mut is_answered, true) {
                    stream.write_all(&answer)?;
                }
            }
        })?
    };
    let stdout = match flags {
        Some(flags) => Exec::without_timer(lab).flags(flags).ok(&words)?.finished.stdout,
        None => run(lab.client.command(words[0]).args(&words[1..]), PATIENCE)?.ok()?.stdout,
    };
    let received = hex(&kept.lock().expect("no other user panics"));
    Ok([received, stdout.trim().to_owned()])
}

#[test]
fn not_a_byte_differs_with_tracing() -> Result<()> {
    let header = traceparent("01");
    let http1 = [
        format!("GET /a?b=c HTTP/1.1\r\nHost: a\r\nTraceParent:   {header} \r\nX:y\r\n\r\n")
            .into_bytes(),
        b"HTTP/1.1 200 OK\r\nX-Odd:  a \r\nContent-Length: 2\r\n\r\nok".to_vec(),
    ];
    let block = [frames::GET, &frames::indexed_field("traceparent", &header)].concat();
    let ends = frames::END_HEADERS | frames::END_STREAM;
    let settings = |flags| frames::frame(frames::SETTINGS, flags, 0, &[]);
    let http2 = [
        [frames::PREFACE, &settings(0), &frames::frame(frames::HEADERS, ends, 1, &block)].concat(),
        [settings(0), settings(frames::ACK), frames::frame(frames::HEADERS, ends, 1, frames::OK)]
            .concat(),
    ];
    let lab = Lab::new()?;
    for sent in [&http1, &http2] {
        let collector = Collector::start(&lab.client)?;
        let url = collector.url();
        let sent = [&*sent[0], &*sent[1]];
        let expected = sent.map(hex);
        for flags in [None, Some(&[][..]), Some(&["--otlp-endpoint", &url][..])] {
            assert_eq!(wire(&lab, sent, flags)?, expected, "{flags:?}");
        }
        let [span] = &collector.spans()[..] else { panic!("{:?}", collector.spans()) };
        assert_child(span);
    }
    Ok(())
}

/// Nobody listens where spans are to go: requests do not notice, and weir says so.
#[test]
fn a_dead_collector_is_said_and_stops_nothing() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("tracing")?);
    let _nginx = Nginx::start(&lab)?;
    let dead = "http://127.0.0.1:9/v1/traces";
    let daemon = Run::new(&lab.client, lab.dir())
        .workload("shop", &cgroup, None)
        .variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", dead)
        .start()?;
    let url = format!("http://{SERVER_V4}:{HTTP1}/hello.txt?[1-3000]");
    let words = curl(&["--fail"], &traceparent("01"), &url);
    let mut command: Command = lab.client.command(&words[0]);
    command.args(&words[1..]).args(["-o", "/dev/null"]);
    run(&mut cgroup.wrap(&command), Duration::from_secs(120))?.ok()?;
    wait_until("the problem", PATIENCE, || {
        Ok(daemon.json(&["status"])?["status"]["spans"]["problem"].is_string())
    })?;
    let status = daemon.json(&["status"])?["status"]["spans"].clone();
    assert_eq!(status["url"], dead);
    assert!(status["problem"].as_str().is_some_and(|it| it.starts_with("cannot connect")));
    assert_eq!(status["exported"], 0);
    // One workload has half of the queue, beside a batch on its way.
    assert!(status["dropped"].as_u64().is_some_and(|it| it > 1000), "{status}");
    let text = daemon.ask(&["status"])?.stdout;
    assert!(text.contains("spans        to http://127.0.0.1:9/v1/traces: 0 exported"), "{text}");
    wait_until("the requests' records", PATIENCE, || {
        Ok(daemon.records()?.requests_to(HTTP1).len() == 3000)
    })?;
    let said = daemon.process.log().matches("cannot export spans").count();
    ensure!(said == 1, "said {said} times: {}", daemon.process.log());
    Ok(())
}

/// A server's own spans: what it receives.
#[test]
fn a_request_that_is_received_is_a_server_span() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("tracing")?);
    let _nginx = Nginx::start_within(&lab, Some(&cgroup))?;
    let collector = Collector::start(&lab.server)?;
    let _daemon = Run::new(&lab.server, lab.dir())
        .workload("nginx", &cgroup, Some(&lab.server))
        .flags(&["--otlp-endpoint", &collector.url()])
        .start()?;
    let url = format!("http://{SERVER_V4}:{HTTP1}/hello.txt");
    let words = curl(&["--fail"], &traceparent("01"), &url);
    run(lab.client.command(&words[0]).args(&words[1..]), PATIENCE)?.ok()?;
    let spans = collector.wait_for(1)?;
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_child(span);
    assert_eq!(span.kind(), SpanKind::Server);
    assert_eq!(attribute(span, "url.path"), "/hello.txt");
    assert_eq!(attribute(span, "client.address"), weir_tests::lab::CLIENT_V4);
    Ok(())
}

// === Access logs ===

#[test]
fn each_workload_has_its_own_format_of_records() -> Result<()> {
    let lab = Lab::new()?;
    let (json, combined, envoy) =
        (Cgroup::new("json")?, Cgroup::new("combined")?, Cgroup::new("envoy")?);
    let _nginx = Nginx::start(&lab)?;
    let mut daemon = Daemon::start(&lab, &json, &[])?;
    daemon.add("combined", &combined, &lab.client, &["--record-format", "combined"])?;
    daemon.add("envoy", &envoy, &lab.client, &["--record-format", "envoy"])?;
    // A quote stays within its field.
    let url = format!("http://{SERVER_V4}:{HTTP1}/a\"b?secret=1");
    for cgroup in [&json, &combined, &envoy] {
        let mut command = lab.client.command("curl");
        command.args(["-sS", "-o", "/dev/null", "-A", "agent", &url]);
        run(&mut cgroup.wrap(&command), PATIENCE)?.ok()?;
    }
    daemon.stop()?;
    let text = std::fs::read_to_string(daemon.records_file())?;
    let lines = |start: &str| -> Vec<&str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    };
    assert_eq!(lines("{").len(), 2, "a request and its connection: {text}");
    let ([combined], [envoy]) = (&lines("127.")[..], &lines("[")[..]) else { panic!("{text}") };
    let request = "\"GET /a\\\"b HTTP/1.1\" 404 ";
    assert!(combined.starts_with("127.0.0.1 - - ["), "{combined}");
    assert!(combined.contains(request) && combined.ends_with(" \"-\" \"-\""), "{combined}");
    assert!(envoy.contains(request), "{envoy}");
    let hosts = format!("\"{SERVER_V4}:{HTTP1}\" \"{SERVER_V4}:{HTTP1}\"");
    assert!(envoy.ends_with(&hosts), "{envoy}");
    Ok(())
}

// === Retries ===

/// An endpoint of HTTP/2 that refuses each stream (RFC 9113 §8.7): what it refuses goes to another one.
fn refusing(lab: &Lab) -> Result<Peer> {
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    Peer::start(&lab.server, 0, |mut stream| {
        let mut preface = [0; frames::PREFACE.len()];
        stream.read_exact(&mut preface)?;
        stream.write_all(&frames::frame(frames::SETTINGS, 0, 0, &[]))?;
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).is_err() {
                return Ok(());
            }
            let [a, b, c, kind, _, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload)?;
            let id = u32::from_be_bytes(id);
            if kind == frames::HEADERS {
                stream.write_all(&frames::frame(frames::RST_STREAM, 0, id, &REFUSED_STREAM))?;
            }
        }
    })
}

#[test]
fn a_request_that_was_sent_twice_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab)?;
    let refusing = refusing(&lab)?;
    let collector = Collector::start(&lab.client)?;
    let service = format!("{SERVER_V4}:9={SERVER_V4}:{},{SERVER_V4}:{H2C}", refusing.port());
    let flags = ["--balance", "auto", "--service", &service, "--otlp-endpoint", &collector.url()];
    let url = format!("http://{SERVER_V4}:9/hello.txt");
    let words = curl(&["--http2-prior-knowledge", "--fail"], &traceparent("01"), &url);
    // One at a time: the curl of Debian 12 can't use a connection again that began with HTTP/2.
    let script = "for number in $(seq 40); do \"$@\" || exit; done";
    let words: Vec<_> =
        ["sh", "-c", script, "sh"].iter().map(|word| (*word).to_owned()).chain(words).collect();
    Exec::without_timer(&lab).flags(&flags).ok(&words)?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 40);
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for span in &spans {
        assert_child(span);
        // Where it was sent last.
        assert_eq!(attribute(span, "network.peer.port"), H2C.to_string());
        assert_eq!(attribute(span, "http.response.status_code"), "200");
        *counts.entry(attribute(span, "http.request.resend_count")).or_default() += 1;
    }
    // The endpoint that refuses is out soon, but not before it has been chosen.
    assert!(counts.get("1").is_some_and(|count| *count >= 1), "{counts:?}");
    assert!(counts.keys().all(|count| count.is_empty() || count == "1"), "{counts:?}");
    Ok(())
}

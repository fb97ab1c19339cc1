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

/// A server that answers HTTP/1 with fixed bytes, and keeps what it has read.
fn recorder(lab: &Lab, kept: &Arc<Mutex<Vec<u8>>>) -> Result<Peer> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nX-Odd:  a \r\nContent-Length: 2\r\n\r\nok";
    let kept = Arc::clone(kept);
    Peer::start(&lab.server, HTTP1, move |mut stream| {
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut kept = kept.lock().expect("no other user panics");
            kept.extend_from_slice(&buffer[..count]);
            if kept.ends_with(b"\r\n\r\n") {
                stream.write_all(ANSWER)?;
            }
        }
    })
}

#[test]
fn not_a_byte_differs_with_tracing() -> Result<()> {
    let lab = Lab::new()?;
    let collector = Collector::start(&lab.client)?;
    let collector_url = collector.url();
    let url = format!("http://{SERVER_V4}:{HTTP1}/a?b=c");
    let header = format!("TraceParent:   {} ", traceparent("01"));
    let client = ["curl", "-sS", "-i", "-H", &header, "-H", "tracestate: a=b", &url, &url];
    let mut seen = Vec::new();
    for flags in [&[][..], &["--otlp-endpoint", &collector_url][..]] {
        let kept = Arc::default();
        let _server = recorder(&lab, &kept)?;
        let exec = Exec::without_timer(&lab).flags(flags).ok(&client)?;
        let received = kept.lock().expect("no other user panics").clone();
        seen.push((received, exec.finished.stdout.clone()));
    }
    let direct = {
        let kept = Arc::default();
        let _server = recorder(&lab, &kept)?;
        let mut command = lab.client.command(client[0]);
        let finished = run(command.args(&client[1..]), PATIENCE)?.ok()?;
        (kept.lock().expect("no other user panics").clone(), finished.stdout)
    };
    assert_eq!(collector.spans().len(), 2);
    assert!(direct.0.len() > 200 && direct.1.contains("X-Odd:  a"), "{direct:?}");
    assert_eq!(seen, [direct.clone(), direct]);
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

//! What becomes of connections that are in use when weir is asked to end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::engine::Engine;
use weir_tests::fixture;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, patience, wait_until};
use weir_tests::servers::grpc;
use weir_tests::site::{PATIENCE, accept, read_all};
use weir_tests::way::{Kind, Way};
use weir_tests::weir::Daemon;
use weir_tests::wire::noise;

use weir_tests::frames::{
    DATA, END_STREAM, GET, OK, PREFACE, SETTINGS, SHUTDOWN_NOTICE, field, frame, head,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: host.test\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Clients that are at work at the same time, each at another point of an exchange.
const CLIENTS: usize = 8;
/// Exchanges of each before the drain.
const BEFORE: usize = 50;

/// SIGTERM, until every connection has been asked to end.
fn drain(daemon: &Daemon) -> Result<()> {
    daemon.process.signal(Signal::SIGTERM)?;
    wait_until("weir to drain", PATIENCE, || {
        Ok(daemon.json(&["status"])?["status"]["workloads"][0]["phase"] == "draining")
    })
}

fn ends_well(way: &mut Way) -> Result<()> {
    let daemon = way.daemon_mut().context("a way with weir")?;
    let status = daemon.process.wait(PATIENCE)?;
    ensure!(status.success(), "weir ended with {status}:\n{}", daemon.process.log());
    Ok(())
}

// === HTTP/1 ===

#[test]
fn clients_at_work_over_http1_are_told_with_an_answer_and_no_request_fails() -> Result<()> {
    for engine in Engine::ALL {
        http1_clients_are_told(engine).with_context(|| format!("{engine}"))?;
    }
    Ok(())
}

fn http1_clients_are_told(engine: Engine) -> Result<()> {
    let mut way = Way::new(Kind::Outbound, engine)?;
    let address = way.free_address();
    let listener = way.server().listen(address)?;
    let daemon = way.daemon().context("a way with weir")?;
    let answered = thread::scope(|scope| -> Result<Vec<usize>> {
        let mut clients = Vec::new();
        let (working, worked) = std::sync::mpsc::channel();
        for _ in 0..CLIENTS {
            let client = way.client().connect(address)?;
            let server = accept(&listener)?;
            scope.spawn(move || serve(&server));
            let working = working.clone();
            clients.push(scope.spawn(move || {
                work(&client, || working.send(()).expect("the test waits"))
                    .with_context(|| format!("{:?}", client.local_addr()))
            }));
        }
        for _ in 0..CLIENTS {
            worked.recv_timeout(patience(PATIENCE)).context("the clients do not get on")?;
        }
        daemon.process.signal(Signal::SIGTERM)?;
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    })?;
    ends_well(&mut way)?;
    let records = way.records()?;
    let requests = records.requests_to(address.port());
    let good = requests.iter().filter(|record| record.text("end") == "complete").count();
    assert_eq!(good, answered.iter().sum::<usize>(), "{answered:?}");
    assert_eq!(requests.len(), good, "{answered:?}");
    Ok(())
}

/// One request after the other until an answer says that it is the last one, which the end must
/// follow; how many were answered.
fn work(client: &TcpStream, mut is_at_work: impl FnMut()) -> Result<usize> {
    for number in 1.. {
        (&*client).write_all(REQUEST.as_bytes())?;
        let answer = read_answer(client).with_context(|| format!("request {number}"))?;
        if answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n") {
            let rest = read_all(client)?;
            ensure!(rest.is_empty(), "{} bytes behind the last answer", rest.len());
            ensure!(number >= BEFORE, "told before its time: {number}");
            return Ok(number);
        }
        ensure!(answer == ANSWER, "{answer:?}");
        if number == BEFORE {
            is_at_work();
        }
    }
    bail!("numbers have ended")
}

fn read_answer(mut stream: &TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nok") {
        let mut byte = [0; 1];
        stream
            .read_exact(&mut byte)
            .with_context(|| format!("after {:?}", bytes.escape_ascii().to_string()))?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8(bytes)?)
}

/// Answers every request until the client has gone. What goes wrong the client sees.
fn serve(mut server: &TcpStream) {
    let mut request = vec![0; REQUEST.len()];
    while server.read_exact(&mut request).is_ok() && server.write_all(ANSWER.as_bytes()).is_ok() {}
}

// === HTTP/2 ===

/// Some clients lose what they are being sent when the notice comes: curl 7.88 does.
#[test]
fn an_http2_client_is_told_when_nothing_is_under_way() -> Result<()> {
    let mut way = Way::new(Kind::Outbound, Engine::Passthrough)?;
    let server = way.listen()?;
    let wire = server.wire()?;
    let settings = frame(SETTINGS, 0, 0, &[]);
    wire.up([PREFACE, &settings, &head(END_STREAM, 1, GET)].concat())?;
    wire.down([settings, head(0, 1, OK)].concat())?;
    drain(way.daemon().context("a way with weir")?)?;
    let body = noise(10_000);
    wire.down(frame(DATA, 0, 1, &body))?;
    wire.down(frame(DATA, END_STREAM, 1, &body))?;
    let rest = read_all(&wire.client)?;
    assert_eq!(rest, SHUTDOWN_NOTICE, "after the response");
    drop(server);
    ends_well(&mut way)
}

/// Where something is always under way, the notice comes where a frame ends, and streams go on:
/// also those that are opened before the client has read it.
#[test]
fn a_busy_http2_client_is_told_between_two_frames_and_its_streams_end_well() -> Result<()> {
    let mut way = Way::new(Kind::Outbound, Engine::Passthrough)?;
    let server = way.listen()?;
    let wire = server.wire()?;
    let settings = frame(SETTINGS, 0, 0, &[]);
    wire.up([PREFACE, &settings, &head(END_STREAM, 1, GET), &head(0, 3, GET)].concat())?;
    wire.down([settings, head(0, 1, OK)].concat())?;
    let body = noise(10_000);
    let data = frame(DATA, 0, 1, &body);
    let (begin, rest) = data.split_at(4000);
    wire.down(begin)?;
    drain(way.daemon().context("a way with weir")?)?;
    // Another part of the frame: had it been too early, it would come before this.
    let (middle, rest) = rest.split_at(5);
    wire.down(middle)?;
    (&wire.server).write_all(rest)?;
    let mut told = vec![0; rest.len() + SHUTDOWN_NOTICE.len()];
    (&wire.client).read_exact(&mut told)?;
    ensure!(told[..rest.len()] == *rest, "the frame was changed");
    assert_eq!(told[rest.len()..], *SHUTDOWN_NOTICE);
    wire.up(frame(DATA, END_STREAM, 3, &body))?;
    wire.up(head(END_STREAM, 5, &[GET, &field("x-late", "yes")].concat()))?;
    wire.down(frame(DATA, END_STREAM, 1, &body))?;
    wire.down([head(0, 3, OK), frame(DATA, END_STREAM, 3, &body)].concat())?;
    wire.down(head(END_STREAM, 5, OK))?;
    // Nothing is under way: weir ends it.
    for (side, stream) in [("client", &wire.client), ("server", &wire.server)] {
        let rest = read_all(stream).with_context(|| format!("the {side}'s end"))?;
        ensure!(rest.is_empty(), "{} more bytes at the {side}", rest.len());
    }
    let port = server.address().port();
    drop(server);
    ends_well(&mut way)?;
    let records = way.records()?;
    let requests = records.requests_to(port);
    let ends: Vec<_> = requests.iter().map(|it| (it.number("status"), it.text("end"))).collect();
    let well = (200, "complete".to_owned());
    assert_eq!(ends, [well.clone(), well.clone(), well], "{requests:#?}");
    let lengths: Vec<u64> = requests.iter().map(|it| it.number("response_bytes")).collect();
    assert_eq!(lengths, [20_000, 10_000, 0], "{requests:#?}");
    Ok(())
}

// === gRPC ===

#[test]
fn a_grpc_stream_goes_on_until_it_ends() -> Result<()> {
    for engine in Engine::ALL {
        grpc_stream_goes_on(engine).with_context(|| format!("{engine}"))?;
    }
    Ok(())
}

fn grpc_stream_goes_on(engine: Engine) -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("drain")?);
    let _server = grpc::start(&lab)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &engine.flags())?;
    let file = lab.dir().join("end");
    let mut client = fixture::command(&lab.client, "grpc_client.py");
    client.arg(format!("{SERVER_V4}:{}", grpc::PORT)).arg("until").arg(&file);
    let mut client = Process::start("grpc-client", cgroup.wrap(&client), lab.dir())?;
    wait_until("the first message", PATIENCE, || {
        ensure!(client.running()?, "it ended:\n{}", client.log());
        Ok(client.log().contains("begun"))
    })?;
    drain(&daemon)?;
    std::fs::write(&file, "")?;
    let status = client.wait(PATIENCE)?;
    ensure!(status.success() && client.log().contains("until: ok"), "{}", client.log());
    let status = daemon.process.wait(PATIENCE)?;
    ensure!(status.success(), "weir ended with {status}:\n{}", daemon.process.log());
    let records = daemon.records()?;
    let requests = records.requests_to(grpc::PORT);
    ensure!(requests.len() == 1, "{requests:#?}");
    assert_eq!((&*requests[0].text("grpc_status"), &*requests[0].text("end")), ("0", "complete"));
    Ok(())
}

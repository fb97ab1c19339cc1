//! `--http-engine tap`: what an application does with its sockets leaves the records that it leaves with
//! the passthrough engine. What the tap does not see it says, and what it is not for is proxied.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::engine::Engine;
use weir_tests::lab::SERVER_V4;
use weir_tests::servers::nginx::{HTTP1, Nginx};
use weir_tests::weir::{Exec, Observed};

/// What every program begins with: `hello` is a short file, `long` a long one.
const PRELUDE: &str = r#"
import os, select, signal, socket, struct, sys, time
def dial():
    return socket.create_connection(("SERVER", PORT), 20)
def get(path="/hello.txt"):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
def head(method, path, more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()
def hellos(s, count, size=65536):
    said = b""
    while said.count(b"hello from nginx\n") < count:
        more = s.recv(size)
        assert more, said
        said += more
    assert said.count(b"hello from nginx\n") == count, said
    return said
def status(s):
    said = b""
    while b"\r\n\r\n" not in said:
        more = s.recv(65536)
        assert more, said
        said += more
    return int(said.split()[1])
def drain(s):
    while s.recv(65536):
        pass
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"#;

/// What is seen to the last byte.
const EXACT: &[(&str, &str)] = &[
    ("one request", "s = dial(); s.sendall(get()); hellos(s, 1); s.close()"),
    ("pipelining", "s = dial(); s.sendall(get() * 5); hellos(s, 5); s.close()"),
    (
        "writes of one byte",
        "s = dial(); s.setsockopt(6, 1, 1)\nfor byte in get(): s.send(bytes([byte]))\nhellos(s, 1)\ns.close()",
    ),
    ("reads of one byte", "s = dial(); s.sendall(get() * 2); hellos(s, 2, 1); s.close()"),
    (
        "a write of several buffers",
        "s = dial(); s.sendmsg([get(), get()[:9], get()[9:]]); hellos(s, 2); s.close()",
    ),
    (
        "looks before reads",
        "s = dial(); s.sendall(get())\nfor size in (1, 7, 300, 3): s.recv(size, socket.MSG_PEEK)\nhellos(s, 1, 50)\ns.close()",
    ),
    (
        "reads that wait for all",
        "s = dial(); s.sendall(get()); first = s.recv(60, socket.MSG_WAITALL); assert len(first) == 60; \
         hellos(s, 1); s.close()",
    ),
    (
        "the client ends its side",
        "s = dial(); s.sendall(get()); s.shutdown(1); drain(s); s.close()",
    ),
    (
        "the server closes",
        "s = dial(); s.sendall(head('GET', '/hello.txt', 'Connection: close\\r\\n')); drain(s); s.close()",
    ),
    ("the client resets", "s = dial(); s.sendall(get()); hellos(s, 1); reset(s)"),
    ("nothing is said", "dial().close()"),
    (
        "a reset inside a request",
        "s = dial(); s.sendall(get() + get()[:20]); hellos(s, 1); time.sleep(0.1); reset(s)",
    ),
    (
        "two processes on a socket",
        "s = dial(); pid = os.fork()\nif pid == 0:\n    s.sendall(get()); hellos(s, 1); os._exit(0)\n\
         assert os.waitpid(pid, 0)[1] == 0\ns.sendall(get()); hellos(s, 1); s.close()",
    ),
    (
        "a long answer between short ones",
        "s = dial(); s.sendall(get() + get('/long') + get()); hellos(s, 2); s.close()",
    ),
    (
        "HEAD of what is long, and what follows",
        "s = dial(); s.sendall(head('HEAD', '/long')); assert status(s) == 200; s.sendall(get() * 2); \
         hellos(s, 2); s.close()",
    ),
    (
        "an upload by sendfile",
        "s = dial(); s.sendall(head('PUT', '/upload', 'Content-Length: 3000000\\r\\n'))\n\
         s.setblocking(True); f = os.memfd_create('body'); os.truncate(f, 3000000); at = 0\n\
         while at < 3000000: at += os.sendfile(s.fileno(), f, at, 3000000 - at)\n\
         assert status(s) < 300; s.sendall(get()); hellos(s, 1); s.close()",
    ),
    (
        "an upload whose head and beginning are one write",
        "s = dial(); s.sendall(head('PUT', '/upload', 'Content-Length: 200000\\r\\n') + b'GET / HTTP/1.1\\r\\n' * 12500)\n\
         assert status(s) < 300; s.sendall(get()); hellos(s, 1); s.close()",
    ),
    (
        "chunks that look like heads",
        "s = dial(); s.sendall(head('PUT', '/upload', 'Transfer-Encoding: chunked\\r\\n'))\n\
         for _ in range(20): s.sendall(b'bb8\\r\\n' + b'PUT /x HTTP/1.1\\r\\n' + b'y' * 2983 + b'\\r\\n'); time.sleep(0.01)\n\
         s.sendall(b'0\\r\\n\\r\\n'); assert status(s) < 300; s.close()",
    ),
    (
        "what is no HTTP",
        "s = dial(); s.sendall(b'\\x00\\x01\\x02\\x03\\r\\n\\r\\n'); drain(s); s.close()",
    ),
    (
        "many connections",
        "for _ in range(500):\n    s = dial(); s.sendall(get()); hellos(s, 1); s.close()",
    ),
];

/// What is not seen, and what the record of the connection says then.
const SAID: &[(&str, &str, &str)] = &[
    (
        "read by splice(2)",
        "s = dial(); s.sendall(get()); select.select([s], [], []); r, w = os.pipe(); \
         assert os.splice(s.fileno(), w, 65536) > 0; s.close()",
        "bytes received and not read through the tap",
    ),
    (
        "read by splice(2), and then by recv(2)",
        "s = dial(); s.sendall(get()); select.select([s], [], []); r, w = os.pipe(); \
         assert os.splice(s.fileno(), w, 65536) > 0; s.sendall(get()); hellos(s, 1); s.close()",
        "bytes passed the tap",
    ),
    (
        "never read",
        "s = dial(); s.sendall(get()); select.select([s], [], []); time.sleep(0.1); s.close()",
        "bytes received and not read through the tap",
    ),
];

fn run(lab: &Lab, flags: &[&str], program: &str) -> Result<Observed> {
    let prelude = PRELUDE.replace("SERVER", SERVER_V4).replace("PORT", &HTTP1.to_string());
    Exec::new(lab).flags(flags).limit(Duration::from_secs(120)).python(&(prelude + program))
}

/// The records that the same traffic leaves again, and of connections those that are the tap's.
fn comparable(seen: &Observed, engine: Engine) -> Result<Vec<String>> {
    let of_the_tap = seen.records.values().filter(|record| record["kind"] == "connection");
    for record in of_the_tap {
        ensure!((record["engine"] == "tap") == (engine == Engine::Tap), "{engine}: {record}");
    }
    let connections = seen.records.connections(HTTP1);
    let all = connections.into_iter().chain(seen.records.requests_to(HTTP1));
    let mut list: Vec<String> = all.map(|record| record.comparable().to_string()).collect();
    list.sort_unstable();
    Ok(list)
}

fn server(lab: &Lab) -> Result<Nginx> {
    let nginx = Nginx::start(lab)?;
    std::fs::write(nginx.root().join("long"), vec![b'x'; 2_000_000])?;
    Ok(nginx)
}

#[test]
fn what_is_done_with_a_socket_leaves_the_records_of_the_passthrough_engine() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let mut failed = Vec::new();
    for (name, program) in EXACT {
        let [passthrough, tap] = [Engine::Passthrough, Engine::Tap].map(|engine| {
            run(&lab, &engine.flags(), program).and_then(|seen| comparable(&seen, engine))
        });
        let (passthrough, tap) = (passthrough?, tap?);
        if passthrough != tap {
            failed.push(format!("{name}:\npassthrough {passthrough:#?}\ntap {tap:#?}"));
        }
    }
    ensure!(failed.is_empty(), "{} differ\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

#[test]
fn what_is_not_seen_is_said_and_never_recorded_as_an_exchange() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    for (name, program, why) in SAID {
        let seen = run(&lab, &Engine::Tap.flags(), program)?;
        let connection = seen.records.only_connection(HTTP1);
        assert_eq!(connection.text("untracked"), *why, "{name}: {connection:#?}");
        for request in seen.records.requests_to(HTTP1) {
            assert_eq!(request.text("end"), "untracked", "{name}: {request:#?}");
        }
    }
    Ok(())
}

/// Guards against an application that waits for weir, and against records of what was not seen.
#[test]
fn a_reader_that_stands_still_costs_records_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let program = "weir = os.getppid()\n\
         s = dial(); s.sendall(get()); hellos(s, 1)\n\
         os.kill(weir, signal.SIGSTOP)\n\
         try:\n    s.sendall(head('PUT', '/upload', 'Transfer-Encoding: chunked\\r\\n'))\n\
         \x20   for _ in range(800): s.sendall(b'10000\\r\\n' + b'z' * 65536 + b'\\r\\n')\n\
         \x20   s.sendall(b'0\\r\\n\\r\\n'); assert status(s) < 300\n\
         \x20   s.sendall(get()); hellos(s, 1)\n\
         finally:\n    os.kill(weir, signal.SIGCONT)\n\
         s.close(); time.sleep(2)\n\
         s = dial(); s.sendall(get()); hellos(s, 1); s.close()";
    let seen = run(&lab, &Engine::Tap.flags(), program)?;
    let connections = seen.records.connections(HTTP1);
    let said: Vec<String> = connections.iter().map(|record| record.text("untracked")).collect();
    assert_eq!(said, ["tap buffer full", ""], "{connections:#?}");
    let requests = seen.records.requests_to(HTTP1);
    let ends: Vec<String> = requests.iter().map(|record| record.text("end")).collect();
    assert_eq!(ends, ["complete", "untracked", "complete"], "{requests:#?}");
    Ok(())
}

/// What a proxy has to enforce goes through it, and says so.
#[test]
fn a_workload_that_fails_closed_is_proxied() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let program = "s = dial(); s.sendall(get()); hellos(s, 1); s.close()";
    let seen = run(&lab, &["--http-engine", "tap", "--fail", "closed"], program)?;
    let connection = seen.records.only_connection(HTTP1);
    assert_eq!(
        (connection.text("engine"), connection.text("treatment")),
        ("".into(), "http1".into())
    );
    Ok(())
}

/// Guards against a service whose endpoint the kernel, and not weir, would choose.
#[test]
fn a_service_is_proxied_and_what_is_beside_it_is_tapped() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let service = format!("{SERVER_V4}:9999={SERVER_V4}:{HTTP1}");
    let program = "s = dial(); s.sendall(get()); hellos(s, 1); s.close()\n\
         try:\n    socket.create_connection(('SERVER', 9999), 20)\n\
         except ConnectionRefusedError:\n    pass";
    let program = program.replace("SERVER", SERVER_V4);
    let seen = run(&lab, &["--http-engine", "tap", "--service", &service], &program)?;
    assert_eq!(seen.records.only_connection(HTTP1).text("engine"), "tap");
    // weir has dialled for it.
    let service = seen.records.only_connection(9999);
    assert_eq!(
        (service.text("engine"), service.text("close")),
        ("".into(), "connect_failed".into())
    );
    Ok(())
}

/// Linux 6.12 has what the tap needs.
#[test]
fn without_the_tap_connections_are_passed_through_and_weir_says_so_once() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|it| it.parse::<u32>().ok());
    let works = (numbers.next(), numbers.next()) >= (Some(6), Some(12));
    let program = "for _ in range(2):\n    s = dial(); s.sendall(get()); hellos(s, 1); s.close()";
    let seen = run(&lab, &Engine::Tap.flags(), program)?;
    for connection in seen.records.connections(HTTP1) {
        assert_eq!(connection.text("engine"), if works { "tap" } else { "" }, "{connection:#?}");
        assert_eq!(connection.text("treatment"), "http1", "{connection:#?}");
    }
    assert_eq!(seen.records.requests_to(HTTP1).len(), 2);
    let stderr = &seen.finished.stderr;
    let said = stderr.matches("the tap does not work here").count();
    ensure!(said == usize::from(!works), "{stderr}");
    Ok(())
}

/// The flag of a workload is over that of the process, in both directions.
#[test]
fn a_workload_has_an_engine_of_its_own() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = server(&lab)?;
    let program = "s = dial(); s.sendall(get()); hellos(s, 1); s.close()";
    for (flags, engine) in [
        (["--http-engine", "passthrough", "--engine", "tap"], "tap"),
        (["--http-engine", "tap", "--engine", "passthrough"], ""),
    ] {
        let seen = run(&lab, &flags, program)?;
        assert_eq!(seen.records.only_connection(HTTP1).text("engine"), engine, "{flags:?}");
        let requests: Vec<Value> =
            seen.records.requests().iter().map(|record| record.comparable()).collect();
        assert_eq!(requests.len(), 1, "{flags:?}: {requests:#?}");
    }
    Ok(())
}

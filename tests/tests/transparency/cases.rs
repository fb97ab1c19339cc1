//! What an application can ask the kernel, and what it can do to a connection: the answers and the
//! effects are those of a direct connection.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use weir_tests::Lab;
use weir_tests::lab::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6};
use weir_tests::peer::Peer;
use weir_tests::process::patience;
use weir_tests::servers::nginx;
use weir_tests::weir::Exec;

/// How long the other side may take to see something.
const SOON: Duration = Duration::from_secs(20);

/// The beginning of every client here: `connect(host, port)` gives a socket.
const CLIENT: &str = "
import errno, hashlib, socket, struct, sys, time
def connect(host, port, family=None):
    family = family or (socket.AF_INET6 if ':' in host else socket.AF_INET)
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(20)
    s.connect((host, port)); return s
def read_all(s):
    parts = []
    while part := s.recv(65536): parts.append(part)
    return b''.join(parts)
def name(call):
    try: call(); return 'ok'
    except OSError as error: return errno.errorcode.get(error.errno, repr(error))
";

fn client(program: &str) -> String {
    format!("{CLIENT}\n{program}")
}

fn exec(lab: &Lab) -> Exec<'_> {
    super::exec(lab, module_path!())
}

/// Resets a connection instead of closing it (socket(7), SO_LINGER).
fn reset(stream: &std::net::TcpStream) -> std::io::Result<()> {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &now).map_err(Into::into)
}

// === Addresses ===

#[test]
fn getpeername_and_getsockname_answer_as_for_a_direct_connection() -> Result<()> {
    let lab = Lab::new()?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    for (host, own) in [(SERVER_V4, CLIENT_V4), (SERVER_V6, CLIENT_V6)] {
        let program = format!(
            "s = connect('{host}', 9000)\n\
             print(*s.getpeername()[:2], s.getsockname()[0], read_all(s).split()[0].decode())"
        );
        let seen = exec(&lab).python(&client(&program))?;
        assert_eq!(seen.stdout(), format!("{host} 9000 {own} {own}"));
        seen.records.assert_server_first(9000);
    }
    assert_eq!(peer.seen().len(), 2);
    Ok(())
}

/// Java opens an IPv6 socket for everything.
#[test]
fn v4_mapped_addresses_reach_the_v4_destination() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let program = format!(
        "s = connect('::ffff:{SERVER_V4}', 9000, socket.AF_INET6)\n\
         print(*s.getpeername()[:2], s.getsockname()[0], read_all(s).split()[0].decode())"
    );
    let seen = exec(&lab).python(&client(&program))?;
    let expected = format!("::ffff:{SERVER_V4} 9000 ::ffff:{CLIENT_V4} {CLIENT_V4}");
    assert_eq!(seen.stdout(), expected);
    let connection = seen.records.only_connection(9000);
    assert_eq!(connection.text("destination"), format!("{SERVER_V4}:9000"));
    Ok(())
}

#[test]
fn a_bound_source_address_is_kept_in_getsockname() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = format!(
        "s = socket.create_connection(('{SERVER_V4}', 9000), 20, source_address=('{CLIENT_V4}', 45000))\n\
         s.sendall(b'x'); assert s.recv(1) == b'x'; print(*s.getsockname())"
    );
    let seen = exec(&lab).python(&client(&program))?;
    assert_eq!(seen.stdout(), format!("{CLIENT_V4} 45000"));
    Ok(())
}

#[test]
fn connections_to_loopback_are_captured_under_exec() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.client, 9000)?;
    let program = "s = connect('127.0.0.1', 9000); print(*s.getpeername(), read_all(s).split()[0])";
    let seen = exec(&lab).python(&client(program))?;
    assert_eq!(seen.stdout(), "127.0.0.1 9000 b'127.0.0.1'");
    seen.records.assert_server_first(9000);
    Ok(())
}

// === Bytes and ends ===

#[test]
fn the_server_gets_the_same_bytes_and_so_does_the_client() -> Result<()> {
    let lab = Lab::new()?;
    let (sender, receiver) = mpsc::channel();
    let _peer = Peer::start(&lab.server, 9000, move |mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(&bytes)?;
        let _test_over = sender.send(bytes);
        Ok(())
    })?;
    // Starts as HTTP does and then is not: what detection held back must come first.
    let program = format!(
        "data = b'GET / HTTP/9' + bytes(i * 7919 >> 5 & 255 for i in range(2_000_000))\n\
         s = connect('{SERVER_V4}', 9000); s.sendall(data); s.shutdown(socket.SHUT_WR)\n\
         assert read_all(s) == data; print(hashlib.sha256(data).hexdigest())"
    );
    let seen = exec(&lab).flags(&["--detect-timeout", "1h"]).python(&client(&program))?;
    let received = receiver.recv_timeout(patience(SOON))?;
    let byte = |i: usize| u8::try_from(((i * 7919) >> 5) & 255).unwrap();
    let expected: Vec<u8> =
        b"GET / HTTP/9".iter().copied().chain((0..2_000_000).map(byte)).collect();
    assert!(received == expected, "the server received other bytes");
    let connection = seen.records.only_connection(9000);
    assert_eq!(connection.text("treatment"), "tcp");
    assert_eq!(connection.number("bytes_sent"), 2_000_012);
    assert_eq!(connection.number("bytes_received"), 2_000_012);
    Ok(())
}

#[test]
fn a_client_that_says_nothing_and_closes_its_half_still_gets_the_answer() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::start(&lab.server, 9000, |mut stream| {
        assert_eq!(stream.read(&mut [0; 16])?, 0, "the end of the client's half");
        stream.write_all(b"late banner")
    })?;
    let program = format!(
        "s = connect('{SERVER_V4}', 9000); s.shutdown(socket.SHUT_WR); print(read_all(s).decode())"
    );
    let seen = exec(&lab).flags(&["--detect-timeout", "1h"]).python(&client(&program))?;
    assert_eq!(seen.stdout(), "late banner");
    Ok(())
}

#[test]
fn a_server_that_closes_its_half_still_hears_the_client() -> Result<()> {
    let lab = Lab::new()?;
    let (sender, receiver) = mpsc::channel();
    let _peer = Peer::start(&lab.server, 9000, move |mut stream| {
        stream.write_all(b"bye")?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        let _test_over = sender.send(rest);
        Ok(())
    })?;
    let program = format!(
        "s = connect('{SERVER_V4}', 9000); assert read_all(s) == b'bye'\n\
         time.sleep(0.3); s.sendall(b'one more thing'); s.close()"
    );
    exec(&lab).flags(&["--detect-timeout", "1h"]).python(&client(&program))?;
    assert_eq!(receiver.recv_timeout(patience(SOON))?, "one more thing");
    Ok(())
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::start(&lab.server, 9000, |mut stream| {
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 1])?;
        reset(&stream)
    })?;
    let program = format!(
        "s = connect('{SERVER_V4}', 9000); assert s.recv(5) == b'hello'\n\
         s.sendall(b'x'); print(name(lambda: s.recv(1)))"
    );
    let seen = exec(&lab).python(&client(&program))?;
    assert_eq!(seen.stdout(), "ECONNRESET");
    Ok(())
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset() -> Result<()> {
    let lab = Lab::new()?;
    let (sender, receiver) = mpsc::channel();
    let _peer = Peer::start(&lab.server, 9000, move |mut stream| {
        stream.write_all(b"hello")?;
        let end = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        let _test_over = sender.send(end);
        Ok(())
    })?;
    let program = format!(
        "s = connect('{SERVER_V4}', 9000); assert s.recv(5) == b'hello'\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()"
    );
    exec(&lab).python(&client(&program))?;
    assert_eq!(receiver.recv_timeout(patience(SOON))?, Err(std::io::ErrorKind::ConnectionReset));
    Ok(())
}

// === Failures ===

#[test]
fn a_refused_connection_is_an_error_for_the_client() -> Result<()> {
    let lab = Lab::new()?;
    let program = format!("print(*[name(lambda: connect('{SERVER_V4}', 9)) for _ in range(3)])");
    let seen = exec(&lab).python(&client(&program))?;
    assert_eq!(seen.stdout(), "ECONNREFUSED ECONNREFUSED ECONNREFUSED");
    let refused = seen.records.connections(9);
    assert_eq!(refused.len(), 3, "every one of them is recorded");
    for record in refused {
        assert_eq!((record.text("close"), record.text("error")), refusal(), "{record:#?}");
    }
    Ok(())
}

fn refusal() -> (String, String) {
    ("connect_failed".to_owned(), "ECONNREFUSED".to_owned())
}

/// Connections that are accepted first can only be reset; the next one gets the kernel's own answer.
#[test]
fn a_refused_connection_is_an_error_for_the_client_that_was_connected_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let program = format!(
        "def talk(): s = connect('{SERVER_V4}', 9); s.recv(1) or sys.exit('a silent end')\n\
         first = name(talk); time.sleep(0.2)\n\
         print(first, name(lambda: connect('{SERVER_V4}', 9)))"
    );
    let seen = exec(&lab).flags(&["--connect", "immediate"]).python(&client(&program))?;
    let answers: Vec<&str> = seen.stdout().split(' ').collect();
    assert!(["ECONNRESET", "ECONNREFUSED"].contains(&answers[0]), "{answers:?}");
    assert_eq!(answers[1], "ECONNREFUSED", "{answers:?}");
    Ok(())
}

#[test]
fn curl_fails_where_nobody_listens() -> Result<()> {
    let lab = Lab::new()?;
    let seen = exec(&lab).run(&["curl", "-sS", &format!("http://{SERVER_V4}:9/")])?;
    // 7: could not connect.
    assert_eq!(seen.finished.code(), 7, "{:?}", seen.finished);
    Ok(())
}

#[test]
fn an_address_without_route_fails_in_connect() -> Result<()> {
    let lab = Lab::new()?;
    let program = "begin = time.monotonic()\n\
         print(name(lambda: connect('192.0.2.1', 80)), name(lambda: connect('2001:db8::1', 80)))\n\
         assert time.monotonic() - begin < 10";
    let seen = exec(&lab).python(&client(program))?;
    assert_eq!(seen.stdout(), "ENETUNREACH ENETUNREACH");
    Ok(())
}

#[test]
fn happy_eyeballs_takes_the_family_that_has_a_route() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nginx::Nginx::start(&lab)?;
    let resolve = format!("dual.test:8080:[2001:db8::1],{SERVER_V4}");
    let format = "%{remote_ip} %{time_total}";
    let url = "http://dual.test:8080/hello.txt";
    // So long it waits for IPv6 before it tries the other, unless IPv6 is refused at once.
    let wait = ["--happy-eyeballs-timeout-ms", "30000"];
    let line = ["curl", "-sS", "-o", "/dev/null", "-w", format, "--resolve", &resolve, url];
    let seen = exec(&lab).ok(&[&line[..], &wait].concat())?;
    let (address, time) = seen.stdout().split_once(' ').context("two words")?;
    assert_eq!(address, SERVER_V4);
    assert!(time.parse::<f64>()? < 20.0, "{time} s");
    seen.records.assert_treated(nginx::HTTP1, "http1");
    Ok(())
}

/// There is a route, but no socket listens at the IPv6 address.
#[test]
fn happy_eyeballs_takes_the_family_that_answers() -> Result<()> {
    let lab = Lab::new()?;
    let address = lab.server.enter(|| std::net::TcpListener::bind((SERVER_V4, 9000)))??;
    let _server = Peer::answering(address, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi\n")?;
    let resolve = format!("dual.test:9000:[{SERVER_V6}],{SERVER_V4}");
    let url = "http://dual.test:9000/";
    let line = ["curl", "-sS", "-w", "%{remote_ip}", "--resolve", &resolve, url];
    let seen = exec(&lab).ok(&line)?;
    assert_eq!(seen.stdout(), format!("hi\n{SERVER_V4}"));
    let tried = seen.records.connections(9000);
    let closes: Vec<_> = tried.iter().map(|record| record.text("close")).collect();
    // Refused, or given up by curl where IPv6 still looks for its neighbour after the lab's start.
    let ends = ["connect_failed", "client_closed"];
    assert!(closes.iter().any(|close| ends.contains(&close.as_str())), "{tried:#?}");
    Ok(())
}

// === What is not weir's business ===

#[test]
fn udp_is_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    let socket = lab.server.enter(|| std::net::UdpSocket::bind((SERVER_V4, 5300)))??;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 64];
        socket.set_read_timeout(Some(patience(SOON)))?;
        let (size, client) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..size], client).map(drop)
    });
    let program = format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n\
         s.connect(('{SERVER_V4}', 5300)); s.send(b'ping'); print(s.recv(9), *s.getpeername())"
    );
    let seen = exec(&lab).python(&client(&program))?;
    assert_eq!(seen.stdout(), format!("b'ping' {SERVER_V4} 5300"));
    assert!(seen.records.connections(5300).is_empty());
    server.join().expect("the server does not panic")?;
    Ok(())
}

#[test]
fn exec_keeps_the_exit_code_and_the_signal() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(exec(&lab).run(&["sh", "-c", "exit 42"])?.finished.code(), 42);
    assert_eq!(exec(&lab).run(&["sh", "-c", "kill -TERM $$"])?.finished.code(), 143);
    assert_eq!(exec(&lab).run(&["/no/such/program"])?.finished.code(), 127);
    Ok(())
}

#[test]
fn non_blocking_connects_work() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = format!(
        "import asyncio\n\
         async def one(n):\n\
         \x20   r, w = await asyncio.open_connection('{SERVER_V4}', 9000)\n\
         \x20   w.write(b'%d' % n); w.write_eof(); assert await r.read() == b'%d' % n; w.close()\n\
         async def main(): await asyncio.gather(*(one(n) for n in range(100)))\n\
         asyncio.run(main())"
    );
    let seen = exec(&lab).python(&client(&program))?;
    assert_eq!(seen.records.connections(9000).len(), 100);
    Ok(())
}

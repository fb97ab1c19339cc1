//! What the passthrough engine carries is what was sent, byte by byte: frames written by hand, and
//! real clients and servers with a recorder on each side of weir.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::Lab;
use weir_tests::engine::Engine;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{patience, run};
use weir_tests::servers::{grpc, nghttpd, nginx, websocket};
use weir_tests::site::PATIENCE;
use weir_tests::way::{Kind, Way};
use weir_tests::wire::{Wire, noise};

use super::all;
use weir_tests::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, OK, PADDED, PING,
    PREFACE, PRIORITY, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, field, frame, head, indexed_field,
    setting,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Of no frame that is known, and of no setting.
const UNKNOWN: u8 = 0xfa;

// === Frames ===

/// How many requests are recorded, as what, and what is said.
type Session = (&'static [u64], &'static str, fn(&Wire) -> Result<()>);

const SESSIONS: &[(&str, Session)] = &[
    ("every kind of frame", (&[200, 200], "http2", |wire| every_frame(wire, usize::MAX))),
    ("every kind of frame, byte by byte", (&[200, 200], "http2", |wire| every_frame(wire, 1))),
    ("every kind of frame, in sevens", (&[200, 200], "http2", |wire| every_frame(wire, 7))),
    ("heads of 3 MiB in 20000 fields", (&[200, 200], "http2", large_heads)),
    ("one field of 2 MiB", (&[200, 200], "http2", large_field)),
    ("an h2c upgrade", (&[200, 200], "http1", h2c)),
    ("a broken frame", (&[], "http2", broken)),
];

#[test]
fn frames_arrive_as_they_were_sent() -> Result<()> {
    let way = Way::new(Kind::Both, Engine::Passthrough)?;
    all(SESSIONS, |(statuses, treatment, talk)| {
        let server = way.listen()?;
        let wire = server.wire()?;
        talk(&wire)?;
        wire.finish()?;
        server.recorded(1, treatment, statuses)
    })?;
    way.close()
}

fn preface() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

fn every_frame(wire: &Wire, piece: usize) -> Result<()> {
    let settings = [setting(1, 4096), setting(3, 7), setting(4, 1 << 20), setting(0xfa, 9)];
    let window = 65_535_u32.to_be_bytes();
    let early = [
        frame(SETTINGS, 0, 0, &settings.concat()),
        frame(WINDOW_UPDATE, 0, 0, &window),
        frame(UNKNOWN, 0xff, 0, b"from either side"),
        frame(PING, 0, 0, b"12345678"),
    ]
    .concat();
    wire.up_by(piece, [PREFACE, &early].concat())?;
    wire.down_by(piece, [&early[..], &frame(SETTINGS, ACK, 0, &[])].concat())?;
    let path = [&[0x82, 0x86, 0x04][..], &[6], b"/a?b=c"].concat();
    wire.up_by(
        piece,
        [
            frame(SETTINGS, ACK, 0, &[]),
            frame(PING, ACK, 0, b"12345678"),
            frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 15]),
            frame(
                HEADERS,
                WITH_PRIORITY | PADDED,
                1,
                &[&[3, 0x80, 0, 0, 0, 200][..], &path, &[0; 3]].concat(),
            ),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, &indexed_field("x-one", "first")),
            frame(UNKNOWN, 0, 1, &noise(300)),
            frame(DATA, PADDED, 1, &[&[5][..], b"hello", &[0; 5]].concat()),
            frame(DATA, 0, 1, &[]),
            frame(WINDOW_UPDATE, 0, 1, &window),
            head(END_STREAM, 1, &field("x-sum", "1")),
            // The table has one entry by now.
            head(END_STREAM, 3, &[GET, &[0xbe]].concat()),
        ]
        .concat(),
    )?;
    wire.down_by(
        piece,
        [
            head(0, 3, &[OK, &indexed_field("x-two", "second")].concat()),
            head(0, 1, &[0x08, 3, b'1', b'0', b'3']),
            head(0, 1, &[OK, &[0xbe]].concat()),
            frame(DATA, PADDED, 1, &[&[255][..], b"abc", &[0; 255]].concat()),
            frame(DATA, END_STREAM, 3, &noise(1000)),
            head(END_STREAM, 1, &field("x-checksum", "42")),
            frame(GOAWAY, 0, 0, &[&[0, 0, 0, 3, 0, 0, 0, 0][..], b"and good night"].concat()),
        ]
        .concat(),
    )?;
    wire.up_by(piece, frame(GOAWAY, 0, 0, &[0; 8]))
}

fn large_heads(wire: &Wire) -> Result<()> {
    let fields: Vec<u8> =
        (0..20_000).flat_map(|n| field(&format!("x-field-{n}"), &"v".repeat(n % 300))).collect();
    heads(wire, &fields)
}

fn large_field(wire: &Wire) -> Result<()> {
    heads(wire, &indexed_field("x-big", &"v".repeat(2 << 20)))
}

/// The fields both ways, and an exchange that shows that the tables are still right.
fn heads(wire: &Wire, fields: &[u8]) -> Result<()> {
    wire.up([preface(), head(END_STREAM, 1, &[GET, fields].concat())].concat())?;
    wire.down([frame(SETTINGS, 0, 0, &[]), head(END_STREAM, 1, &[OK, fields].concat())].concat())?;
    wire.up(head(END_STREAM, 3, &[GET, &indexed_field("x", "y"), &[0xbe]].concat()))?;
    wire.down(head(END_STREAM, 3, OK))
}

fn h2c(wire: &Wire) -> Result<()> {
    wire.up("GET /first HTTP/1.1\r\nHost: host.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")?;
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    wire.down([switching.as_bytes(), &frame(SETTINGS, 0, 0, &[])].concat())?;
    wire.up([preface(), frame(SETTINGS, ACK, 0, &[])].concat())?;
    wire.down([head(0, 1, OK), frame(DATA, END_STREAM, 1, &noise(20_000 >> 1))].concat())?;
    wire.up(head(END_STREAM, 3, GET))?;
    wire.down(head(END_STREAM, 3, OK))
}

/// The exchange is lost to the records, not to the peers.
fn broken(wire: &Wire) -> Result<()> {
    wire.up([preface(), head(END_STREAM, 1, &[0xff; 20])].concat())?;
    wire.down([frame(SETTINGS, 0, 0, &[]), frame(DATA, 0, 0, &noise(20_000 >> 1))].concat())?;
    wire.up(noise(100_000))?;
    wire.down(noise(100_000))
}

// === Real peers ===

/// What one peer has sent, and what has arrived at the other.
#[derive(Default)]
struct Recorded {
    sent: Vec<u8>,
    arrived: Vec<u8>,
}

/// One connection of a real client to a real server, with weir in between; both directions.
fn relay(client: TcpStream, server: TcpStream, wire: Wire) -> Result<[Recorded; 2]> {
    let Wire { client: near, server: far } = wire;
    thread::scope(|scope| {
        let sent_up = scope.spawn(|| copy(&client, &near));
        let arrived_up = scope.spawn(|| copy(&far, &server));
        let sent_down = scope.spawn(|| copy(&server, &far));
        let arrived_down = copy(&near, &client);
        let of = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        Ok([
            Recorded { sent: of(sent_up)?, arrived: of(arrived_up)? },
            Recorded { sent: of(sent_down)?, arrived: arrived_down? },
        ])
    })
}

/// Copies until the end, and passes that on; what it has copied. A reset is an end: peers that have
/// what they need may close in this way.
fn copy(mut from: &TcpStream, mut to: &TcpStream) -> Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                all.extend_from_slice(&buffer[..count]);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    let _gone_already = to.shutdown(Shutdown::Write);
    Ok(all)
}

/// Runs a client against a server of the lab, each of its connections over the way; what was said.
fn recorded(way: &Way, lab: &Lab, port: u16, line: &str) -> Result<Vec<[Recorded; 2]>> {
    let listener = lab.client.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    listener.set_nonblocking(true)?;
    // A port of its own: another one may not be free yet after the row before.
    let own = listener.local_addr()?.port();
    let line = line.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{own}"));
    let (over, relayed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| -> Result<()> {
        let relays = scope.spawn(|| -> Result<()> {
            let mut relays = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                client.set_nonblocking(false)?;
                let server = lab.client.enter(|| TcpStream::connect((SERVER_V4, port)))??;
                for stream in [&client, &server] {
                    stream.set_read_timeout(Some(patience(PATIENCE)))?;
                    stream.set_nodelay(true)?;
                }
                let wire = way.listen()?.wire()?;
                wire.client.set_nodelay(true)?;
                wire.server.set_nodelay(true)?;
                let relayed = &relayed;
                relays.push(scope.spawn(move || -> Result<()> {
                    let both = relay(client, server, wire)?;
                    relayed.lock().map_err(|_| anyhow!("another relay panicked"))?.push(both);
                    Ok(())
                }));
            }
            relays.into_iter().try_for_each(|relay| relay.join().expect("no panic"))
        });
        let mut client = lab.client.command("bash");
        let finished = run(client.args(["-euo", "pipefail", "-c", &line]), LIMIT);
        over.store(true, Ordering::Relaxed);
        relays.join().expect("no panic").context("relay")?;
        finished?.ok().map(drop)
    })?;
    relayed.into_inner().map_err(|_| anyhow!("a relay panicked"))
}

#[test]
fn what_real_peers_say_arrives_as_it_was_said() -> Result<()> {
    let (way, lab) = (Way::new(Kind::Both, Engine::Passthrough)?, Lab::new()?);
    let _servers = (
        nginx::Nginx::start(&lab)?,
        nghttpd::start(&lab)?,
        grpc::start(&lab)?,
        websocket::start(&lab)?,
    );
    let shell = |words: Vec<std::ffi::OsString>| -> String {
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let http = |port: u16, path: &str| format!("http://127.0.0.1:{port}/{path}");
    let (h1, h2, echo) = (nginx::HTTP1, nginx::H2C, nghttpd::PORT);
    let rows = [
        ("curl", (h1, 1, format!("curl -sS {0} {0}", http(h1, "chunked.txt")))),
        (
            "curl with an upload",
            (h1, 1, format!("head -c 3000000 /dev/urandom | curl -sS -T - {}", http(h1, "upload"))),
        ),
        ("h2load over HTTP/1", (h1, 2, format!("h2load --h1 -n 200 -c 2 -m 5 {}", http(h1, "")))),
        (
            "curl over HTTP/2",
            (
                echo,
                1,
                format!(
                    "head -c 3000000 /dev/urandom | curl -sS -o /dev/null --http2-prior-knowledge \
                     --data-binary @- {}",
                    http(echo, "echo")
                ),
            ),
        ),
        ("nghttp", (echo, 1, format!("nghttp {}", http(echo, "hello.txt")))),
        ("h2load", (h2, 2, format!("h2load -n 400 -c 2 -m 20 {}", http(h2, "hello.txt")))),
        ("gRPC", (grpc::PORT, 1, shell(grpc::client("127.0.0.1", "all")))),
        (
            "a gRPC call that is cancelled",
            (grpc::PORT, 1, shell(grpc::client("127.0.0.1", "cancel"))),
        ),
        ("WebSocket", (websocket::PORT, 1, shell(websocket::client("127.0.0.1", 100)))),
    ];
    all(&rows, |(port, count, line)| {
        let connections = recorded(&way, &lab, *port, line)?;
        ensure!(connections.len() == *count, "{} connections", connections.len());
        for Recorded { sent, arrived } in connections.iter().flatten() {
            ensure!(!sent.is_empty(), "nothing was said");
            let same = sent.iter().zip(arrived).take_while(|(one, other)| one == other).count();
            let lengths = (sent.len(), arrived.len());
            ensure!(
                lengths == (same, same),
                "{lengths:?} bytes were sent and arrived, {same} same"
            );
        }
        Ok(())
    })?;
    drop(lab);
    way.close()
}

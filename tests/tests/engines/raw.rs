//! HTTP/1 that no client of Debian sends: both ends are the test's, the bytes arrive as they were
//! sent, and both engines record the same.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_tests::engine::Engine;
use weir_tests::process::wait_until;
use weir_tests::site::{PATIENCE, read_all};
use weir_tests::way::{Kind, Way};
use weir_tests::wire::{Wire, noise, reset};

use super::{all, equal};

/// What is said on one connection, which is ended too; and how many requests that is.
type Session = (fn(Wire) -> Result<()>, usize);

const SESSIONS: &[(&str, Session)] = &[
    ("pipelining", (pipelining, 5)),
    ("HTTP/1.0 until the end", (http1_0, 1)),
    ("targets of every form", (targets, 4)),
    ("interim answers", (interim, 2)),
    ("chunks and trailers both ways", (chunks, 2)),
    ("an answer before the request's end", (early_answer, 2)),
    ("the answer says close, and requests are left", (close_with_more, 2)),
    ("an upgrade", (upgrade, 1)),
    ("a refused upgrade", (refused_upgrade, 2)),
    ("CONNECT", (connect, 2)),
    ("gRPC-like fields over HTTP/1", (grpc_fields, 1)),
    ("the client resets in a body", (client_resets, 1)),
    ("the server resets in a body", (server_resets, 1)),
    ("the client ends its half behind the request", (half_closed, 1)),
];

const CUT_SHORT: &[(&str, Session)] = &[
    ("the server ends in a body", (server_ends_in_a_body, 1)),
    ("the server ends in a chunk", (server_ends_in_a_chunk, 1)),
];

/// The records of a session's requests, and then the connection's own.
fn records(way: &Way, (talk, count): &Session) -> Result<Vec<Value>> {
    let server = way.listen()?;
    talk(server.wire()?)?;
    let port = server.address().port();
    let mut found = Vec::new();
    wait_until("the records", PATIENCE, || {
        let records = way.records()?;
        let of_requests = records.requests_to(port);
        let of_connection = records.connections(port);
        let all = of_requests.iter().chain(&of_connection);
        found = all.map(|record| record.comparable()).collect();
        Ok(!of_connection.is_empty())
    })?;
    ensure!(found.len() == count + 1, "{count} requests expected in {found:#?}");
    Ok(found)
}

#[test]
fn every_session_leaves_the_same_records() -> Result<()> {
    let [passthrough, terminate] = Engine::ALL.map(|engine| Way::new(Kind::Outbound, engine));
    let (passthrough, terminate) = (passthrough?, terminate?);
    all(SESSIONS, |session| {
        equal(&records(&passthrough, session)?, &records(&terminate, session)?)
    })?;
    passthrough.close()?;
    terminate.close()
}

/// To the passthrough engine the connection has ended in order, to the terminating one its message has
/// not. They agree on the request.
#[test]
fn an_end_within_a_message_leaves_the_same_record_of_the_request() -> Result<()> {
    let [passthrough, terminate] = Engine::ALL.map(|engine| Way::new(Kind::Outbound, engine));
    let (passthrough, terminate) = (passthrough?, terminate?);
    all(CUT_SHORT, |session| {
        let (passthrough, terminate) =
            (records(&passthrough, session)?, records(&terminate, session)?);
        equal(&passthrough[..1], &terminate[..1])?;
        let closes = (&passthrough[1]["close"], &terminate[1]["close"]);
        ensure!(closes == (&json!("finished"), &json!("upstream_reset")), "{closes:?}");
        ensure!(passthrough[0]["end"] == "upstream_reset", "{}", passthrough[0]);
        Ok(())
    })?;
    passthrough.close()?;
    terminate.close()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: host.test\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// === Messages ===

fn pipelining(wire: Wire) -> Result<()> {
    wire.up("GET /1 HTTP/1.1\r\nHost: host.test\r\n\r\n\
         POST /2?secret HTTP/1.1\r\nHost: host.test\r\nContent-Length: 5\r\n\r\nGET /\
         HEAD /3 HTTP/1.1\r\nHost: host.test\r\n\r\n\r\n\
         GET /4 HTTP/1.1\r\nHost: other.test\r\n\r\n\
         PUT /5 HTTP/1.1\r\nHost: host.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n")?;
    wire.down(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 204 No Content\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n\
         HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n\
         HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
    )?;
    wire.finish()
}

fn http1_0(wire: Wire) -> Result<()> {
    wire.up("GET /old HTTP/1.0\r\n\r\n")?;
    wire.down("HTTP/1.0 200 OK\r\n\r\n")?;
    wire.down(noise(100_000))?;
    wire.server_ends()?;
    wire.client_ends()
}

fn targets(wire: Wire) -> Result<()> {
    for target in ["*", "http://other.test:81/x?y=z", "http://other.test", "//a//b?"] {
        wire.up(format!("OPTIONS {target} HTTP/1.1\r\nHost: host.test\r\n\r\n"))?;
        wire.down(OK)?;
    }
    wire.finish()
}

fn interim(wire: Wire) -> Result<()> {
    for length in [5, 0] {
        wire.up(format!(
            "PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\n\r\n"
        ))?;
        wire.down("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
        wire.down("HTTP/1.1 100 Continue\r\n\r\n")?;
        wire.up(&noise(10)[..length])?;
        wire.down(OK)?;
    }
    wire.finish()
}

fn chunks(wire: Wire) -> Result<()> {
    let body = "5\r\nhello\r\n00A;name=\"v;w\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
    for piece in [1, 1000] {
        wire.up_by(
            piece,
            format!("POST / HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
        )?;
        wire.down_by(
            piece,
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
        )?;
    }
    wire.finish()
}

fn early_answer(wire: Wire) -> Result<()> {
    wire.up("PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: 10\r\n\r\nhello")?;
    wire.down(OK)?;
    wire.up("world")?;
    wire.up(GET)?;
    wire.down(OK)?;
    wire.finish()
}

fn close_with_more(wire: Wire) -> Result<()> {
    wire.up([GET, GET].concat())?;
    wire.down("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")?;
    wire.server_ends()?;
    wire.client_ends()
}

fn grpc_fields(wire: Wire) -> Result<()> {
    wire.up("POST /a.B/C HTTP/1.1\r\nHost: h.test\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")?;
    wire.down("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 5\r\nContent-Length: 0\r\n\r\n")?;
    wire.finish()
}

// === Tunnels ===

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: host.test\r\nConnection: Upgrade\r\n\
    Upgrade: weir-echo/1\r\n\r\n";

fn raw(wire: &Wire) -> Result<()> {
    wire.up(noise(30_000))?;
    wire.down(noise(50_000))
}

fn upgrade(wire: Wire) -> Result<()> {
    wire.up(UPGRADE)?;
    wire.down(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: weir-echo/1\r\n\r\n",
    )?;
    raw(&wire)?;
    wire.finish()
}

fn refused_upgrade(wire: Wire) -> Result<()> {
    wire.up(UPGRADE)?;
    wire.down(OK)?;
    wire.up(GET)?;
    wire.down(OK)?;
    wire.finish()
}

fn connect(wire: Wire) -> Result<()> {
    let connect = "CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n";
    wire.up(connect)?;
    wire.down("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno")?;
    wire.up(connect)?;
    wire.down("HTTP/1.1 200 Connection Established\r\n\r\n")?;
    raw(&wire)?;
    wire.finish()
}

// === Other ends ===

const UPLOAD: &str = "PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: 100\r\n\r\nten bytes.";

fn client_resets(wire: Wire) -> Result<()> {
    wire.up(UPLOAD)?;
    let Wire { client, server } = wire;
    reset(client)?;
    let end = read_all(&server);
    ensure!(end.is_err(), "the reset became {end:?}");
    Ok(())
}

fn server_resets(wire: Wire) -> Result<()> {
    wire.up(GET)?;
    wire.down("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.")?;
    wire.server_resets()
}

fn server_ends_in_a_body(wire: Wire) -> Result<()> {
    wire.up(GET)?;
    wire.down("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.")?;
    wire.server_ends()?;
    wire.client_ends()
}

fn server_ends_in_a_chunk(wire: Wire) -> Result<()> {
    wire.up(GET)?;
    wire.down("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten bytes.")?;
    wire.server_ends()?;
    wire.client_ends()
}

fn half_closed(wire: Wire) -> Result<()> {
    wire.up(GET)?;
    wire.client_ends()?;
    wire.down(OK)?;
    wire.server_ends()
}

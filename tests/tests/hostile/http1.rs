//! HTTP/1 with two meanings: weir adds none of its own. Either the server gets every byte as the client
//! has sent it, or weir refuses with 400 and the server gets nothing of it.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use weir_tests::engine::Engine;
use weir_tests::site::read_all;
use weir_tests::way::{Kind, Way};
use weir_tests::wire::Wire;

use super::shapes;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn keeps_its_meaning(way: &Way, request: &str) -> Result<()> {
    let server = way.listen()?;
    let Wire { client, server: upstream } = server.wire()?;
    (&client).write_all(request.as_bytes())?;
    client.shutdown(std::net::Shutdown::Write)?;
    let got = read_all(&upstream).context("what the server gets")?;
    // As a server that has understood nothing ends it.
    let answered = (&upstream).write_all(OK.as_bytes());
    drop(upstream);
    let said = read_all(&client).unwrap_or_default();
    if got == request.as_bytes() {
        return Ok(answered?);
    }
    let said = String::from_utf8_lossy(&said);
    ensure!(
        way.engine() == Engine::Terminate && got.is_empty() && said.starts_with("HTTP/1.1 400 "),
        "the server got {}, the client {said:?}",
        got.escape_ascii()
    );
    Ok(())
}

#[test]
fn no_shape_comes_to_mean_something_else() -> Result<()> {
    for engine in Engine::ALL {
        let way = Way::new(Kind::Outbound, engine)?;
        let failed = shapes::all().into_iter().filter_map(|(name, request)| {
            let outcome = keeps_its_meaning(&way, &request);
            outcome.err().map(|error| format!("{engine}, {name}: {error:#}"))
        });
        let failed: Vec<_> = failed.collect();
        ensure!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
        way.close()?;
    }
    Ok(())
}

/// The same of a server whose answers are ambiguous.
#[test]
fn no_answer_comes_to_mean_something_else() -> Result<()> {
    let rows = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello",
        "HTTP/1.1 999 \0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nnobody has asked",
        "HTTP/1.1 099 What\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ];
    for engine in Engine::ALL {
        let way = Way::new(Kind::Outbound, engine)?;
        for answer in rows {
            let server = way.listen()?;
            let wire = server.wire()?;
            wire.up("GET / HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
            let Wire { client, server: upstream } = wire;
            (&upstream).write_all(answer.as_bytes())?;
            drop(upstream);
            let got = read_all(&client).with_context(|| format!("{engine}, {answer:?}"))?;
            let (got, answer) = (got.escape_ascii().to_string(), answer.as_bytes());
            ensure!(got == answer.escape_ascii().to_string(), "{engine}: the client got {got}");
        }
        way.close()?;
    }
    Ok(())
}

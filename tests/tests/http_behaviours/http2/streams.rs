//! One stream: heads, bodies, trailers, tunnels.

use std::future::poll_fn;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::server;
use http::{HeaderMap, Method, Request};
use weir_tests::way::Way;
use weir_tests::wire::noise;

use super::peers::{Peers, hear, hear_part, http2, http2_with, list, request, response, say};

/// One exchange without bodies, compared at both ends: heads, that nothing follows, and that no
/// field was added.
async fn exchange(
    peers: &mut Peers,
    asked: Request<()>,
    status: u16,
    fields: &[(&str, &str)],
) -> Result<()> {
    let wanted = (asked.method().clone(), asked.uri().clone(), list(asked.headers()));
    let (answer, _body) = peers.request(asked, true).await?;
    let (got, mut respond) = peers.arrival().await?;
    let arrived = (got.method().clone(), got.uri().clone(), list(got.headers()));
    ensure!(arrived == wanted, "{arrived:?} instead of {wanted:?}");
    let (body, trailers) = hear(&mut got.into_body()).await?;
    ensure!(body.is_empty() && trailers.is_none(), "a body: {body:?} {trailers:?}");
    let said = response(status, fields)?;
    let wanted = list(said.headers());
    respond.send_response(said, true)?;
    let answer = answer.await?;
    ensure!(answer.status().as_u16() == status, "{answer:?}");
    ensure!(list(answer.headers()) == wanted, "{answer:?} instead of {wanted:?}");
    let (body, trailers) = hear(&mut answer.into_body()).await?;
    ensure!(body.is_empty() && trailers.is_none(), "a body: {body:?} {trailers:?}");
    Ok(())
}

pub(crate) fn fields(way: &Way) -> Result<()> {
    http2(way, &[200, 299], async |peers: &mut Peers| {
        let fields = [("x-first", "1"), ("cookie", "a=b"), ("x-empty", ""), ("te", "trailers")];
        let asked = request("GET", "/a//b/../c?x=%7e&&y", &fields)?;
        let answers =
            [("x-z", "1"), ("set-cookie", "a=b"), ("set-cookie", "c=d"), ("server", "me")];
        exchange(peers, asked, 200, &answers).await?;
        let secret = [("authorization", "Basic eA=="), ("via", "1.1 x"), ("accept", "*/*")];
        let asked = request("M-SEARCH", "/", &secret)?;
        exchange(peers, asked, 299, &[("date", "today"), ("x-latin", "a b")]).await
    })
}

pub(crate) fn bodyless(way: &Way) -> Result<()> {
    let methods = ["GET", "DELETE", "OPTIONS", "POST", "PURGE"];
    http2(way, &[200; 6], async |peers: &mut Peers| {
        for method in methods {
            exchange(peers, request(method, "/", &[])?, 200, &[]).await?;
        }
        let zero = [("content-length", "0")];
        exchange(peers, request("POST", "/", &zero)?, 200, &zero).await
    })
}

pub(crate) fn bare(way: &Way) -> Result<()> {
    http2(way, &[200, 204, 304, 304], async |peers: &mut Peers| {
        let length = [("content-length", "12345")];
        exchange(peers, request("HEAD", "/big", &[])?, 200, &length).await?;
        exchange(peers, request("GET", "/", &[])?, 204, &[]).await?;
        exchange(peers, request("GET", "/", &[])?, 304, &[("etag", "\"x\"")]).await?;
        exchange(peers, request("GET", "/", &[])?, 304, &length).await
    })
}

/// A body each way, with or without its length in the head, and trailers each way.
async fn upload(
    peers: &mut Peers,
    body: &[u8],
    announced: bool,
    trailers: Option<&HeaderMap>,
) -> Result<()> {
    let length = body.len().to_string();
    let fields = if announced { vec![("content-length", length.as_str())] } else { Vec::new() };
    let (answer, mut stream) = peers.request(request("POST", "/", &fields)?, false).await?;
    say(&mut stream, body, trailers.cloned())?;
    let (got, mut respond) = peers.arrival().await?;
    ensure!(list(got.headers()).len() == fields.len(), "{got:?}");
    let (bytes, end) = hear(&mut got.into_body()).await?;
    ensure!(bytes == body, "{} other bytes at the server", bytes.len());
    ensure!(end.as_ref() == trailers, "trailers at the server: {end:?}");
    let mut stream = respond.send_response(response(200, &fields)?, false)?;
    say(&mut stream, body, trailers.cloned())?;
    let answer = answer.await?;
    ensure!(list(answer.headers()).len() == fields.len(), "{answer:?}");
    let (bytes, end) = hear(&mut answer.into_body()).await?;
    ensure!(bytes == body, "{} other bytes at the client", bytes.len());
    ensure!(end.as_ref() == trailers, "trailers at the client: {end:?}");
    Ok(())
}

pub(crate) fn bodies(way: &Way) -> Result<()> {
    http2(way, &[200; 3], async |peers: &mut Peers| {
        upload(peers, b"hello", true, None).await?;
        upload(peers, b"hello", false, None).await?;
        upload(peers, b"", false, None).await
    })
}

pub(crate) fn large(way: &Way) -> Result<()> {
    let body = noise(8 << 20);
    http2(way, &[200; 2], async |peers: &mut Peers| {
        upload(peers, &body, true, None).await?;
        upload(peers, &body, false, None).await
    })
}

pub(crate) fn trailers(way: &Way) -> Result<()> {
    let mut trailers = HeaderMap::new();
    for (name, value) in [("grpc-status", "0"), ("x-sum", "1"), ("x-sum", "2")] {
        trailers.append(name, value.parse()?);
    }
    http2(way, &[200; 2], async |peers: &mut Peers| {
        upload(peers, b"hello", false, Some(&trailers)).await?;
        upload(peers, b"", false, Some(&trailers)).await
    })
}

pub(crate) fn informational(way: &Way) -> Result<()> {
    http2(way, &[200], async |peers: &mut Peers| {
        let (mut answer, mut stream) = peers.request(request("PUT", "/", &[])?, false).await?;
        let (got, mut respond) = peers.arrival().await?;
        for (status, field) in [(103, "link"), (103, "link"), (100, "x-kept")] {
            respond.send_informational(response(status, &[(field, "value")])?)?;
            let early = poll_fn(|cx| answer.poll_informational(cx)).await;
            let early = early.context("no interim answer came")??;
            ensure!(early.status().as_u16() == status, "{early:?}");
            ensure!(list(early.headers()) == [(field.into(), "value".into())], "{early:?}");
        }
        say(&mut stream, b"body", None)?;
        ensure!(hear(&mut got.into_body()).await?.0 == b"body");
        respond.send_response(response(200, &[])?, true)?;
        ensure!(answer.await?.status() == 200);
        Ok(())
    })
}

pub(crate) fn large_fields(way: &Way) -> Result<()> {
    let big = "v".repeat(256 << 10);
    http2(way, &[200; 2], async |peers: &mut Peers| {
        let fields = [("x-big", big.as_str())];
        exchange(peers, request("GET", "/", &fields)?, 200, &fields).await?;
        let names: Vec<String> = (0..900).map(|n| format!("x-field-{n}")).collect();
        let many: Vec<_> =
            names.iter().map(|name| (name.as_str(), "a value of some length")).collect();
        exchange(peers, request("GET", "/", &many)?, 200, &many).await
    })
}

pub(crate) fn any_order(way: &Way) -> Result<()> {
    const STREAMS: usize = 90;
    http2(way, &[200; STREAMS], async |peers: &mut Peers| {
        let (mut answers, mut arrivals) = (Vec::new(), Vec::new());
        for number in 0..STREAMS {
            let asked = request("GET", &format!("/{number}"), &[])?;
            answers.push((number, peers.request(asked, true).await?.0));
        }
        for _ in 0..STREAMS {
            arrivals.push(peers.arrival().await?);
        }
        // The last come first.
        for (got, mut respond) in arrivals.into_iter().rev() {
            let mut stream = respond.send_response(response(200, &[])?, false)?;
            say(&mut stream, got.uri().path().as_bytes(), None)?;
        }
        for (number, answer) in answers.into_iter().rev() {
            let (body, _) = hear(&mut answer.await?.into_body()).await?;
            ensure!(body == format!("/{number}").as_bytes(), "{number}: {body:?}");
        }
        Ok(())
    })
}

// === Tunnels ===

/// Raw bytes in the stream, both ways and in turn, after a head that promised them.
async fn tunnel(peers: &mut Peers, asked: Request<()>) -> Result<()> {
    let (answer, mut up) = peers.request(asked, false).await?;
    let (got, mut respond) = peers.arrival().await?;
    let mut down = respond.send_response(response(200, &[])?, false)?;
    let (mut at_server, answer) = (got.into_body(), answer.await?);
    ensure!(answer.status() == 200 && answer.headers().is_empty(), "{answer:?}");
    let mut at_client = answer.into_body();
    for words in ["hello", "GET / HTTP/1.1\r\n\r\n"] {
        up.send_data(Bytes::from(words), false)?;
        ensure!(hear_part(&mut at_server, words.len()).await? == words.as_bytes());
        down.send_data(Bytes::from(words), false)?;
        ensure!(hear_part(&mut at_client, words.len()).await? == words.as_bytes());
    }
    // One half ends, the other goes on.
    up.send_data(Bytes::new(), true)?;
    ensure!(hear(&mut at_server).await?.0.is_empty());
    down.send_data(Bytes::from(noise(100_000)), true)?;
    ensure!(hear(&mut at_client).await?.0 == noise(100_000));
    Ok(())
}

pub(crate) fn connect(way: &Way) -> Result<()> {
    http2(way, &[200], async |peers: &mut Peers| {
        let asked = Request::builder().method(Method::CONNECT).uri("db.test:5432").body(())?;
        tunnel(peers, asked).await
    })
}

pub(crate) fn extended_connect(way: &Way) -> Result<()> {
    let mut offering = server::Builder::new();
    offering.enable_connect_protocol();
    http2_with(way, &mut offering, &[200], async |peers: &mut Peers| {
        // Until the server's SETTINGS are there; a client that never gets them hangs.
        while !peers.client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut asked = request("CONNECT", "/chat", &[])?;
        asked.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        tunnel(peers, asked).await
    })?;
    http2(way, &[200], async |peers: &mut Peers| {
        exchange(peers, request("GET", "/", &[])?, 200, &[]).await?;
        ensure!(!peers.client.is_extended_connect_protocol_enabled(), "it is not offered");
        Ok(())
    })
}

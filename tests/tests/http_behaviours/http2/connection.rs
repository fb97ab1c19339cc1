//! How streams and connections end: RST_STREAM, GOAWAY, death.

use anyhow::{Result, ensure};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use weir_tests::way::Way;

use super::peers::{Order, Peers, hear, hear_part, http2, request, reset_reason, response, say};

const REASONS: [Reason; 6] = [
    Reason::CANCEL,
    Reason::REFUSED_STREAM,
    Reason::ENHANCE_YOUR_CALM,
    Reason::INTERNAL_ERROR,
    Reason::HTTP_1_1_REQUIRED,
    Reason::INADEQUATE_SECURITY,
];

/// Before an answer, and in the middle of its body.
pub(crate) fn server_resets(way: &Way) -> Result<()> {
    let statuses = [[0, 200]; REASONS.len()].concat();
    http2(way, &statuses, async |peers: &mut Peers| {
        for reason in REASONS {
            let (answer, _body) = peers.request(request("GET", "/", &[])?, true).await?;
            let (_, mut respond) = peers.arrival().await?;
            respond.send_reset(reason);
            let error = answer.await.expect_err("there was no answer");
            ensure!(error.is_reset() && error.reason() == Some(reason), "{error} for {reason}");
            let mut half = half_an_answer(peers).await?;
            half.rest.send_reset(reason);
            let error = hear(&mut half.body).await.expect_err("the other half never came");
            ensure!(error.is_reset() && error.reason() == Some(reason), "{error} for {reason}");
        }
        Ok(())
    })
}

/// In the middle of its own body, and while it waits.
pub(crate) fn client_resets(way: &Way) -> Result<()> {
    let statuses = [[0, 0]; REASONS.len()].concat();
    http2(way, &statuses, async |peers: &mut Peers| {
        for reason in REASONS {
            let (_answer, mut up) = peers.request(request("PUT", "/", &[])?, false).await?;
            up.send_data(Bytes::from("half"), false)?;
            let (got, _respond) = peers.arrival().await?;
            let mut body = got.into_body();
            ensure!(hear_part(&mut body, 4).await? == b"half");
            up.send_reset(reason);
            let error = hear(&mut body).await.expect_err("the other half never came");
            ensure!(error.reason() == Some(reason), "{error} for {reason}");
            let (_answer, mut up) = peers.request(request("GET", "/", &[])?, true).await?;
            let (_, mut respond) = peers.arrival().await?;
            up.send_reset(reason);
            let seen = reset_reason(&mut respond).await?;
            ensure!(seen == reason, "{seen} for {reason}");
        }
        Ok(())
    })
}

/// The stream that is open ends well; no new one can be opened; the connection ends well.
pub(crate) fn graceful(way: &Way) -> Result<()> {
    http2(way, &[200], async |peers: &mut Peers| {
        let mut half = half_an_answer(peers).await?;
        peers.order(Order::Leave).await?;
        // GOAWAY has arrived when the client can send no more.
        while peers.client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        say(&mut half.rest, b" and half", None)?;
        ensure!(hear(&mut half.body).await?.0 == b" and half");
        peers.client_end().await?;
        Ok(())
    })
}

pub(crate) fn abrupt(way: &Way) -> Result<()> {
    for reason in [Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR, Reason::INADEQUATE_SECURITY] {
        http2(way, &[200], async |peers: &mut Peers| {
            let mut half = half_an_answer(peers).await?;
            peers.order(Order::Abort(reason)).await?;
            // h2 names this stream as one that it may have worked on, so that it has no reason.
            hear(&mut half.body).await.expect_err("the other half never came");
            let error = peers.client_end().await.expect_err("the connection does not end well");
            ensure!(error.is_go_away() && error.reason() == Some(reason), "{error} for {reason}");
            Ok(())
        })?;
    }
    Ok(())
}

pub(crate) fn dies(way: &Way) -> Result<()> {
    http2(way, &[200], async |peers: &mut Peers| {
        let mut half = half_an_answer(peers).await?;
        peers.order(Order::Die).await?;
        let error = hear(&mut half.body).await.expect_err("a body that is cut off is no body");
        ensure!(error.reason() != Some(Reason::NO_ERROR), "{error}");
        let _either_way = peers.client_end().await;
        Ok(())
    })
}

/// An exchange in the middle of the answer's body.
struct Half {
    body: RecvStream,
    rest: SendStream<Bytes>,
}

async fn half_an_answer(peers: &mut Peers) -> Result<Half> {
    let (answer, _body) = peers.request(request("GET", "/", &[])?, true).await?;
    let (_, mut respond) = peers.arrival().await?;
    let mut rest = respond.send_response(response(200, &[])?, false)?;
    rest.send_data(Bytes::from("half"), false)?;
    let mut body = answer.await?.into_body();
    ensure!(hear_part(&mut body, 4).await? == b"half");
    Ok(Half { body, rest })
}

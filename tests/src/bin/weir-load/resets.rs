//! Exchanges that one side breaks off with a reset: the other has to get what came before, unless it
//! was still on its way, and then a reset, never an end in order.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;
use weir_tests::load::Outcome;

use crate::journey::{End, Journey, reset_unless_done};
use crate::raw::{self, Wish, hear_address, receive, say_header, send};

/// Longest time from the last byte to the reset, in milliseconds.
const REST: u64 = 10;

// === The one that resets ===

/// A client that breaks off somewhere.
pub(crate) async fn visit(journey: &Journey, mut stream: TcpStream) -> End {
    let wish = Wish::random();
    let (sent, received) = (fastrand::usize(0..=wish.up), fastrand::usize(0..=wish.down));
    let (mut reader, mut writer) = stream.split();
    let up = async {
        say_header(journey, &mut writer, wish).await?;
        send(journey, &mut writer, wish.seed, sent).await
    };
    let down = async {
        hear_address(journey, &mut reader).await?;
        receive(journey, &mut reader, wish, wish.down_seed(), received).await
    };
    tokio::try_join!(up, down)?;
    sleep(Duration::from_millis(fastrand::u64(0..REST))).await;
    Ok(Outcome::Good)
}

/// A server that breaks off somewhere.
pub(crate) async fn serve(journey: &Journey, mut stream: TcpStream) -> End {
    if !journey.has_more(&stream).await? {
        return Ok(Outcome::Left);
    }
    let wish = raw::hear_header(journey, &mut stream).await?;
    let sent = fastrand::usize(0..=wish.down);
    raw::say_address(&mut stream, journey.client()).await.map_err(broken)?;
    send(journey, &mut stream, wish.down_seed(), sent).await?;
    sleep(Duration::from_millis(fastrand::u64(0..REST))).await;
    Ok(Outcome::Good)
}

// === The one that is reset ===

/// What an exchange that the other side had to reset has come to.
pub(crate) fn must_be_reset(end: End) -> End {
    match end {
        Err(Outcome::Broken(_)) => Ok(Outcome::Good),
        Ok(_) => Err(Outcome::Changed("a reset became an end in order".to_owned())),
        other => other,
    }
}

// === No listener ===

/// Connects where no socket listens. Behind a proxy the connection may come about, and must be
/// reset then.
pub(crate) async fn refused(journey: &mut Journey, to: SocketAddr) -> End {
    let stream = match journey.within("connect", TcpStream::connect(to)).await? {
        Ok(stream) => stream,
        // A reset may come before connect(2) is known to have succeeded.
        Err(error) if is_refusal(&error) => return Ok(Outcome::Good),
        Err(error) => return Err(Outcome::Broken(format!("connect: {error}"))),
    };
    reset_unless_done(&stream);
    journey.connected(&stream);
    let more = journey.within("the reset", journey.has_more(&stream)).await?;
    must_be_reset(more.map(|_| Outcome::Good))
}

fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

fn broken(error: std::io::Error) -> Outcome {
    Outcome::Broken(format!("send the address: {error}"))
}

//! A connection that stays, with a numbered message and its echo every few milliseconds.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weir_tests::load::Outcome;

use crate::journey::{End, Journey, done};
use crate::raw::{hear_address, say_address};

/// The server adds it to what it echoes.
const ECHO: u64 = 0x8000_0000_0000_0000;
const REST: Duration = Duration::from_millis(5);

/// Sends messages until the stop, and ends in order.
pub(crate) async fn visit(
    journey: &mut Journey,
    mut stream: TcpStream,
    stop: &CancellationToken,
) -> End {
    for number in 0.. {
        journey.step(&format!("send {number}"), stream.write_u64(number)).await?;
        if number == 0 {
            hear_address(journey, &mut stream).await?;
        }
        let echo = journey.step(&format!("echo {number}"), stream.read_u64()).await?;
        if echo != number | ECHO {
            return Err(Outcome::Changed(format!("echo {echo:#x} of {number:#x}")));
        }
        journey.compared(size_of_val(&echo));
        journey.round();
        if stop.run_until_cancelled(sleep(REST)).await.is_none() {
            break;
        }
    }
    journey.step("close", stream.shutdown()).await?;
    if journey.step("the end", stream.read(&mut [0])).await? != 0 {
        return Err(Outcome::Changed("bytes after the end".to_owned()));
    }
    done(&stream);
    Ok(Outcome::Good)
}

/// The other side of [`visit`].
pub(crate) async fn serve(journey: &mut Journey, mut stream: TcpStream) -> End {
    for expected in 0.. {
        if !journey.has_more(&stream).await? {
            break;
        }
        let number = journey.step(&format!("number {expected}"), stream.read_u64()).await?;
        if number != expected {
            return Err(Outcome::Changed(format!("number {number:#x} for {expected:#x}")));
        }
        journey.compared(size_of_val(&number));
        if number == 0 {
            let client = journey.client();
            journey.step("send the address", say_address(&mut stream, client)).await?;
        }
        journey.step("send the echo", stream.write_u64(number | ECHO)).await?;
        journey.round();
    }
    journey.step("close", stream.shutdown()).await?;
    done(&stream);
    Ok(Outcome::Good)
}

//! The beginning of TLS: a ClientHello (RFC 8446 §4.1.2) with a server name and ALPN. What follows is
//! no TLS, which nothing on the way needs to know.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use weir_tests::load::Outcome;

use crate::journey::Journey;

const NAME: &[u8] = b"chaos.weir.test";
/// Longest rest between two pieces of it, in milliseconds.
const REST: u64 = 5;

static HELLO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let name = with_length(2, &[&[0], &with_length(2, NAME)[..]].concat());
    let server_name = [&[0, 0], &with_length(2, &name)[..]].concat();
    let alpn = [&[0, 16], &with_length(2, &with_length(2, b"\x02h2\x08http/1.1"))[..]].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = with_length(2, &[&server_name[..], &alpn, &versions].concat());
    let random = [0x5a; 32];
    let suites_and_compression = [0, 0, 2, 0x13, 0x01, 1, 0];
    let body = [&[3, 3][..], &random, &suites_and_compression, &extensions].concat();
    let handshake = [&[1][..], &with_length(3, &body)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
});

/// A client's first words, in up to three pieces.
pub(crate) async fn begin(journey: &Journey, stream: &mut TcpStream) -> Result<(), Outcome> {
    let mut cuts = [fastrand::usize(..HELLO.len()), fastrand::usize(..HELLO.len())];
    cuts.sort_unstable();
    for piece in [&HELLO[..cuts[0]], &HELLO[cuts[0]..cuts[1]], &HELLO[cuts[1]..]] {
        journey.step("send the hello", stream.write_all(piece)).await?;
        sleep(Duration::from_millis(fastrand::u64(0..REST))).await;
    }
    Ok(())
}

/// The other side of [`begin`]. False for a client that left without a word.
pub(crate) async fn hear(journey: &Journey, stream: &mut TcpStream) -> Result<bool, Outcome> {
    if !journey.has_more(stream).await? {
        return Ok(false);
    }
    let mut hello = vec![0; HELLO.len()];
    journey.step("hello", stream.read_exact(&mut hello)).await?;
    if hello != *HELLO {
        return Err(Outcome::Changed(format!("hello {hello:?}")));
    }
    journey.compared(hello.len());
    Ok(true)
}

/// With its length before it, in so many bytes.
fn with_length(bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - bytes..], content].concat()
}

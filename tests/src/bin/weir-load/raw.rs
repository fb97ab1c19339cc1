//! One exchange of raw bytes, both ways at once, with sizes and contents that the client chooses:
//!
//! ```text
//! server: GREETING                                       where the server speaks first
//! client: MAGIC half-close(1) slow(1) 0 up(4) down(4) seed(4) up bytes [FIN]
//! server: address(16) port(2) down bytes, then once it has all: RECEIVED FIN
//! client: FIN
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weir_tests::load::Outcome;

use crate::block;
use crate::journey::{End, Journey, done};

const GREETING: [u8; 16] = *b"220 weir-load\r\n\n";
/// Not the beginning of HTTP or TLS.
const MAGIC: u8 = 7;
const HEADER: usize = 16;
const RECEIVED: u8 = 6;
/// What a slow reader takes at a time, and how long it rests after that.
const SIP: usize = 8 << 10;
const REST: Duration = Duration::from_millis(15);
/// A slow reader is sent at least this much: more than the sockets on the way hold by themselves.
const SLOW: usize = 512 << 10;

/// What the client wants.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    half_close: bool,
    slow: bool,
    /// Bytes from client to server.
    pub(crate) up: usize,
    /// Bytes from server to client.
    pub(crate) down: usize,
    /// Of the client's contents.
    pub(crate) seed: u32,
}

// === impl Wish ===

impl Wish {
    /// Anything.
    pub(crate) fn random() -> Self {
        let (up, down) = (block::size(), block::size());
        Self { half_close: fastrand::bool(), slow: false, up, down, seed: fastrand::u32(..) }
    }

    /// Much, to be read slowly.
    pub(crate) fn slow() -> Self {
        let size = || fastrand::usize(SLOW..=2 * SLOW);
        Self { slow: true, up: size(), down: size(), ..Self::random() }
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..3].copy_from_slice(&[MAGIC, self.half_close.into(), self.slow.into()]);
        let numbers = [self.up as u32, self.down as u32, self.seed];
        for (place, number) in bytes[4..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; HEADER]) -> Result<Self, Outcome> {
        let number =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let [up, down] = [4, 8].map(|at| number(at) as usize);
        if bytes[0] != MAGIC
            || bytes[1].max(bytes[2]) > 1
            || bytes[3] != 0
            || up.max(down) > 1 << 20
        {
            return Err(Outcome::Changed(format!("header {bytes:?}")));
        }
        let (half_close, slow) = (bytes[1] == 1, bytes[2] == 1);
        Ok(Self { half_close, slow, up, down, seed: number(12) })
    }

    /// Of the server's contents.
    pub(crate) const fn down_seed(self) -> u32 {
        self.seed ^ u32::MAX
    }
}

// === Client ===

/// Says nothing until the stop; the other side is not to say anything either.
pub(crate) async fn silence(
    journey: &Journey,
    stream: &TcpStream,
    stop: &CancellationToken,
) -> Result<(), Outcome> {
    match stop.run_until_cancelled(journey.has_more(stream)).await.transpose()? {
        None => Ok(()),
        Some(false) => Err(Outcome::Truncated("while silent".to_owned())),
        Some(true) => Err(Outcome::Changed("bytes while silent".to_owned())),
    }
}

/// One exchange.
pub(crate) async fn visit(journey: &mut Journey, stream: TcpStream, server_first: bool) -> End {
    exchange(journey, stream, Wish::random(), server_first).await
}

/// One exchange, as wished.
pub(crate) async fn exchange(
    journey: &mut Journey,
    mut stream: TcpStream,
    wish: Wish,
    server_first: bool,
) -> End {
    if server_first {
        let mut greeting = [0; GREETING.len()];
        journey.step("greeting", stream.read_exact(&mut greeting)).await?;
        if greeting != GREETING {
            return Err(Outcome::Changed(format!("greeting {greeting:?}")));
        }
    }
    let (mut reader, mut writer) = stream.split();
    let up = async {
        say_header(journey, &mut writer, wish).await?;
        send(journey, &mut writer, wish.seed, wish.up).await?;
        if wish.half_close {
            journey.step("half-close", writer.shutdown()).await?;
        }
        Ok(())
    };
    let down = async {
        hear_address(journey, &mut reader).await?;
        receive(journey, &mut reader, wish, wish.down_seed(), wish.down).await?;
        let word = journey.step("last word", reader.read_u8()).await?;
        expect_end(journey, &mut reader).await?;
        Ok(word)
    };
    let ((), word) = tokio::try_join!(up, down)?;
    if word != RECEIVED {
        return Err(Outcome::Changed(format!("last word {word}")));
    }
    if !wish.half_close {
        journey.step("close", stream.shutdown()).await?;
    }
    journey.round();
    done(&stream);
    Ok(Outcome::Good)
}

// === Server ===

/// The other side of [`visit`].
pub(crate) async fn serve(journey: &mut Journey, mut stream: TcpStream, server_first: bool) -> End {
    if server_first {
        journey.step("send the greeting", stream.write_all(&GREETING)).await?;
    }
    // A silent client takes its time; one that left without a word has lost nothing.
    if !journey.has_more(&stream).await? {
        return Ok(Outcome::Left);
    }
    let wish = hear_header(journey, &mut stream).await?;
    let client = journey.client();
    let (mut reader, mut writer) = stream.split();
    let up = async {
        receive(journey, &mut reader, wish, wish.seed, wish.up).await?;
        if wish.half_close {
            expect_end(journey, &mut reader).await?;
        }
        Ok(())
    };
    let down = async {
        journey.step("send the address", say_address(&mut writer, client)).await?;
        send(journey, &mut writer, wish.down_seed(), wish.down).await
    };
    tokio::try_join!(up, down)?;
    journey.step("send the last word", stream.write_all(&[RECEIVED])).await?;
    journey.step("close", stream.shutdown()).await?;
    if !wish.half_close {
        expect_end(journey, &mut stream).await?;
    }
    journey.round();
    done(&stream);
    Ok(Outcome::Good)
}

// === Parts ===

/// Tells the server what this client wants.
pub(crate) async fn say_header<W: AsyncWrite + Unpin>(
    journey: &Journey,
    writer: &mut W,
    wish: Wish,
) -> Result<(), Outcome> {
    journey.step("send the header", writer.write_all(&wish.to_bytes())).await
}

/// Hears what a client wants.
pub(crate) async fn hear_header<R: AsyncRead + Unpin>(
    journey: &Journey,
    reader: &mut R,
) -> Result<Wish, Outcome> {
    let mut header = [0; HEADER];
    journey.step("header", reader.read_exact(&mut header)).await?;
    Wish::from_bytes(header)
}

/// Sends so many bytes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    journey: &Journey,
    writer: &mut W,
    seed: u32,
    length: usize,
) -> Result<(), Outcome> {
    let mut sent = 0;
    while sent < length {
        let part = block::part(seed, sent, length - sent);
        journey.step(&format!("send from {sent} of {length}"), writer.write_all(part)).await?;
        sent += part.len();
    }
    Ok(())
}

/// Receives so many bytes and compares them.
pub(crate) async fn receive<R: AsyncRead + Unpin>(
    journey: &Journey,
    reader: &mut R,
    wish: Wish,
    seed: u32,
    length: usize,
) -> Result<(), Outcome> {
    let mut buffer = vec![0; if wish.slow { SIP } else { 32 << 10 }];
    let mut received = 0;
    while received < length {
        let room = buffer.len().min(length - received);
        let name = format!("receive from {received} of {length}");
        let got = journey.step(&name, reader.read(&mut buffer[..room])).await?;
        if got == 0 {
            return Err(Outcome::Truncated(name));
        }
        if !block::is_part(seed, received, &buffer[..got]) {
            return Err(Outcome::Changed(name));
        }
        received += got;
        journey.compared(got);
        if wish.slow {
            sleep(REST).await;
        }
    }
    Ok(())
}

async fn expect_end<R: AsyncRead + Unpin>(
    journey: &Journey,
    reader: &mut R,
) -> Result<(), Outcome> {
    match journey.step("the end", reader.read(&mut [0])).await? {
        0 => Ok(()),
        _ => Err(Outcome::Changed("bytes after the end".to_owned())),
    }
}

/// Tells a client how it is seen.
pub(crate) async fn say_address<W>(writer: &mut W, client: SocketAddr) -> std::io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&client.port().to_be_bytes());
    writer.write_all(&bytes).await
}

/// Hears how the server sees this client.
pub(crate) async fn hear_address<R>(journey: &Journey, reader: &mut R) -> Result<(), Outcome>
where
    R: AsyncRead + Unpin,
{
    let ip = journey.step("address", reader.read_u128()).await?;
    let port = journey.step("port", reader.read_u16()).await?;
    journey.seen_as(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), port));
    Ok(())
}

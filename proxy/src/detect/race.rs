//! Holds what a client says until it is decided what it speaks, for the engine that has to take
//! HTTP from its first byte on: watches both sides of a connection. Owns the only timer of detection.
//! It forwards nothing; what it read is handed on, with the ends of streams it met.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::DEFAULT_PEEK_LIMIT;
use super::dialogue::{Conclusion, Dialogue};
use crate::budget::{Charge, Share};

/// Read at a time, on the stack: a connection that says nothing costs no buffer.
const CHUNK: usize = 2048;

/// Settings of detection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the client that are looked at and held.
    pub peek_limit: usize,
    /// How long bytes are held that are not decided, from the first one on. Runs at no other time.
    pub hold: Duration,
    /// Whom the bytes that are held are charged to.
    pub memory: Option<Share>,
}

/// One side's stream up to the decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Peeked {
    /// What was read and has to be forwarded first.
    pub prefix: BytesMut,
    /// True if the side has closed its direction after these bytes.
    pub eof: bool,
}

/// What is held no longer.
#[derive(Debug)]
pub struct Outcome {
    /// `None` if the bytes were held for long enough, or the workload's memory budget has no room for
    /// them: they are to pass, and to be looked at on their way.
    pub conclusion: Option<Conclusion>,
    /// What the client sent.
    pub client: Peeked,
    /// What the upstream sent: empty unless it spoke first.
    pub server: Peeked,
}

/// A connection that ended before it was decided. The caller resets the side that is left.
#[derive(Debug, Error)]
pub enum RaceError {
    /// The client's connection failed, typically by a reset.
    #[error("client connection failed before detection: {0}")]
    Client(#[source] io::Error),
    /// The upstream's connection failed, typically by a reset.
    #[error("upstream connection failed before detection: {0}")]
    Upstream(#[source] io::Error),
}

/// What woke the race.
enum Event {
    Server(io::Result<usize>),
    Client(io::Result<usize>),
    Held,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self { peek_limit: DEFAULT_PEEK_LIMIT, hold: Duration::from_millis(50), memory: None }
    }
}

/// Runs until there is a decision, or bytes have been held for as long as they may be.
///
/// Without a byte from either side there is no deadline: an idle connection is left alone. Bytes
/// from the upstream decide before bytes from the client do, because no server of a protocol that
/// is looked for speaks before it was sent something, except one of HTTP/2 (see
/// [`Dialogue::server_said`]).
///
/// # Errors
///
/// See [`RaceError`]; bytes read by then are dropped, there is no one left to get them.
pub async fn race<C, U>(
    client: &mut C,
    upstream: &mut U,
    options: &Options,
) -> Result<Outcome, RaceError>
where
    C: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let mut dialogue = Dialogue::new(options.peek_limit);
    let (mut near, mut far) = (Peeked::default(), Peeked::default());
    let mut held = pin!(sleep_until(Instant::now()));
    let mut holds = false;
    let mut charge = Charge::to(options.memory.clone());
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(n) = poll_read(cx, upstream, &mut far.prefix, options.peek_limit) {
                return Poll::Ready(Event::Server(n));
            }
            if let Poll::Ready(n) = poll_read(cx, client, &mut near.prefix, options.peek_limit) {
                return Poll::Ready(Event::Client(n));
            }
            match holds {
                true => held.as_mut().poll(cx).map(|()| Event::Held),
                false => Poll::Pending,
            }
        })
        .await;
        let conclusion = match event {
            Event::Client(Err(error)) => return Err(RaceError::Client(error)),
            Event::Server(Err(error)) => return Err(RaceError::Upstream(error)),
            Event::Client(Ok(0)) => {
                near.eof = true;
                Some(dialogue.client_ended())
            }
            Event::Server(Ok(0)) => {
                far.eof = true;
                Some(dialogue.server_ended())
            }
            Event::Client(Ok(n)) => dialogue.client_said(last(&near.prefix, n)),
            Event::Server(Ok(n)) => dialogue.server_said(last(&far.prefix, n)),
            Event::Held => return Ok(Outcome { conclusion: None, client: near, server: far }),
        };
        let room = charge.keep(near.prefix.len() + far.prefix.len());
        if conclusion.is_some() || !room {
            return Ok(Outcome { conclusion, client: near, server: far });
        }
        if !holds {
            holds = true;
            held.as_mut().reset(Instant::now() + options.hold);
        }
    }
}

// === helpers ===

fn last(bytes: &[u8], n: usize) -> &[u8] {
    &bytes[bytes.len() - n..]
}

/// Appends what can be read at once, up to `limit` bytes in all; `Ok(0)` is the end of the stream.
fn poll_read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    into: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    let room = limit.saturating_sub(into.len());
    if room == 0 {
        return Poll::Pending;
    }
    let mut chunk = [0; CHUNK];
    let mut buffer = ReadBuf::new(&mut chunk[..room.min(CHUNK)]);
    Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| {
        into.extend_from_slice(buffer.filled());
        buffer.filled().len()
    })
}

#[cfg(test)]
mod tests;

//! Follows HTTP/2 frames (RFC 9113) and their header compression (RFC 7541).
//!
//! Strict only where following would go wrong. What a peer has to refuse for other reasons, it
//! refuses itself, and that is seen.

pub(in crate::forward) mod frames;
mod hpack;
mod streams;

#[cfg(fuzzing)]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::frames::{Block, Event, Frames};
use self::hpack::{Decoder, Head};
use self::streams::Streams;
use super::{OVER_BUDGET, Observer};
use crate::budget::Charge;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpVersion, Tracker, Untracked};

/// GOAWAY that refuses no stream yet, without an error: the notice of a shutdown (RFC 9113 §6.8).
const SHUTDOWN_NOTICE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;

/// Follows both directions of an HTTP/2 connection.
pub(crate) struct Http2Observer {
    sink: Arc<dyn ExchangeSink>,
    /// `None` once nothing is followed any more.
    connection: Option<Box<Connection>>,
    untracked: Option<Untracked>,
}

/// Why the bytes cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost(&'static str);

struct Connection {
    client: Direction,
    upstream: Direction,
    streams: Streams,
    /// For what is kept of both.
    charge: Charge,
    /// The upstream has said GOAWAY, or ended its stream.
    upstream_done: bool,
    /// It has ended its stream.
    upstream_ended: bool,
}

/// What one peer sends.
struct Direction {
    frames: Frames,
    decoder: Decoder,
    /// Of the header block that is being read.
    head: Head,
}

// === impl Http2Observer ===

impl Http2Observer {
    /// Starts at the client's connection preface (prior knowledge, RFC 9113 §3.3).
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        let streams = Streams::new(Arc::clone(&sink));
        let connection = Some(Box::new(Connection::new(streams, &sink)));
        Self { sink, connection, untracked: None }
    }

    /// Starts right behind the 101 response to an `Upgrade: h2c` request (RFC 7540 §3.2): the
    /// client's preface and the upstream's SETTINGS follow, and the response to that request
    /// comes on stream 1, which is half-closed by the client.
    pub(crate) fn after_upgrade(sink: Arc<dyn ExchangeSink>, request: Tracker) -> Self {
        let streams = Streams::after_upgrade(Arc::clone(&sink), request);
        let mut connection = Box::new(Connection::new(streams, &sink));
        // The client's first settings were in its request (`HTTP2-Settings`, RFC 7540 §3.2.1).
        connection.upstream.decoder.allow(u32::MAX);
        Self { sink, connection: Some(connection), untracked: None }
    }

    #[cold]
    fn lose(&mut self, side: Side, Lost(reason): Lost) {
        let untracked = Untracked { side, reason };
        self.untracked = Some(untracked);
        self.sink.downgraded(untracked);
        self.finish(ExchangeEnd::Untracked);
    }
}

impl Observer for Http2Observer {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && let Err(lost) = connection.bytes(from, bytes)
        {
            self.lose(from, lost);
        }
    }

    fn ended(&mut self, from: Side) {
        if let Some(connection) = &mut self.connection {
            match from {
                Side::Client if !connection.upstream_ended => connection.streams.client_left(),
                Side::Client => {}
                Side::Upstream => connection.upstream_ended = true,
            }
            connection.upstream_done |= connection.upstream_ended;
        }
    }

    fn is_idle(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.streams.is_empty()
                && connection.client.frames.is_between()
                && connection.upstream.frames.is_between()
        })
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        let connection = self.connection.as_ref()?;
        let fits = connection.upstream.frames.is_between() && !connection.upstream_done;
        fits.then_some(SHUTDOWN_NOTICE)
    }

    fn version(&self) -> HttpVersion {
        HttpVersion::Http2
    }

    fn untracked(&self) -> Option<Untracked> {
        self.untracked
    }

    fn finish(&mut self, end: ExchangeEnd) {
        if let Some(connection) = self.connection.take() {
            connection.streams.finish(end);
        }
    }
}

// === impl Connection ===

impl Connection {
    fn new(streams: Streams, sink: &Arc<dyn ExchangeSink>) -> Self {
        let charge = Charge::to(sink.share());
        let client = Direction::new(Frames::of_client());
        let upstream = Direction::new(Frames::of_upstream());
        Self { client, upstream, streams, charge, upstream_done: false, upstream_ended: false }
    }

    fn bytes(&mut self, from: Side, mut bytes: &[u8]) -> Result<(), Lost> {
        let (sender, receiver) = match from {
            Side::Client => (&mut self.client, &mut self.upstream),
            Side::Upstream => (&mut self.upstream, &mut self.client),
        };
        let streams = &mut self.streams;
        while let Some(event) = sender.frames.next(&mut bytes)? {
            match event {
                Event::Data { stream, count, end } => streams.data(from, stream, count, end),
                Event::Fragment { bytes, last } => {
                    sender.decoder.decode(bytes, last.is_some(), &mut sender.head)?;
                    if let Some(block) = last {
                        let head = std::mem::take(&mut sender.head);
                        headers(streams, from, block, head)?;
                    }
                    let kept = sender.memory() + receiver.memory() + streams.memory();
                    if !self.charge.keep(kept) {
                        return Err(Lost(OVER_BUDGET));
                    }
                }
                Event::Reset { stream, code } => streams.reset(from, stream, code),
                Event::Setting { id: HEADER_TABLE_SIZE, value } => receiver.decoder.allow(value),
                Event::Setting { .. } => {}
                Event::GoAway { last, code } => {
                    if from == Side::Upstream {
                        self.upstream_done = true;
                        streams.go_away(last, code);
                    }
                }
            }
        }
        Ok(())
    }
}

fn headers(streams: &mut Streams, from: Side, block: Block, head: Head) -> Result<(), Lost> {
    match (from, block.promised) {
        (Side::Client, None) => streams.request(block.stream, head, block.end_stream),
        (Side::Upstream, None) => {
            streams.response(block.stream, &head, block.end_stream);
            Ok(())
        }
        (Side::Upstream, Some(promised)) => streams.promise(promised),
        (Side::Client, Some(_)) => Err(Lost("PUSH_PROMISE of a client")),
    }
}

// === impl Direction ===

impl Direction {
    fn new(frames: Frames) -> Self {
        Self { frames, decoder: Decoder::default(), head: Head::default() }
    }

    /// Bytes of the heap that it holds.
    fn memory(&self) -> usize {
        self.decoder.memory() + self.head.words()
    }
}

//! Both directions of an HTTP/2 connection.
//!
//! Strict only where following would go wrong. What a peer has to refuse for other reasons, it
//! refuses itself, and that is seen.

use std::sync::Arc;

use super::frames::{Block, Event, Frames};
use super::hpack::{Decoder, Head};
use super::streams::Streams;
use crate::{ExchangeEnd, ExchangeSink, ParseError, Side, Tracker};

/// GOAWAY that refuses no stream yet, without an error: the notice of a shutdown (RFC 9113 §6.8).
pub const SHUTDOWN_NOTICE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;

/// Follows an HTTP/2 connection.
pub struct Session<S: ExchangeSink + ?Sized> {
    client: Direction,
    upstream: Direction,
    streams: Streams<S>,
    /// The upstream has sent GOAWAY, or ended its stream.
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

// === impl Session ===

impl<S: ExchangeSink + ?Sized> Session<S> {
    /// Starts at the client's connection preface (prior knowledge, RFC 9113 §3.3).
    pub fn new(sink: Arc<S>) -> Self {
        Self::of(Streams::new(sink))
    }

    /// Starts right behind the 101 response to an `Upgrade: h2c` request (RFC 7540 §3.2): the
    /// client's preface and the upstream's SETTINGS follow, and the response to that request
    /// comes on stream 1, which is half-closed by the client.
    pub fn after_upgrade(sink: Arc<S>, request: Tracker<S>) -> Self {
        let mut session = Self::of(Streams::after_upgrade(sink, request));
        // The client's first settings were in its request (`HTTP2-Settings`, RFC 7540 §3.2.1).
        session.upstream.decoder.allow(u32::MAX);
        session
    }

    fn of(streams: Streams<S>) -> Self {
        let client = Direction::new(Frames::of_client());
        let upstream = Direction::new(Frames::of_upstream());
        Self { client, upstream, streams, upstream_done: false, upstream_ended: false }
    }

    /// Reads what `from` has sent, and asks `room` whether so many bytes may be kept after each part
    /// of a header block.
    ///
    /// # Errors
    /// Where the connection cannot be followed any further.
    #[inline]
    pub fn read(
        &mut self,
        from: Side,
        mut bytes: &[u8],
        mut room: impl FnMut(usize) -> bool,
    ) -> Result<(), ParseError> {
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
                    if !room(sender.memory() + receiver.memory() + streams.memory()) {
                        return Err(ParseError::OverBudget);
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

    /// Bytes of a side that have no meaning, whatever they are: content of a stream, or of a frame that
    /// says nothing about exchanges.
    pub fn content_ahead(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.client.frames.content_ahead(),
            Side::Upstream => self.upstream.frames.content_ahead(),
        }
    }

    /// `from` has ended its stream in order.
    pub fn ended(&mut self, from: Side) {
        match from {
            Side::Client if !self.upstream_ended => self.streams.client_left(),
            Side::Client => {}
            Side::Upstream => self.upstream_ended = true,
        }
        self.upstream_done |= self.upstream_ended;
    }

    /// No stream is open, and no frame has begun.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
            && self.client.frames.is_between()
            && self.upstream.frames.is_between()
    }

    /// A frame of weir's own may stand behind the last byte of the upstream.
    pub fn may_insert(&self) -> bool {
        self.upstream.frames.is_between() && !self.upstream_done
    }

    /// Bytes of the heap that are held for the connection.
    pub fn memory(&self) -> usize {
        self.client.memory() + self.upstream.memory() + self.streams.memory()
    }

    /// The connection is over: open streams are reported as ended like this.
    pub fn finish(self, end: ExchangeEnd) {
        self.streams.finish(end);
    }
}

// === helpers ===

#[inline]
fn headers<S: ExchangeSink + ?Sized>(
    streams: &mut Streams<S>,
    from: Side,
    block: Block,
    head: Head,
) -> Result<(), ParseError> {
    match (from, block.promised) {
        (Side::Client, None) => streams.request(block.stream, head, block.end_stream),
        (Side::Upstream, None) => {
            streams.response(block.stream, &head, block.end_stream);
            Ok(())
        }
        (Side::Upstream, Some(promised)) => streams.promise(promised),
        (Side::Client, Some(_)) => Err(ParseError::ClientPush),
    }
}

// === impl Direction ===

impl Direction {
    fn new(frames: Frames) -> Self {
        Self { frames, decoder: Decoder::default(), head: Head::default() }
    }

    /// Bytes of the heap that it holds.
    fn memory(&self) -> usize {
        self.decoder.memory() + self.head.text_bytes()
    }
}

//! What a client's connection and one to an endpoint have in common.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::fields::DecodeError;
use super::super::fields::{FieldList, ListDecoder, ListEncoder, Shared};
use super::super::frames::{SETTING, be32};
use super::super::seed::Seed;
use super::output::Output;
use super::reader::{FrameReader, MAX_FRAME};
use super::violation::{Code, Violation};

/// The window of a connection and of a stream until it is changed (RFC 9113 §6.9.2).
pub(super) const INITIAL_WINDOW: i64 = 65_535;
/// The largest window (RFC 9113 §6.9.1).
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// The largest header block: what a list of the largest size takes at most, and size updates.
const MAX_BLOCK: usize = 128 << 10;
/// What may wait to be written: more than windows allow is an answer to a flood.
pub(super) const MOST_OUTPUT: usize = 4 << 20;
/// CONTINUATION frames of a block (CVE-2024-27316).
const MAX_CONTINUATIONS: u32 = 64;
/// Tables for more streams than this are given back when there are none.
const STREAMS: usize = 64;
/// Windows of streams that a peer may change by SETTINGS in a second: a frame of 15 bytes changes all.
const MOST_RESIZED: usize = 100_000;
/// Streams that a peer allows before it has said so.
const UNSAID_STREAMS: u32 = 100;

/// Settings (RFC 9113 §6.5.2, RFC 8441 §3).
pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The place of a stream in the relay.
pub(super) type StreamKey = usize;

/// One connection.
pub(super) struct Peer {
    pub(super) reader: FrameReader,
    decoder: ListDecoder,
    pub(super) encoder: ListEncoder,
    pub(super) out: Output,
    pub(super) remote: Remote,
    /// Open streams by the number that the peer knows.
    pub(super) streams: HashMap<u32, StreamKey, Seed>,
    /// Streams that have something for the peer, and may send it.
    pub(super) ready: VecDeque<StreamKey>,
    /// Streams that have their end for the peer, which needs no window.
    pub(super) ends: VecDeque<StreamKey>,
    /// What may be sent on the connection.
    pub(super) window: i64,
    /// What the peer may send on the connection.
    pub(super) granted: i64,
    block: Option<OpenBlock>,
    /// Windows of streams that its settings have changed since then.
    resized: (Instant, usize),
    /// In the list of those that have something to do.
    pub(super) is_marked: bool,
    /// Its stream has ended.
    pub(super) has_ended: bool,
    /// To be closed when everything is written.
    pub(super) is_closing: bool,
}

/// What the peer has said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) initial_window: i64,
    pub(super) max_frame: usize,
    pub(super) max_streams: u32,
    pub(super) connect_protocol: bool,
    /// The largest header list.
    pub(super) list: u32,
}

/// A header block that is not complete.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// A header list, and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    pub(super) stream: u32,
    pub(super) end: bool,
    /// It is larger than the limit: the list is of no use.
    pub(super) is_too_large: bool,
}

// === impl Peer ===

impl Peer {
    pub(super) fn new(reader: FrameReader) -> Self {
        Self {
            reader,
            decoder: ListDecoder::new(0),
            encoder: ListEncoder::default(),
            out: Output::default(),
            remote: Remote::default(),
            streams: HashMap::with_hasher(Seed::new()),
            ready: VecDeque::new(),
            ends: VecDeque::new(),
            window: INITIAL_WINDOW,
            granted: INITIAL_WINDOW,
            block: None,
            resized: (Instant::now(), 0),
            is_marked: false,
            has_ended: false,
            is_closing: false,
        }
    }

    /// Bytes of the heap that it holds.
    pub(super) fn memory(&self) -> usize {
        self.reader.memory()
            + self.decoder.memory()
            + self.encoder.memory()
            + self.out.memory()
            + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
            + self.streams.capacity() * size_of::<(u32, StreamKey)>()
            + (self.ready.capacity() + self.ends.capacity()) * size_of::<StreamKey>()
    }

    /// Says why its connection closes, or, to one that does not read, nothing more.
    pub(super) fn give_up(&mut self, last: u32, Violation { code, reason }: Violation) {
        match self.out.len() {
            MOST_OUTPUT.. => self.out.discard(),
            _ => self.out.go_away(last, code, reason),
        }
    }

    /// The stream with this number is over.
    #[inline]
    pub(super) fn forget(&mut self, number: u32) {
        self.streams.remove(&number);
        if self.streams.is_empty() && self.streams.capacity() > STREAMS {
            self.streams = HashMap::with_hasher(Seed::new());
            (self.ready, self.ends) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// A header block, or its first part. `None`: there is more to come.
    #[inline]
    pub(super) fn headers(
        &mut self,
        (stream, fragment, end_headers, end): (u32, &[u8], bool, bool),
        decoding: (usize, &mut Shared, &mut FieldList),
    ) -> Result<Option<Headers>, Violation> {
        if !end_headers {
            let bytes = fragment.to_vec();
            self.block = Some(OpenBlock { stream, end, bytes, continuations: 0 });
            return Ok(None);
        }
        let is_too_large = self.decode(fragment, decoding)?;
        Ok(Some(Headers { stream, end, is_too_large }))
    }

    /// A further part.
    pub(super) fn continuation(
        &mut self,
        fragment: &[u8],
        end_headers: bool,
        decoding: (usize, &mut Shared, &mut FieldList),
    ) -> Result<Option<Headers>, Violation> {
        let Some(mut block) = self.block.take() else { return Ok(None) };
        block.continuations += 1;
        block.bytes.extend_from_slice(fragment);
        if block.bytes.len() > MAX_BLOCK || block.continuations > MAX_CONTINUATIONS {
            return Err(Violation::new(Code::ENHANCE_YOUR_CALM, "a header block is too large"));
        }
        if !end_headers {
            self.block = Some(block);
            return Ok(None);
        }
        let is_too_large = self.decode(&block.bytes, decoding)?;
        Ok(Some(Headers { stream: block.stream, end: block.end, is_too_large }))
    }

    #[inline]
    fn decode(
        &mut self,
        block: &[u8],
        (limit, shared, list): (usize, &mut Shared, &mut FieldList),
    ) -> Result<bool, Violation> {
        match self.decoder.decode(block, limit, shared, list) {
            Ok(()) => Ok(false),
            Err(DecodeError::TooLarge) => Ok(true),
            Err(DecodeError::Compression(error)) => {
                Err(Violation::new(Code::COMPRESSION_ERROR, error.reason()))
            }
        }
    }

    /// SETTINGS (RFC 9113 §6.5), which are acknowledged. By how much the windows of its streams grow.
    pub(super) fn settings(&mut self, payload: &[u8]) -> Result<i64, Violation> {
        let mut wider = 0;
        for setting in payload.chunks_exact(SETTING) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = be32(&setting[2..]);
            match id {
                HEADER_TABLE_SIZE => self.encoder.allow(value),
                ENABLE_PUSH if value > 1 => {
                    return Err(Violation::new(Code::PROTOCOL_ERROR, "an invalid ENABLE_PUSH"));
                }
                MAX_CONCURRENT_STREAMS => self.remote.max_streams = value,
                INITIAL_WINDOW_SIZE => {
                    let window = i64::from(value);
                    if window > MAX_WINDOW {
                        let reason = "an initial window that is too large";
                        return Err(Violation::new(Code::FLOW_CONTROL_ERROR, reason));
                    }
                    wider += window - self.remote.initial_window;
                    self.remote.initial_window = window;
                }
                MAX_FRAME_SIZE => {
                    if !(MAX_FRAME as u32..1 << 24).contains(&value) {
                        let reason = "an invalid MAX_FRAME_SIZE";
                        return Err(Violation::new(Code::PROTOCOL_ERROR, reason));
                    }
                    self.remote.max_frame = value as usize;
                }
                MAX_HEADER_LIST_SIZE => self.remote.list = value,
                ENABLE_CONNECT_PROTOCOL => self.remote.connect_protocol = value == 1,
                _ => {}
            }
        }
        self.out.settings_ack();
        if wider != 0 {
            self.resize()?;
        }
        Ok(wider)
    }

    /// The windows of all streams change.
    fn resize(&mut self) -> Result<(), Violation> {
        let (since, count) = &mut self.resized;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += self.streams.len();
        if *count > MOST_RESIZED {
            return Err(Violation::new(Code::ENHANCE_YOUR_CALM, "windows change all the time"));
        }
        Ok(())
    }

    /// WINDOW_UPDATE for the connection (RFC 9113 §6.9.1).
    pub(super) fn window_update(&mut self, by: u32) -> Result<(), Violation> {
        if by == 0 {
            return Err(Violation::new(Code::PROTOCOL_ERROR, "WINDOW_UPDATE of nothing"));
        }
        self.window += i64::from(by);
        if self.window > MAX_WINDOW {
            return Err(Violation::new(Code::FLOW_CONTROL_ERROR, "a window that is too large"));
        }
        Ok(())
    }

    /// Content has come, and takes its part of the connection's window.
    #[inline]
    pub(super) fn received(&mut self, flow: u32) -> Result<(), Violation> {
        self.granted -= i64::from(flow);
        if self.granted < 0 {
            let reason = "more DATA than the connection's window";
            return Err(Violation::new(Code::FLOW_CONTROL_ERROR, reason));
        }
        Ok(())
    }

    /// Lets the peer send until so much is on its way; false if it may already, nearly.
    #[inline]
    pub(super) fn grant(&mut self, window: i64) -> bool {
        let by = window - self.granted;
        let is_due = by >= window / 2;
        if is_due {
            self.granted += by;
            self.out.window_update(0, by as u32);
        }
        is_due
    }
}

// === impl Remote ===

impl Default for Remote {
    fn default() -> Self {
        Self {
            initial_window: INITIAL_WINDOW,
            max_frame: MAX_FRAME,
            max_streams: UNSAID_STREAMS,
            connect_protocol: false,
            list: u32::MAX,
        }
    }
}

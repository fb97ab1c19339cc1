//! One direction of a connection: what is read from one socket is written to the other, with a
//! buffer only while there is something to move.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use weir_http::h1::Edit;

use super::super::passthrough::Observer;
use super::super::transport::{Found, TransportIo};
use super::super::{ByteCounters, Side};
use super::TcpOptions;
use super::buffer::{Lease, Size};
use super::splice::Pipe;
use crate::budget::{Resource, Share, Taken};

/// Large reads in a row, each filled, after which the rest is taken for bulk.
const BULK: u8 = 2;

/// From one socket to the other.
pub(super) struct Lane<'a, R, W> {
    pub(super) from: Side,
    pub(super) source: &'a R,
    pub(super) sink: &'a W,
    /// Bytes written so far.
    pub(super) forwarded: u64,
    prefix: BytesMut,
    lease: Option<Lease>,
    /// What the lease is charged with, if it is larger than the usual.
    charged: Option<Taken>,
    memory: Option<&'a Share>,
    /// What the lease holds is one urgent byte.
    urgent: bool,
    size: Size,
    /// Instead of the lease, for bulk that no observer reads.
    pipe: Option<Pipe>,
    /// Whether bulk can be spliced from the source to the sink.
    splices: bool,
    /// Large reads in a row that were filled.
    full: u8,
    /// The largest read since the lane was last idle.
    peak: usize,
    /// What has become of the source.
    input: Input,
    /// False if the source's end is not to be passed on, because a reset will be.
    passes_end: bool,
    /// Both ends are dropped as soon as this lane has ended.
    is_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
    /// Ended, and the sink was told.
    Done,
}

/// An error, and the side whose socket it came from.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

/// Who is told what passes.
pub(super) struct Watch<'a> {
    pub(super) counters: &'a ByteCounters,
    /// `None` also once it has lost track.
    pub(super) observer: Option<&'a mut dyn Observer>,
    /// The connection drains: the observer may change bytes to end it.
    pub(super) draining: bool,
    /// It has: the client knows that the connection ends behind the response.
    pub(super) close_said: bool,
}

// === impl Watch ===

impl<'a> Watch<'a> {
    pub(super) fn new(counters: &'a ByteCounters, observer: Option<&'a mut dyn Observer>) -> Self {
        Self { counters, observer, draining: false, close_said: false }
    }

    pub(super) fn read(&mut self, from: Side, bytes: &[u8]) {
        let Some(observer) = &mut self.observer else { return };
        observer.bytes(from, bytes);
        if observer.is_done() {
            self.observer = None;
        }
    }

    /// What to change in the bytes that were read last.
    fn edit(&mut self, from: Side) -> Option<Edit> {
        if !self.draining {
            return None;
        }
        let edit = self.observer.as_mut()?.edit(from)?;
        self.close_said |= from == Side::Upstream;
        Some(edit)
    }

    fn ended(&mut self, from: Side) {
        let Some(observer) = &mut self.observer else { return };
        observer.ended(from);
        if observer.is_done() {
            self.observer = None;
        }
    }

    fn looks_at(&self, from: Side) -> bool {
        self.observer.as_ref().is_some_and(|observer| observer.looks_at(from))
    }
}

// === impl Lane ===

impl<'a, R: TransportIo, W: TransportIo> Lane<'a, R, W> {
    pub(super) fn new(from: Side, source: &'a R, sink: &'a W, options: &'a TcpOptions) -> Self {
        Self {
            from,
            source,
            sink,
            forwarded: 0,
            prefix: BytesMut::new(),
            lease: None,
            charged: None,
            memory: options.memory.as_ref(),
            urgent: false,
            size: Size::default(),
            pipe: None,
            splices: options.splice && source.splicing().is_some() && sink.splicing().is_some(),
            full: 0,
            peak: 0,
            input: Input::Open,
            passes_end: true,
            is_last: false,
        }
    }

    /// Puts `prefix` before what the source has; with `eof` nothing follows it.
    pub(super) fn begin_with(&mut self, prefix: BytesMut, eof: bool, watch: &mut Watch<'_>) {
        if !prefix.is_empty() {
            watch.read(self.from, &prefix);
        }
        self.prefix = prefix;
        if eof {
            self.input = Input::Ended;
            watch.ended(self.from);
        }
    }

    /// Copies until the source ends, and passes the end on. Fairness comes from tokio's
    /// cooperative budget, which each of the socket's operations draws on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        watch: &mut Watch<'_>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            let (from, to) = (self.from, self.from.other());
            ready!(self.poll_write(cx, watch.counters))
                .map_err(|error| Fault { side: to, error })?;
            match self.input {
                Input::Open => {
                    ready!(self.poll_read(cx, watch))
                        .map_err(|error| Fault { side: from, error })?;
                }
                Input::Ended => {
                    self.input = Input::Done;
                    if self.passes_end {
                        self.sink.disarm();
                        if !(self.is_last && self.sink.ends_with_drop()) {
                            // ENOTCONN: the other lane reports why.
                            let _ = self.sink.shutdown();
                        }
                    }
                }
                Input::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// The other lane has ended, and the ends are dropped when this one has.
    pub(super) fn is_last(&mut self) {
        self.is_last = true;
    }

    /// Everything that was read has been written, and the source is open.
    pub(super) fn is_quiet(&self) -> bool {
        let unwritten = self.lease.as_ref().is_some_and(|lease| !lease.filled().is_empty());
        let piped = self.pipe.as_ref().is_some_and(|pipe| pipe.filled() > 0);
        self.input == Input::Open && self.prefix.is_empty() && !unwritten && !piped
    }

    /// Puts weir's own words behind what has been written; for a lane that is quiet.
    pub(super) fn say(&mut self, words: &[u8]) {
        self.prefix = words.into();
    }

    /// After the source has failed: copies what it sent before, without passing an end on, and waits
    /// until the sink's peer has it.
    pub(super) async fn deliver(&mut self, watch: &mut Watch<'_>) {
        self.passes_end = false;
        let _ = poll_fn(|cx| self.poll(cx, watch)).await;
        self.sink.delivered().await;
    }

    /// Writes what there is; ready when there is nothing left.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        counters: &ByteCounters,
    ) -> Poll<io::Result<()>> {
        loop {
            let pending: &[u8] = match &self.lease {
                _ if !self.prefix.is_empty() => &self.prefix,
                Some(lease) if !lease.filled().is_empty() => lease.filled(),
                _ => return self.poll_write_pipe(cx, counters),
            };
            let urgent = self.urgent && self.prefix.is_empty();
            let n = ready!(self.sink.poll_write(cx, pending, urgent))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.forwarded += n as u64;
            counters.add_from(self.from, n);
            if self.prefix.is_empty() {
                if let Some(lease) = &mut self.lease {
                    lease.consume(n);
                }
            } else {
                self.prefix.advance(n);
                if self.prefix.is_empty() {
                    self.prefix = BytesMut::new(); // gives the memory back
                }
            }
        }
    }

    fn poll_write_pipe(
        &mut self,
        cx: &mut Context<'_>,
        counters: &ByteCounters,
    ) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while pipe.filled() > 0 {
            let n = ready!(self.sink.poll_splice(cx, |sink| pipe.empty(sink)))?;
            self.forwarded += n as u64;
            counters.add_from(self.from, n);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. There is nothing to write when this is called.
    fn poll_read(&mut self, cx: &mut Context<'_>, watch: &mut Watch<'_>) -> Poll<io::Result<()>> {
        let result = match self.source.poll_read_ready(cx) {
            Poll::Ready(Ok(())) if self.is_bulk() && !watch.looks_at(self.from) => {
                self.poll_splice(cx, watch)
            }
            Poll::Ready(Ok(())) => self.poll_fill(cx, watch),
            other => other,
        };
        if result.is_pending() {
            self.rest();
        }
        result
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, watch: &mut Watch<'_>) -> Poll<io::Result<()>> {
        if self.lease.as_ref().is_some_and(|lease| lease.size() != self.size) {
            self.give_back();
        }
        if self.lease.is_none() {
            self.charge();
        }
        let lease = self.lease.get_or_insert_with(|| Lease::take(self.size));
        let n = match ready!(self.source.poll_read(cx, lease.room()))? {
            Found::Bytes(n) => n,
            // Out of line for a peer that has not asked for anything else: not shown.
            Found::Urgent => {
                lease.fill(1);
                self.urgent = true;
                return Poll::Ready(Ok(()));
            }
        };
        self.urgent = false;
        lease.fill(n);
        self.peak = self.peak.max(n);
        if n == 0 {
            self.input = Input::Ended;
            self.give_back();
            // Behind an error it is none: the stream was cut.
            if self.passes_end {
                watch.ended(self.from);
            }
            return Poll::Ready(Ok(()));
        }
        watch.read(self.from, lease.filled());
        if let Some(edit) = watch.edit(self.from) {
            self.prefix.extend_from_slice(&lease.filled()[..edit.start]);
            self.prefix.extend_from_slice(edit.text);
            lease.consume(edit.end);
        }
        if n < self.size.bytes() {
            self.full = 0;
        } else if self.size == Size::Large {
            self.full = self.full.saturating_add(1);
        } else {
            self.size = self.size.larger();
        }
        Poll::Ready(Ok(()))
    }

    /// A large buffer is lent as long as the workload's budget has room for it.
    fn charge(&mut self) {
        let (Some(memory), Size::Medium | Size::Large) = (self.memory, self.size) else { return };
        self.charged = memory.take_if_plenty(Resource::Memory, self.size.bytes() as u64);
        if self.charged.is_none() {
            self.size = Size::Small;
            self.full = 0;
        }
    }

    fn give_back(&mut self) {
        self.lease = None;
        self.charged = None;
    }

    fn is_bulk(&self) -> bool {
        self.splices && self.full >= BULK
    }

    /// Reads once into a pipe.
    fn poll_splice(&mut self, cx: &mut Context<'_>, watch: &mut Watch<'_>) -> Poll<io::Result<()>> {
        self.give_back();
        if self.pipe.is_none() {
            self.pipe = Pipe::take().ok();
        }
        let source = self.source.splicing();
        match self.pipe.as_mut().zip(source).map(|(pipe, source)| pipe.fill(source)) {
            Some(Ok(n @ 1..)) => {
                self.source.spliced();
                self.peak = self.peak.max(n);
                return Poll::Ready(Ok(()));
            }
            Some(Ok(0)) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Some(Err(error)) if error.raw_os_error() != Some(libc::EINVAL) => {
                return Poll::Ready(Err(error));
            }
            // There is no pipe to be had, or the kernel can't.
            None | Some(_) => {
                self.pipe = None;
                self.splices = false;
            }
        }
        // A read tells what it meant.
        self.source.spliced();
        self.poll_fill(cx, watch)
    }

    /// Nothing to read: gives the buffer back, and takes a smaller one next time if a smaller one
    /// would have done.
    fn rest(&mut self) {
        self.give_back();
        self.pipe = None;
        if self.peak > 0 && self.peak < self.size.smaller().bytes() {
            self.size = self.size.smaller();
            self.full = 0;
        }
        self.peak = 0;
    }
}

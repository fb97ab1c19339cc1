//! One direction of a connection: what is read from one socket is written to the other, with a
//! buffer only while there is something to move.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::super::{ByteCounters, Side};
use super::buffer::{Lease, Size};
use super::reset::disarm;

/// From one socket's reading half to the other's writing half.
pub(super) struct Lane<'a> {
    pub(super) from: Side,
    pub(super) source: ReadHalf<'a>,
    pub(super) sink: WriteHalf<'a>,
    /// Bytes written so far.
    pub(super) forwarded: u64,
    prefix: BytesMut,
    lease: Option<Lease>,
    size: Size,
    /// The largest read since the lane was last idle.
    peak: usize,
    /// What has become of the source.
    input: Input,
    /// False if the source's end is not to be passed on, because a reset will be.
    passes_end: bool,
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

// === impl Lane ===

impl<'a> Lane<'a> {
    pub(super) fn new(from: Side, source: ReadHalf<'a>, sink: WriteHalf<'a>) -> Self {
        Self {
            from,
            source,
            sink,
            forwarded: 0,
            prefix: BytesMut::new(),
            lease: None,
            size: Size::default(),
            peak: 0,
            input: Input::Open,
            passes_end: true,
        }
    }

    /// Puts `prefix` before what the source has; with `eof` nothing follows it.
    pub(super) fn begin_with(&mut self, prefix: BytesMut, eof: bool) {
        self.prefix = prefix;
        if eof {
            self.input = Input::Ended;
        }
    }

    /// Copies until the source ends, and passes the end on. Fairness comes from tokio's
    /// cooperative budget, which each of the socket's operations draws on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        counters: &ByteCounters,
    ) -> Poll<Result<(), Fault>> {
        loop {
            let (from, to) = (self.from, self.from.other());
            ready!(self.poll_write(cx, counters)).map_err(|error| Fault { side: to, error })?;
            match self.input {
                Input::Open => {
                    ready!(self.poll_read(cx)).map_err(|error| Fault { side: from, error })?;
                }
                Input::Ended => {
                    self.input = Input::Done;
                    if self.passes_end {
                        disarm(self.sink.as_ref());
                        // shutdown(2) does not block. ENOTCONN: the other lane reports why.
                        let _ = Pin::new(&mut self.sink).poll_shutdown(cx);
                    }
                }
                Input::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// After the source has failed: copies what it sent before, without passing an end on.
    pub(super) async fn drain(&mut self, counters: &ByteCounters) {
        self.passes_end = false;
        let _ = poll_fn(|cx| self.poll(cx, counters)).await;
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
                _ => return Poll::Ready(Ok(())),
            };
            let n = ready!(Pin::new(&mut self.sink).poll_write(cx, pending))?;
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

    /// Reads once. There is nothing to write when this is called.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match self.source.as_ref().poll_read_ready(cx) {
            Poll::Ready(Ok(())) => self.poll_fill(cx),
            other => other,
        };
        if result.is_pending() {
            self.rest();
        }
        result
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lease.as_ref().is_some_and(|lease| lease.size() != self.size) {
            self.lease = None;
        }
        let lease = self.lease.get_or_insert_with(|| Lease::take(self.size));
        let mut room = ReadBuf::new(lease.room());
        ready!(Pin::new(&mut self.source).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        lease.fill(n);
        self.peak = self.peak.max(n);
        if n == 0 {
            self.input = Input::Ended;
            self.lease = None;
        } else if n == self.size.bytes() {
            self.size = self.size.larger();
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing to read: gives the buffer back, and takes a smaller one next time if a smaller one
    /// would have done.
    fn rest(&mut self) {
        self.lease = None;
        if self.peak > 0 && self.peak < self.size.smaller().bytes() {
            self.size = self.size.smaller();
        }
        self.peak = 0;
    }
}

//! What a client sends: the request under way, kept from its first byte for as long as it may have to be
//! sent once more, and what comes behind it.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::super::{ByteCounters, Side};
use super::member::Member;

/// The first read of an otherwise idle connection: most heads and small bodies fit.
const FIRST_READ: usize = 8 << 10;
/// Reads grow up to this while the client fills them.
const LARGEST_READ: usize = 64 << 10;
/// Of a request that is longer nothing is kept.
const MOST_KEPT: usize = 64 << 10;

/// Bytes of the client, in order: sent, to be sent, and not decided about.
#[derive(Debug, Default)]
pub(super) struct Upload {
    buffer: BytesMut,
    sent: usize,
    cleared: usize,
    /// What has been sent stays.
    keeps: bool,
    /// Bytes at the front that were counted when they were sent for the first time.
    counted: usize,
    /// The last read was as long as this.
    next_read: usize,
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(read: BytesMut) -> Self {
        Self { buffer: read, ..Self::default() }
    }

    /// What is there, from the first byte that has not been sent: the request under way.
    pub(super) fn front(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    /// All that is there: from the first byte of the request, if that is kept.
    pub(super) fn all(&self) -> &[u8] {
        &self.buffer
    }

    /// Puts `head` in the place of the first `length` of those bytes, which may be sent.
    pub(super) fn replace_front(&mut self, length: usize, head: &[u8]) {
        debug_assert!(self.sent == 0 && length <= self.cleared);
        let rest = self.buffer.split_off(length);
        self.buffer.clear();
        self.buffer.extend_from_slice(head);
        self.buffer.extend_from_slice(&rest);
        self.cleared = self.cleared - length + head.len();
    }

    /// Drops what may be sent: nobody is to get it.
    pub(super) fn discard(&mut self) {
        self.sent = self.cleared;
        self.forget();
    }

    /// The bytes that nothing has been decided about.
    pub(super) fn uncleared(&self) -> &[u8] {
        &self.buffer[self.cleared..]
    }

    /// The next `count` bytes may be sent.
    pub(super) fn clear(&mut self, count: usize) {
        debug_assert!(count <= self.uncleared().len());
        self.cleared += count;
    }

    /// Bytes that may be sent, and have not been.
    pub(super) fn is_unsent(&self) -> bool {
        self.sent < self.cleared
    }

    /// From here on what is sent is kept.
    pub(super) fn keep(&mut self) {
        self.keeps = true;
    }

    /// All of the request is still there.
    pub(super) fn is_kept(&self) -> bool {
        self.keeps
    }

    /// The request is not going to be sent once more.
    pub(super) fn forget(&mut self) {
        self.keeps = false;
        self.drop_sent();
    }

    /// The request is to be sent from its beginning.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Bytes of the heap beyond those of an ordinary request.
    pub(super) fn excess(&self) -> usize {
        self.buffer.capacity().saturating_sub(FIRST_READ)
    }

    /// Gives memory back while there is nothing to be kept.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// What has not been sent, and how much of that was cleared.
    pub(super) fn into_unsent(mut self) -> (BytesMut, usize) {
        self.forget();
        (self.buffer, self.cleared)
    }

    /// Reads once; `Ok(0)` is the end of the client's stream. No memory is taken before there is something
    /// to read.
    pub(super) fn poll_fill(
        &mut self,
        client: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(client.poll_read_ready(cx))?;
        self.buffer.reserve(self.next_read.max(FIRST_READ));
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(pin!(client.read_buf(&mut self.buffer)).poll(cx))?;
        self.next_read = match read {
            full if full == room => (room * 2).min(LARGEST_READ),
            _ => 0,
        };
        Poll::Ready(Ok(read))
    }

    /// Sends everything that may be.
    pub(super) fn poll_send(
        &mut self,
        member: &mut Member,
        cx: &mut Context<'_>,
        counters: &ByteCounters,
    ) -> Poll<io::Result<()>> {
        while self.is_unsent() {
            let sent = ready!(member.poll_send(cx, &self.buffer[self.sent..self.cleared]))?;
            self.sent += sent;
            let new = self.sent.saturating_sub(self.counted);
            counters.add_from(Side::Client, new);
            self.counted += new;
            if !self.keeps || self.sent > MOST_KEPT {
                self.forget();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn drop_sent(&mut self) {
        self.buffer.advance(self.sent);
        self.cleared -= self.sent;
        self.counted -= self.sent.min(self.counted);
        self.sent = 0;
        self.rest();
    }
}

//! One direction of a connection: bytes that have been read, the first part of which may be
//! written. Knows nothing of HTTP.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The first read of an otherwise idle connection: most heads and small bodies fit.
const FIRST_READ: usize = 8 << 10;
/// Reads grow up to this while the peer fills them: beyond it system calls no longer dominate.
const LARGEST_READ: usize = 128 << 10;

pub(in super::super) struct Pipe {
    buffer: BytesMut,
    /// Bytes at the front of the buffer that may be written.
    cleared: usize,
    next_read: usize,
    unflushed: bool,
    /// The source has ended; the buffer may still hold bytes.
    eof: bool,
    /// The destination was told so.
    shut: bool,
    /// Bytes read and written: changes whenever there is progress.
    moved: u64,
}

// === impl Pipe ===

impl Pipe {
    pub(in super::super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            cleared: 0,
            next_read: FIRST_READ,
            unflushed: false,
            eof: false,
            shut: false,
            moved: 0,
        }
    }

    /// The bytes that are not decided about.
    pub(in super::super) fn uncleared(&self) -> &[u8] {
        &self.buffer[self.cleared..]
    }

    /// Lets the next `count` bytes go.
    pub(in super::super) fn clear(&mut self, count: usize) {
        debug_assert!(count <= self.uncleared().len());
        self.cleared += count;
    }

    pub(in super::super) fn has_cleared(&self) -> bool {
        self.cleared > 0
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(in super::super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the heap beyond those of an ordinary message.
    pub(in super::super) fn excess(&self) -> usize {
        self.buffer.capacity().saturating_sub(FIRST_READ)
    }

    /// Gives memory back while there is nothing to be written.
    pub(in super::super) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.next_read = FIRST_READ;
        }
    }

    /// What has been read and not written.
    pub(in super::super) fn into_rest(self) -> BytesMut {
        self.buffer
    }

    pub(in super::super) fn is_eof(&self) -> bool {
        self.eof
    }

    pub(in super::super) fn is_shut(&self) -> bool {
        self.shut
    }

    pub(in super::super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Forgets what has not been cleared.
    pub(in super::super) fn discard(&mut self) {
        self.buffer.truncate(self.cleared);
    }

    /// Puts weir's own words behind what has been cleared, in place of what has not.
    pub(in super::super) fn say(&mut self, words: &[u8]) {
        self.discard();
        self.buffer.extend_from_slice(words);
        self.cleared = self.buffer.len();
    }

    /// Puts `words` in place of the next `count` bytes, and lets them go.
    pub(in super::super) fn replace(&mut self, count: usize, words: &[u8]) {
        let mut rest = self.buffer.split_off(self.cleared);
        rest.advance(count);
        self.buffer.extend_from_slice(words);
        self.cleared = self.buffer.len();
        self.buffer.unsplit(rest);
    }

    /// Reads once; `Ok(0)` is the end of the source. Holds no memory while there is nothing to
    /// read, however long that lasts.
    pub(in super::super) fn poll_read<S>(
        &mut self,
        source: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        self.buffer.reserve(self.next_read);
        let room = self.buffer.capacity() - self.buffer.len();
        let result = pin!(source.read_buf(&mut self.buffer)).poll(cx);
        match &result {
            Poll::Pending => self.rest(),
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(read)) => {
                self.moved += *read as u64;
                if *read == room {
                    self.next_read = (self.next_read * 2).min(LARGEST_READ);
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Writes everything that has been cleared, and flushes it.
    pub(in super::super) fn poll_write<D>(
        &mut self,
        destination: &mut D,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        D: AsyncWrite + Unpin,
    {
        while self.cleared > 0 {
            let cleared = &self.buffer[..self.cleared];
            let written = ready!(Pin::new(&mut *destination).poll_write(cx, cleared))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.cleared -= written;
            self.moved += written as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(destination).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Passes the end of the source on.
    pub(in super::super) fn poll_shutdown<D>(
        &mut self,
        destination: &mut D,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        D: AsyncWrite + Unpin,
    {
        if !self.shut {
            // An error says that the other side is gone already: reading from it tells how.
            let _ = ready!(Pin::new(destination).poll_shutdown(cx));
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_its_own_keep_their_place() {
        let mut pipe = Pipe::new();
        pipe.buffer.extend_from_slice(b"sent later");
        pipe.clear(5);
        pipe.replace(0, b"first ");
        assert_eq!(pipe.buffer, "sent first later");
        pipe.replace(2, b"the ");
        assert_eq!(pipe.buffer, "sent first the ter");
        assert_eq!(pipe.uncleared(), b"ter");
        pipe.say(b"only");
        assert_eq!(pipe.buffer, "sent first the only");
        assert!(pipe.uncleared().is_empty());
    }
}

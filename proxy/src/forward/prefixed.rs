//! A stream whose first bytes were read before it was handed on, and that counts what passes: what
//! detection peeked at reaches hyper and h2 as if it came from the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ByteCounters, Side};

/// `io` behind `prefix`.
#[derive(Debug)]
pub struct Prefixed<S> {
    io: S,
    prefix: BytesMut,
    counting: Option<(Arc<ByteCounters>, Side)>,
}

// === impl Prefixed ===

impl<S> Prefixed<S> {
    /// Reads yield `prefix` first, then what `io` has.
    pub fn new(io: S, prefix: BytesMut) -> Self {
        Self { io, prefix, counting: None }
    }

    /// Counts what is read and written, with `io` being the connection to `side`. One set of
    /// counters belongs to one side: on both it would count every byte twice.
    #[must_use]
    pub fn counting(mut self, counters: Arc<ByteCounters>, side: Side) -> Self {
        self.counting = Some((counters, side));
        self
    }

    /// The stream itself. Reading from it skips what is left of the prefix.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream and what is left of the prefix.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.prefix)
    }

    fn count_read(&self, n: usize) {
        if let Some((counters, side)) = &self.counting {
            counters.add_from(*side, n);
        }
    }

    fn count_written(&self, result: &Poll<io::Result<usize>>) {
        if let (Some((counters, side)), Poll::Ready(Ok(n))) = (&self.counting, result) {
            counters.add_from(side.other(), *n);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = if this.prefix.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
            if this.prefix.is_empty() {
                this.prefix = BytesMut::new(); // gives the memory back
            }
            Poll::Ready(Ok(()))
        };
        this.count_read(buf.filled().len() - before);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count_written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count_written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn prefix_comes_first_whatever_the_read_size() {
        for size in 1..12 {
            let (near, mut far) = duplex(64);
            far.write_all(b"world").await.unwrap();
            far.shutdown().await.unwrap();
            let mut io = Prefixed::new(near, BytesMut::from(&b"hello "[..]));
            let mut all = Vec::new();
            let mut chunk = vec![0; size];
            loop {
                let n = io.read(&mut chunk).await.unwrap();
                if n == 0 {
                    break;
                }
                all.extend_from_slice(&chunk[..n]);
            }
            assert_eq!(all, b"hello world");
        }
    }

    #[tokio::test]
    async fn counts_each_direction_from_either_side() {
        for side in [Side::Client, Side::Upstream] {
            let counters = Arc::new(ByteCounters::default());
            let (near, mut far) = duplex(64);
            let mut io = Prefixed::new(near, BytesMut::from(&b"abc"[..]))
                .counting(Arc::clone(&counters), side);
            far.write_all(b"de").await.unwrap();
            io.read_exact(&mut [0; 5]).await.unwrap();
            io.write_all(b"0123").await.unwrap();
            let parts = [IoSlice::new(b"45"), IoSlice::new(b"6")];
            let vectored = io.write_vectored(&parts).await.unwrap() as u64;
            let seen = (counters.client_to_upstream(), counters.upstream_to_client());
            let expected = match side {
                Side::Client => (5, 4 + vectored),
                Side::Upstream => (4 + vectored, 5),
            };
            assert_eq!(seen, expected);
        }
    }

    #[tokio::test]
    async fn parts_come_apart_with_what_is_left() {
        let (near, _far) = duplex(64);
        let mut io = Prefixed::new(near, BytesMut::from(&b"abc"[..]));
        assert_eq!(io.read_u8().await.unwrap(), b'a');
        assert_eq!(&io.into_parts().1[..], b"bc");
    }
}

//! What the peers of a connection see that does not end in order: a reset.
//!
//! Both sockets are armed from the start, the client's by way of the listener: closing them is a
//! reset (`forward::tcp::arm`). The kernel closes the sockets of a process that dies, and a FIN then
//! would make a stream look complete that was cut. The HTTP engines own their streams and drop them
//! as they like, so a stream disarms itself where that drop is an end in order.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::forward::{
    Side,
    http::AbortHook,
    tcp::{arm, disarm},
};

/// Whether the two streams of a connection end in order.
#[derive(Clone, Default)]
pub(crate) struct Fate(Arc<Torn>);

#[derive(Default)]
struct Torn {
    client: AtomicBool,
    upstream: AtomicBool,
}

/// Resets what is left of a connection's streams. To be dropped before the engine's future is: a
/// stream that is still there then has been cut.
pub(crate) struct Cut(Fate);

/// A stream whose socket is armed until its end has been sent.
pub(crate) struct Armed {
    stream: TcpStream,
    side: Side,
    fate: Fate,
}

// === impl Fate ===

impl Fate {
    /// The stream to one side, whose socket is armed.
    pub(crate) fn bind(&self, side: Side, stream: TcpStream) -> Armed {
        Armed { stream, side, fate: self.clone() }
    }

    /// The hook that the engine calls just before it drops a stream abnormally.
    pub(crate) fn on_abort(&self) -> AbortHook {
        let fate = self.clone();
        Arc::new(move |side| fate.torn(side).store(true, Ordering::Relaxed))
    }

    /// See [`Cut`].
    pub(crate) fn cut_on_drop(&self) -> Cut {
        Cut(self.clone())
    }

    fn torn(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Client => &self.0.client,
            Side::Upstream => &self.0.upstream,
        }
    }
}

// === impl Cut ===

impl Drop for Cut {
    fn drop(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            self.0.torn(side).store(true, Ordering::Relaxed);
        }
    }
}

// === impl Armed ===

impl Drop for Armed {
    fn drop(&mut self) {
        if self.fate.torn(self.side).load(Ordering::Relaxed) {
            // Its end may have been sent before.
            arm(&self.stream);
        } else {
            disarm(&self.stream);
        }
    }
}

impl AsyncRead for Armed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Armed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        disarm(&self.stream);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

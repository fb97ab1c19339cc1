//! Streams that an engine owns and drops as it likes: each is cut, unless it ended in order.
//!
//! Both sides are armed from the start, the client's by way of the listener. The kernel closes the
//! sockets of a process that dies, and a FIN then would make a stream look complete that was cut.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Abort;
use crate::forward::{Side, http::AbortHook};

/// Which sides are cut: the client's, the upstream's.
type Cut = Arc<[AtomicBool; 2]>;

/// Whether the two streams of a connection end in order. To be dropped before the engine's future is:
/// a stream that is still there then is cut.
#[derive(Default)]
pub(crate) struct AbortState(Cut);

/// A transport that is cut when it is dropped, unless its end has been sent or the engine has dropped
/// it in order.
pub(crate) struct ResetOnDrop<T: Abort> {
    transport: T,
    side: Side,
    cut: Cut,
}

// === impl AbortState ===

impl AbortState {
    /// The transport to one side, which is armed.
    pub(crate) fn bind<T: Abort>(&self, side: Side, transport: T) -> ResetOnDrop<T> {
        ResetOnDrop { transport, side, cut: Arc::clone(&self.0) }
    }

    /// The hook that the engine calls just before it drops a stream abnormally.
    pub(crate) fn on_abort(&self) -> AbortHook {
        let cut = Arc::clone(&self.0);
        Arc::new(move |side| flag(&cut, side).store(true, Relaxed))
    }
}

impl Drop for AbortState {
    fn drop(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            flag(&self.0, side).store(true, Relaxed);
        }
    }
}

// === impl ResetOnDrop ===

impl<T: Abort> Drop for ResetOnDrop<T> {
    fn drop(&mut self) {
        if flag(&self.cut, self.side).load(Relaxed) {
            // Its end may have been sent before.
            self.transport.arm();
        } else {
            self.transport.disarm();
        }
    }
}

impl<T: Abort + AsyncRead + Unpin> AsyncRead for ResetOnDrop<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl<T: Abort + AsyncWrite + Unpin> AsyncWrite for ResetOnDrop<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.disarm();
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

// === helpers ===

fn flag(cut: &Cut, side: Side) -> &AtomicBool {
    &cut[usize::from(side == Side::Upstream)]
}

//! The socket of one connection of a relay.

use std::{
    cell::RefCell,
    collections::hash_map::Entry,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use weir_http::h2::relay::PeerId;

use super::Relay;

/// Read at a time. One buffer for each thread: an idle connection has none.
const BUFFER: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Reads for the relay what a peer sends, and writes what there is for it.
pub(super) struct PeerIo {
    pub(super) relay: Arc<Relay>,
    pub(super) which: PeerId,
    pub(super) stream: TcpStream,
    /// The peer has ended its stream.
    pub(super) has_ended: bool,
}

/// What has become of a connection, so far.
#[derive(Debug)]
pub(super) enum Event {
    /// So many bytes were read, and so many written.
    Moved {
        read: usize,
        written: usize,
    },
    /// The peer has ended its stream.
    Ended,
    /// Everything is written that will be.
    Written,
    Failed(io::Error),
}

// === impl PeerIo ===

impl PeerIo {
    pub(super) const fn new(relay: Arc<Relay>, which: PeerId, stream: TcpStream) -> Self {
        Self { relay, which, stream, has_ended: false }
    }

    /// Goes on as far as the socket allows.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let read = match self.poll_read(cx) {
            Poll::Ready(Ok(0)) => {
                self.has_ended = true;
                return Poll::Ready(Event::Ended);
            }
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
            Poll::Pending => 0,
        };
        let mut written = 0;
        loop {
            match self.poll_write(cx) {
                Poll::Ready(Ok(None)) => return Poll::Ready(Event::Written),
                Poll::Ready(Ok(Some(count))) => written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Failed(error)),
                Poll::Pending => break,
            }
        }
        match (read, written) {
            (0, 0) => Poll::Pending,
            _ => Poll::Ready(Event::Moved { read, written }),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.has_ended {
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            let bytes = buffer.filled();
            if !bytes.is_empty() {
                self.relay.read(self.which, bytes);
            }
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Writes once; `None` when everything is written that will be. Pending also while there is nothing
    /// to write: the task is woken when there is.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let mut state = self.relay.lock();
        let output = state.core.output(self.which);
        if output.is_empty() {
            if state.core.is_closing(self.which) {
                return Poll::Ready(Ok(None));
            }
            match state.wakers.entry(self.which) {
                Entry::Occupied(mut waker) => waker.get_mut().clone_from(cx.waker()),
                Entry::Vacant(place) => _ = place.insert(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_write(cx, output) {
            Poll::Ready(Ok(count)) => {
                state.core.written(self.which, count);
                state.wake(Some(self.which));
                Poll::Ready(Ok(Some(count)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

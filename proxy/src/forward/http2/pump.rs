//! One direction of one HTTP/2 stream: DATA and trailers, with the receiver's flow control passed
//! back to the sender.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::task::yield_now;

use crate::forward::http::grpc_status;

/// Frames below this are joined while their receiver has no room. Left in h2's queue each of them
/// would cost more than its content, and h2 ends a connection that holds too many
/// (`data_frame_budget`).
const SMALL_FRAME: usize = 4 << 10;

/// Moves a body from one connection to the other.
pub(super) struct Pump {
    from: RecvStream,
    to: SendStream<Bytes>,
    /// What is sent next; behind it small frames, joined; behind those one large frame.
    chunk: Bytes,
    joined: BytesMut,
    large: Bytes,
    /// Nothing follows what is held here.
    last: bool,
    done: bool,
    moved: u64,
    grpc_status: Option<u32>,
}

/// Why a body did not get to its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its sender reset the stream, or the sender's connection failed.
    Sender(h2::Error),
    /// Its receiver reset the stream, or the receiver's connection failed.
    Receiver(Option<Reason>),
}

// === impl Pump ===

impl Pump {
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, done: bool) -> Self {
        Self {
            from,
            to,
            chunk: Bytes::new(),
            joined: BytesMut::new(),
            large: Bytes::new(),
            last: false,
            done,
            moved: 0,
            grpc_status: None,
        }
    }

    /// Bytes moved since the last call.
    pub(super) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// `grpc-status` of the trailers.
    pub(super) fn grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// Resets the receiver's stream, behind what its sender said before the reset as far as the
    /// receiver has room for it. h2 would drop what is queued, so this lets the connection that runs
    /// in the same task send first: what opens the stream, then what is held here.
    pub(super) async fn reset(&mut self, reason: Reason) {
        yield_now().await;
        let send_held = |cx: &mut Context<'_>| {
            while self.refill() && matches!(self.poll_send(cx), Poll::Ready(Ok(()))) {}
            Poll::Ready(())
        };
        poll_fn(send_held).await;
        yield_now().await;
        self.to.send_reset(reason);
    }

    /// Whether the receiver has reset the stream, be it before or after the body's end.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        self.to.poll_reset(cx).map(Result::ok)
    }

    /// Ready at the end of the body.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.done {
            if self.refill() {
                if let Poll::Ready(sent) = self.poll_send(cx) {
                    sent?;
                    continue;
                }
                self.poll_join(cx)?;
                return Poll::Pending;
            }
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    self.last = self.from.is_end_stream();
                    self.chunk = chunk;
                    if self.chunk.is_empty() && self.last {
                        self.send(0)?;
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Fault::Sender(error))),
                None => {
                    let trailers = ready!(self.from.poll_trailers(cx)).map_err(Fault::Sender)?;
                    self.end(trailers)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// False if nothing is held.
    fn refill(&mut self) -> bool {
        if self.chunk.is_empty() {
            self.chunk = match self.joined.is_empty() {
                true => std::mem::take(&mut self.large),
                false => std::mem::take(&mut self.joined).freeze(),
            };
        }
        !self.chunk.is_empty()
    }

    /// Takes what has arrived behind the chunk. The sender's window bounds it.
    fn poll_join(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while self.large.is_empty()
            && !self.last
            && let Poll::Ready(Some(frame)) = self.from.poll_data(cx)
        {
            let frame = frame.map_err(Fault::Sender)?;
            self.last = self.from.is_end_stream();
            match frame.len() < SMALL_FRAME {
                true => self.joined.extend_from_slice(&frame),
                false => self.large = frame,
            }
        }
        Ok(())
    }

    /// Sends as much of the chunk as the receiver has room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.to.reserve_capacity(self.chunk.len());
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(Fault::Receiver(error.reason()))),
                None => return Poll::Ready(Err(Fault::Receiver(None))),
            }
        }
        Poll::Ready(self.send(self.to.capacity().min(self.chunk.len())))
    }

    fn send(&mut self, count: usize) -> Result<(), Fault> {
        let piece = self.chunk.split_to(count);
        let held = !self.chunk.is_empty() || !self.joined.is_empty() || !self.large.is_empty();
        let end = self.last && !held;
        self.to.send_data(piece, end).map_err(Fault::receiver)?;
        self.moved += count as u64;
        self.done = end;
        // Fails only for more than was received.
        let _ = self.from.flow_control().release_capacity(count);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Fault> {
        self.done = true;
        match trailers {
            Some(trailers) => {
                self.grpc_status = grpc_status(&trailers);
                self.to.send_trailers(trailers)
            }
            None => self.to.send_data(Bytes::new(), true),
        }
        .map_err(Fault::receiver)
    }
}

// === impl Fault ===

impl Fault {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn receiver(error: h2::Error) -> Self {
        Self::Receiver(error.reason())
    }
}

//! The client's socket, closed with patience. Linux answers data for a closed socket with a reset
//! and drops what that socket has still to send (`tcp_rcv_state_process` in net/ipv4/tcp_input.c):
//! a WINDOW_UPDATE of a slow client would cut its own last response short. So after the last word
//! weir shuts its side, and reads what is not needed until the client closes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client that reads its last response may be silent. Window updates come after half a
/// window, which takes a slow client this long; others close as soon as they have what they asked
/// for.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) struct Lingering<S> {
    io: S,
    /// Set when the client was told to open no more streams. Without it the connection ends by an
    /// error, and there is no wait.
    going_away: Arc<AtomicBool>,
    /// Set while there is something to write and the socket has no room.
    blocked: Arc<AtomicBool>,
    longest: Duration,
    closing: Option<Closing>,
}

/// weir's side is shut.
struct Closing {
    silence: Pin<Box<Sleep>>,
    end: Instant,
}

// === impl Lingering ===

impl<S> Lingering<S> {
    /// Waits for the client for `longest`, if `going_away` is set by then.
    pub(super) fn new(io: S, going_away: Arc<AtomicBool>, longest: Duration) -> Self {
        Self { io, going_away, blocked: Arc::default(), longest, closing: None }
    }

    /// Whether something is to be written that the socket has no room for.
    pub(super) fn blocked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.blocked)
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.blocked.store(written.is_pending(), Relaxed);
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closing = match &mut this.closing {
            Some(closing) => closing,
            none => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                if !this.going_away.load(Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                let silence = Box::pin(sleep(SILENCE.min(this.longest)));
                none.insert(Closing { silence, end: Instant::now() + this.longest })
            }
        };
        let mut room = [0; 2048];
        loop {
            let mut nobody_needs = ReadBuf::new(&mut room);
            match Pin::new(&mut this.io).poll_read(cx, &mut nobody_needs) {
                Poll::Ready(Ok(())) if !nobody_needs.filled().is_empty() => {
                    let silent = Instant::now() + SILENCE;
                    closing.silence.as_mut().reset(silent.min(closing.end));
                }
                // Closed, or reset: there is no peer left to wait for.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.silence.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn lingering(
        going_away: bool,
    ) -> (Lingering<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, far) = duplex(64);
        (Lingering::new(near, Arc::new(AtomicBool::new(going_away)), HOUR), far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_waited_for_until_it_closes() {
        let (mut near, mut far) = lingering(true);
        let begin = Instant::now();
        let client = async {
            assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "it is told at once");
            for _ in 0..10 {
                tokio::time::sleep(SILENCE / 2).await;
                far.write_all(&[0; 60]).await.unwrap();
            }
            drop(far);
        };
        let (closed, ()) = tokio::join!(near.shutdown(), client);
        closed.unwrap();
        assert_eq!(begin.elapsed(), SILENCE * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_waited_for_no_longer_than_the_bound() {
        let (mut near, _far) = lingering(true);
        let begin = Instant::now();
        near.shutdown().await.unwrap();
        assert!((SILENCE..=SILENCE * 2).contains(&begin.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_stops_is_waited_for_no_longer_than_the_bound() {
        let (mut near, mut far) = lingering(true);
        let begin = Instant::now();
        let flood = async {
            while far.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            closed = near.shutdown() => closed.unwrap(),
            () = flood => unreachable!("the pipe is open"),
        }
        assert!((HOUR..=HOUR + SILENCE).contains(&begin.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_nobody_is_waited_for() {
        let (mut near, _far) = lingering(false);
        let begin = Instant::now();
        near.shutdown().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}

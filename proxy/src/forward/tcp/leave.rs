//! Leaving an observed connection when weir drains: at a moment at which nothing is under way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};

use super::lane::{Lane, Watch};
use crate::forward::http::{DRAIN_BUSY, DRAIN_IDLE, LINGER};
use crate::forward::transport::{Transport, TransportIo};
use crate::stop::Cancelled;

/// Looks for the moment.
pub(super) struct Leave {
    drain: Cancelled,
    /// Runs from the drain on: when it is over, the client is asked even if it is at work.
    overdue: Option<Pin<Box<Sleep>>>,
    /// The client was asked to begin nothing new.
    said: bool,
    /// Runs while nothing is under way, since so many bytes had passed.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

/// What there is to do.
pub(super) enum Leaving {
    /// A lane has got something to say.
    Said,
    /// Nothing is under way.
    Quiet,
}

/// Ends what [`Leaving::Quiet`] has left: the upstream at once, the client when it has ended too, or
/// after [`LINGER`]. What it still sends is read: unread bytes would make the close a reset, which may
/// overtake the last response.
pub(crate) async fn close(client: impl Transport, upstream: impl Transport) {
    upstream.disarm();
    drop(upstream);
    end(client).await;
}

/// Ends a client's connection in order.
pub(crate) async fn end(mut client: impl Transport) {
    client.disarm();
    let rest = async {
        // An error says that the client is gone.
        let _ = client.shutdown().await;
        let mut unread = vec![0; 8 << 10];
        while let Ok(1..) = client.read(&mut unread).await {}
    };
    let _ = timeout(LINGER, rest).await;
}

// === impl Leave ===

impl Leave {
    pub(super) fn new(drain: Cancelled) -> Self {
        Self { drain, overdue: None, said: false, timer: None }
    }

    /// To be polled after both lanes, neither of which can go on.
    pub(super) fn poll<C: TransportIo, U: TransportIo>(
        &mut self,
        cx: &mut Context<'_>,
        up: &Lane<'_, C, U>,
        down: &mut Lane<'_, U, C>,
        watch: &mut Watch<'_>,
    ) -> Poll<Leaving> {
        if !watch.draining {
            ready!(Pin::new(&mut self.drain).poll(cx));
            watch.draining = true;
        }
        let Some(observer) = &watch.observer else { return Poll::Pending };
        if !down.is_quiet() {
            return Poll::Pending;
        }
        let idle = up.is_quiet() && observer.is_idle();
        if idle && watch.close_said {
            return Poll::Ready(Leaving::Quiet);
        }
        let rested = idle && self.has_rested(cx, up.forwarded + down.forwarded);
        if !idle {
            self.timer = None;
        }
        if !self.said
            && (rested || self.is_overdue(cx))
            && let Some(words) = observer.farewell()
        {
            self.said = true;
            self.timer = None;
            down.say(words);
            return Poll::Ready(Leaving::Said);
        }
        if rested { Poll::Ready(Leaving::Quiet) } else { Poll::Pending }
    }

    /// Whether nothing has moved for [`DRAIN_IDLE`] since `moved` bytes had passed: before the client
    /// is asked to begin nothing new, and again before the close. Some clients (curl 7.88) lose the
    /// rest of what they are being sent when they are asked.
    fn has_rested(&mut self, cx: &mut Context<'_>, moved: u64) -> bool {
        if self.timer.as_ref().is_none_or(|(then, _)| *then != moved) {
            self.timer = Some((moved, Box::pin(sleep(DRAIN_IDLE))));
        }
        self.timer.as_mut().is_some_and(|(_, timer)| timer.as_mut().poll(cx).is_ready())
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = self.overdue.get_or_insert_with(|| Box::pin(sleep(DRAIN_BUSY)));
        timer.is_elapsed() || timer.as_mut().poll(cx).is_ready()
    }
}

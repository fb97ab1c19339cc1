//! A word to many connections at once: begin nothing new, or end now.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Cancelled once, for ever. Asking costs a load, where [`CancellationToken`] takes a lock that
/// all connections share.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cancelled: AtomicBool,
    token: CancellationToken,
}

/// Completes when its [`Stop`] is cancelled. May be polled as often as the task that waits runs:
/// it takes a lock only when the task's waker is a new one.
pub struct Cancelled {
    stop: Stop,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
    waker: Option<Waker>,
}

// === impl Stop ===

impl Stop {
    /// Not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everybody.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Whether everybody has been told.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// The same as a token, for those who are asked seldom.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Waits for it.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        Cancelled {
            stop: self.clone(),
            waiting: Box::pin(self.0.token.clone().cancelled_owned()),
            waker: None,
        }
    }
}

// === impl Cancelled ===

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.is_cancelled() {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            if self.waiting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl std::fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancelled").field(&self.stop.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn waiters_are_woken_after_moving_threads() {
        let stop = Stop::new();
        let mut early = task::spawn(stop.cancelled());
        assert_pending!(early.poll());
        assert!(early.waker.is_some(), "the next poll would take the lock again");
        assert_pending!(early.poll());
        // Another task takes the same wait over.
        let mut moved = task::spawn(early.into_inner());
        assert_pending!(moved.poll());
        assert!(!stop.is_cancelled());
        stop.cancel();
        assert!(moved.is_woken() && stop.is_cancelled());
        assert_ready!(moved.poll());
        assert_ready!(task::spawn(stop.cancelled()).poll());
    }
}

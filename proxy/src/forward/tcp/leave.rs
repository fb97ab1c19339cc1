//! Leaving an observed connection when weir drains: at a moment at which nothing is under way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::lane::{Lane, Watch};
use crate::forward::http::HttpVersion;
use crate::stop::Cancelled;

/// Looks for the moment.
pub(super) struct Leave {
    drain: Cancelled,
    draining: bool,
    /// How long nothing must have been under way where only the close tells the client.
    idle: Duration,
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

// === impl Leave ===

impl Leave {
    pub(super) fn new(drain: Cancelled, idle: Duration) -> Self {
        Self { drain, draining: false, idle, said: false, timer: None }
    }

    /// To be polled after both lanes, neither of which can go on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        up: &Lane<'_>,
        down: &mut Lane<'_>,
        watch: &Watch<'_>,
    ) -> Poll<Leaving> {
        if !self.draining {
            ready!(Pin::new(&mut self.drain).poll(cx));
            self.draining = true;
        }
        let Some(observer) = &watch.observer else { return Poll::Pending };
        if !down.is_quiet() {
            return Poll::Pending;
        }
        if !self.said
            && let Some(words) = observer.farewell()
        {
            self.said = true;
            down.say(words);
            return Poll::Ready(Leaving::Said);
        }
        if !up.is_quiet() || !observer.is_idle() {
            self.timer = None;
            return Poll::Pending;
        }
        if observer.version() == HttpVersion::Http1 {
            return Poll::Ready(Leaving::Quiet);
        }
        let moved = up.forwarded + down.forwarded;
        if self.timer.as_ref().is_none_or(|(then, _)| *then != moved) {
            self.timer = Some((moved, Box::pin(sleep(self.idle))));
        }
        match &mut self.timer {
            Some((_, timer)) => timer.as_mut().poll(cx).map(|()| Leaving::Quiet),
            None => Poll::Pending,
        }
    }
}

//! The time limits of a relay's streams: one task and one timer for all of them, while there are any.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Instant as StdInstant,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Core, Relay};

/// The task, if there is one.
#[derive(Default)]
pub(super) struct Timer(Option<Running>);

struct Running {
    waker: Waker,
    /// When it wakes by itself.
    at: Instant,
}

// === impl Relay ===

impl Relay {
    /// A stream has a deadline before all others.
    #[cold]
    pub(super) fn keep_time(self: &Arc<Self>) {
        let mut state = self.lock();
        let Some(first) = state.core.next_deadline().map(Instant::from_std) else { return };
        match &state.timer.0 {
            Some(running) if running.at <= first => return,
            Some(running) => return running.waker.wake_by_ref(),
            None => {
                state.timer.0 = Some(Running { waker: Waker::noop().clone(), at: first });
            }
        }
        drop(state);
        let relay = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut sleep = pin!(sleep_until(first));
            poll_fn(|cx| poll_limits(&relay, sleep.as_mut(), cx)).await;
        });
    }

    /// Sets the timer to the first deadline, if that is sooner.
    fn set_timer(&self, mut sleep: Pin<&mut Sleep>, cx: &Context<'_>) {
        let mut state = self.lock();
        if let Some(first) = state.core.next_deadline().map(Instant::from_std)
            && first < sleep.deadline()
        {
            sleep.as_mut().reset(first);
        }
        state.timer.0 = Some(Running { waker: cx.waker().clone(), at: sleep.deadline() });
    }
}

// === impl Timer ===

impl Drop for Timer {
    /// The relay is gone: so is its task.
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.waker.wake();
        }
    }
}

// === helpers ===

/// The time of the runtime, which tests may stop.
pub(super) fn now() -> StdInstant {
    Instant::now().into_std()
}

/// Ends what is late, whenever that is. Most streams are over before: the timer stays at what was the first
/// deadline, so that it is set once in that time and not for each stream. Ready when there is none left then,
/// or when the relay, which this does not keep, is gone.
fn poll_limits(relay: &Weak<Relay>, mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(relay) = relay.upgrade() else { return Poll::Ready(()) };
    loop {
        relay.set_timer(sleep.as_mut(), cx);
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        relay.with(None, Core::expire);
        let mut state = relay.lock();
        let Some(next) = state.core.next_deadline() else {
            state.timer.0 = None;
            return Poll::Ready(());
        };
        sleep.as_mut().reset(next.into());
    }
}

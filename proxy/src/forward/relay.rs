//! Relays HTTP/2 streams of a workload's clients to the endpoints of one destination: the sockets and
//! timers of `weir_http::h2::relay`, which decides.
//!
//! Each connection has a task. What one reads may be for several others: they are woken, and write when
//! it is their turn, so that what all clients have said in one round of the event loop leaves in one
//! write for each endpoint. All of a relay is on one thread: its lock is never waited for. One more
//! task keeps the time limits of all streams, while there are any.

mod client;
mod io;
#[cfg(test)]
mod tests;
mod timer;
mod upstream;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
};

use weir_http::h2::relay::{self as core, Dial, End, Limits, PeerId, Violation};

pub(crate) use self::client::Client;
use self::timer::Timer;
use super::{
    http::{ExchangeEnd, ExchangeSink},
    requests::{Connect, Connected, Requests},
};
use crate::{
    budget::{Charge, Share},
    stop::Stop,
    sync::lock,
};

/// So many bytes are read until it is looked at how much memory is held.
const CHARGED: usize = 256 << 10;

/// Relays the streams of several clients. One for each thread, and for all connections that may share
/// upstream connections.
pub(crate) struct Relay {
    state: Mutex<State>,
    requests: Arc<dyn Requests>,
    connect: Arc<dyn Connect>,
    drain: Stop,
    abort: Stop,
}

/// The requests of any workload.
type Core = core::Relay<dyn ExchangeSink, Arc<dyn Requests>>;

struct State {
    core: Core,
    wakers: HashMap<PeerId, Waker>,
    timer: Timer,
    marked: Vec<PeerId>,
    charge: Charge,
    /// Bytes read since memory was charged.
    uncharged: usize,
}

// === impl Relay ===

impl Relay {
    /// Without connections. From `drain` on none is kept without clients, and `abort` ends all.
    pub(crate) fn new(
        (requests, connect): (Arc<dyn Requests>, Arc<dyn Connect>),
        limits: Limits,
        share: Share,
        (drain, abort): (Stop, Stop),
    ) -> Arc<Self> {
        let state = Mutex::new(State {
            core: core::Relay::new(Arc::clone(&requests), limits).with_clock(timer::now),
            wakers: HashMap::new(),
            timer: Timer::default(),
            marked: Vec::new(),
            charge: Charge::to(Some(share)),
            uncharged: 0,
        });
        Arc::new(Self { state, requests, connect, drain, abort })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has the core do something, and then those others act for whom that has meant something.
    fn with<R>(self: &Arc<Self>, me: Option<PeerId>, act: impl FnOnce(&mut Core) -> R) -> R {
        self.with_state(me, |state| act(&mut state.core))
    }

    /// A peer has sent something.
    fn read(self: &Arc<Self>, from: PeerId, bytes: &[u8]) {
        self.with_state(Some(from), |state| {
            state.core.read(from, bytes);
            state.charge(bytes.len());
        });
    }

    fn with_state<R>(self: &Arc<Self>, me: Option<PeerId>, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        state.wake(me);
        let dials = state.core.take_dials();
        let is_sooner = state.core.take_sooner();
        drop(state);
        if is_sooner {
            self.keep_time();
        }
        for dial in dials {
            self.dial(dial);
        }
        result
    }

    /// Connects to an endpoint, for streams that wait for it.
    fn dial(self: &Arc<Self>, dial: Dial) {
        let relay = Arc::clone(self);
        tokio::spawn(async move {
            let Dial { upstream, address, timeout } = dial;
            let connected = tokio::select! {
                connected = relay.connect.connect(address, timeout) => connected,
                () = relay.abort.cancelled() => return relay.not_connected(upstream),
            };
            match connected {
                Ok(Connected { stream, descriptor }) => {
                    relay.with(None, |core| core.connected(upstream));
                    relay.serve_upstream(upstream, stream, descriptor).await;
                }
                Err(error) => {
                    tracing::debug!(%error, upstream.addr = %address, "cannot reach an endpoint");
                    relay.not_connected(upstream);
                }
            }
        });
    }

    fn not_connected(self: &Arc<Self>, upstream: usize) {
        let which = PeerId::Upstream(upstream);
        self.with(None, |core| {
            core.ended(which, End::NotConnected);
            core.remove(which, ExchangeEnd::Cancelled);
        });
    }
}

// === impl State ===

impl State {
    /// Wakes those for whom there is something to do, but for `me`.
    fn wake(&mut self, me: Option<PeerId>) {
        self.core.take_marked(&mut self.marked);
        for which in self.marked.drain(..) {
            if Some(which) != me
                && let Some(waker) = self.wakers.get(&which)
            {
                waker.wake_by_ref();
            }
        }
    }

    /// So many bytes were read. Where more is held than the workload may have, the client that most is
    /// held for goes.
    fn charge(&mut self, read: usize) {
        self.uncharged += read;
        if self.uncharged >= CHARGED {
            self.uncharged = 0;
            if !self.charge.keep(self.core.memory()) {
                self.core.shed();
            }
        }
    }
}

//! A connection to an endpoint.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    End, PeerId, Relay,
    io::{Event, PeerIo},
};
use crate::{
    budget::Taken,
    forward::{
        http::ExchangeEnd,
        tcp::{
            self,
            acknowledged::{self, Acknowledged},
        },
    },
};

/// A connection without streams is kept for this long.
const IDLE: Duration = Duration::from_secs(30);
/// How often it is looked whether it is still wanted.
const LOOK: Duration = Duration::from_secs(5);
/// How long a peer that has closed may take to say that it will not read either.
const RESET: Duration = Duration::from_millis(200);
const RESET_LOOK: Duration = Duration::from_millis(10);

// === impl Relay ===

impl Relay {
    /// Serves a connection to an endpoint to its end.
    pub(super) async fn serve_upstream(
        self: Arc<Self>,
        id: usize,
        stream: TcpStream,
        _descriptor: Option<Taken>,
    ) {
        let which = PeerId::Upstream(id);
        // The handshake's own byte.
        let before = acknowledged::of(&stream).map_or(0, |it| it.bytes);
        let mut io = PeerIo::new(Arc::clone(&self), which, stream);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut used = Instant::now();
        let end = loop {
            let event = poll_fn(|cx| {
                loop {
                    match ready!(io.poll(cx)) {
                        Event::Moved { .. } => used = Instant::now(),
                        event => return Poll::Ready(event),
                    }
                }
            });
            let event = tokio::select! {
                biased;
                event = event => event,
                _ = look.tick() => {
                    self.look_after(id, used.elapsed());
                    continue;
                }
                () = self.abort.cancelled() => break None,
            };
            break Some(event);
        };
        match end {
            None | Some(Event::Moved { .. }) => {}
            Some(Event::Written) => tcp::disarm(&io.stream),
            Some(Event::Ended) => {
                let acknowledged = self.unseen(which, &io.stream).await;
                let acknowledged = acknowledged.map(|bytes| bytes.saturating_sub(before));
                tcp::disarm(&io.stream);
                self.with(None, |core| core.ended(which, End::Closed { acknowledged }));
            }
            Some(Event::Failed(error)) => {
                tracing::debug!(%error, "a connection to an endpoint has failed");
                self.with(None, |core| core.ended(which, End::Failed));
            }
        }
        self.with(None, |core| core.remove(which, ExchangeEnd::Cancelled));
        self.lock().wakers.remove(&which);
    }

    /// Closes a connection that is not wanted any more, and has clients go on without the relay if their
    /// requests are not to be balanced any more.
    pub(super) fn look_after(self: &Arc<Self>, id: usize, unused: Duration) {
        let address = self.lock().core.address(id);
        let is_used = address.is_some_and(|address| self.requests.is_used(address));
        let is_current = self.requests.is_current();
        let is_draining = self.drain.is_cancelled();
        self.with(None, |core| {
            let is_alone = is_draining && core.clients() == 0;
            let is_idle = core.is_idle(PeerId::Upstream(id));
            if !is_used || (is_idle && (unused >= IDLE || is_alone)) {
                core.retire(id);
            }
            if !is_current {
                core.leave_all();
            }
        });
    }

    /// How many bytes the endpoint's kernel has acknowledged, when its end has been read. An endpoint
    /// that has closed, and not only ended its stream, answers what it gets with a reset.
    async fn unseen(&self, which: PeerId, stream: &TcpStream) -> Option<u64> {
        let begun = Instant::now();
        loop {
            let Acknowledged { bytes, is_closed } = acknowledged::of(stream)?;
            let is_idle = self.lock().core.is_idle(which);
            if is_closed || is_idle || begun.elapsed() >= RESET {
                return Some(bytes);
            }
            sleep(RESET_LOOK).await;
        }
    }
}

//! A connection to an endpoint.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    End, PeerId, Relay,
    io::{Event, PeerIo},
};
use crate::{
    budget::Taken,
    forward::{http::ExchangeEnd, tcp},
    tcp_info::{self, TcpInfo},
};

/// A connection without streams is kept for this long.
const IDLE: Duration = Duration::from_secs(30);
/// An endpoint that says nothing for so long after a PING is gone: the time that gRPC gives its servers
/// (`GRPC_ARG_KEEPALIVE_TIMEOUT_MS`).
const SILENT: Duration = Duration::from_secs(20);
/// How often it is looked whether it is still wanted, and there.
const LOOK: Duration = Duration::from_secs(5);

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
        let address = self.lock().core.address(id);
        let _counted = address.and_then(|address| self.requests.connected(address));
        // The handshake's own byte.
        let before = TcpInfo::of(&stream).map_or(0, |it| it.acknowledged);
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
                let is_idle = |_| self.lock().core.is_idle(which);
                let acknowledged = tcp_info::acknowledged_at_end(&io.stream, is_idle).await;
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
            core.check(id, SILENT);
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
}

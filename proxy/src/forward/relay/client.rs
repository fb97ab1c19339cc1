//! A client's connection.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::{
    End, PeerId, Relay, Violation,
    io::{Event, PeerIo},
};
use crate::{
    forward::{
        ByteCounters,
        http::{DRAIN_BUSY, DRAIN_IDLE, EndCause, ExchangeEnd, ExchangeSink, Side},
        tcp,
    },
    stop::Cancelled,
};

/// How often it is looked whether a client that is to leave is idle.
const LOOK: Duration = Duration::from_millis(200);

/// A client as detection leaves it.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// What it has sent.
    pub(crate) prefix: BytesMut,
    pub(crate) has_ended: bool,
    pub(crate) sink: Arc<dyn ExchangeSink>,
    pub(crate) counters: Arc<ByteCounters>,
}

/// A client's place in the relay, which it leaves when this is dropped.
struct Place {
    relay: Arc<Relay>,
    id: usize,
}

/// Asks a client to leave when weir drains.
struct Drain {
    begin: Cancelled,
    stage: Stage,
}

enum Stage {
    No,
    /// Until it is idle, or has been at work for long.
    Wait {
        since: Instant,
        idle_since: Option<Instant>,
        look: Pin<Box<Sleep>>,
    },
    /// It has been told, and may have opened streams meanwhile.
    Told(Pin<Box<Sleep>>),
    Left,
}

// === impl Relay ===

impl Relay {
    /// Serves a client to its end. `upstream` was dialled for it: it becomes one of the relay's
    /// connections, unless there is one to that endpoint already.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        client: Client,
        (upstream, said): (TcpStream, BytesMut),
    ) -> EndCause {
        self.add_upstream(upstream, &said);
        let Client { stream, prefix, has_ended, sink, counters } = client;
        let id = self.with(None, |core| core.add_client(sink));
        let which = PeerId::Client(id);
        let place = Place { relay: Arc::clone(self), id };
        counters.client_to_upstream.fetch_add(prefix.len() as u64, Relaxed);
        self.read(which, &prefix);
        drop(prefix);
        let mut io = PeerIo::new(Arc::clone(self), which, stream);
        if has_ended {
            io.has_ended = true;
            self.with(Some(which), |core| core.ended(which, End::Closed { acknowledged: None }));
        }
        let mut drain = Drain { begin: self.drain.cancelled(), stage: Stage::No };
        let over = poll_fn(|cx| {
            loop {
                drain.poll(cx, &place);
                match ready!(io.poll(cx)) {
                    Event::Moved { read, written } => {
                        counters.client_to_upstream.fetch_add(read as u64, Relaxed);
                        counters.upstream_to_client.fetch_add(written as u64, Relaxed);
                    }
                    Event::Ended => {
                        let end = End::Closed { acknowledged: None };
                        self.with(Some(which), |core| core.ended(which, end));
                    }
                    Event::Written => return Poll::Ready(true),
                    Event::Failed(error) => {
                        tracing::debug!(%error, "the client's connection has failed");
                        return Poll::Ready(false);
                    }
                }
            }
        });
        let is_whole = tokio::select! {
            is_whole = over => is_whole,
            () = self.abort.cancelled() => return EndCause::Drained,
        };
        if !is_whole {
            self.with(Some(which), |core| core.ended(which, End::Failed));
            return EndCause::Reset(Side::Client);
        }
        let violation = self.lock().core.violation(id);
        let was_asked = matches!(drain.stage, Stage::Told(_) | Stage::Left);
        drop(place);
        tcp::end(io.stream).await;
        match violation {
            Some(Violation { reason, .. }) => {
                EndCause::Protocol { side: Side::Client, text: reason.to_owned() }
            }
            None if was_asked => EndCause::Drained,
            None => EndCause::Closed(Side::Client),
        }
    }

    fn add_upstream(self: &Arc<Self>, stream: TcpStream, said: &[u8]) {
        let Ok(address) = stream.peer_addr() else { return };
        if self.lock().core.has_room(address) {
            // Nothing was sent on it.
            tcp::disarm(&stream);
            return;
        }
        let id = self.with(None, |core| {
            let id = core.add_upstream(address);
            core.read(PeerId::Upstream(id), said);
            id
        });
        let relay = Arc::clone(self);
        tokio::spawn(async move { relay.serve_upstream(id, stream, None).await });
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let which = PeerId::Client(self.id);
        let is_draining = self.relay.drain.is_cancelled();
        self.relay.with(None, |core| {
            core.remove(which, ExchangeEnd::Cancelled);
            if is_draining && core.clients() == 0 {
                core.retire_all();
            }
        });
        self.relay.lock().wakers.remove(&which);
    }
}

// === impl Drain ===

impl Drain {
    fn poll(&mut self, cx: &mut Context<'_>, place: &Place) {
        while let Poll::Ready(next) = self.next(cx, place) {
            self.stage = next;
        }
    }

    fn next(&mut self, cx: &mut Context<'_>, place: &Place) -> Poll<Stage> {
        let which = PeerId::Client(place.id);
        match &mut self.stage {
            Stage::No => {
                ready!(Pin::new(&mut self.begin).poll(cx));
                let (since, look) = (Instant::now(), Box::pin(sleep(LOOK)));
                Poll::Ready(Stage::Wait { since, idle_since: None, look })
            }
            // Some clients (curl 7.88) lose the rest of what they are being sent when they are told.
            Stage::Wait { since, idle_since, look } => {
                ready!(look.as_mut().poll(cx));
                let (since, now) = (*since, Instant::now());
                let is_idle = place.relay.lock().core.is_idle(which);
                let idle_since = is_idle.then(|| idle_since.unwrap_or(now));
                let has_rested = idle_since.is_some_and(|then| now - then >= DRAIN_IDLE);
                if has_rested || now - since >= DRAIN_BUSY {
                    place.relay.with(Some(which), |core| core.announce_shutdown(place.id));
                    return Poll::Ready(Stage::Told(Box::pin(sleep(DRAIN_IDLE))));
                }
                let look = Box::pin(sleep(LOOK));
                Poll::Ready(Stage::Wait { since, idle_since, look })
            }
            Stage::Told(time) => {
                ready!(time.as_mut().poll(cx));
                place.relay.with(Some(which), |core| core.leave(place.id));
                Poll::Ready(Stage::Left)
            }
            Stage::Left => Poll::Pending,
        }
    }
}

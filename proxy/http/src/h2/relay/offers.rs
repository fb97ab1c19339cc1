//! What clients are told of what endpoints can.

use super::peer::{ENABLE_CONNECT_PROTOCOL, MAX_HEADER_LIST_SIZE};
use super::{Endpoints, Limits, PeerId, Relay};
use crate::ExchangeSink;

/// Fields fit into this: no endpoint makes clients send less to others.
const LEAST_LIST: u32 = 4 << 10;

/// What holds for every endpoint that has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offers {
    /// Extended CONNECT (RFC 8441 §3). Who was offered it keeps it: it cannot be taken back.
    pub(super) connect_protocol: bool,
    /// The largest header list of a request.
    pub(super) list: u32,
}

// === impl Offers ===

impl Offers {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { connect_protocol: false, list: limits.list as u32 }
    }

    /// What differs, as settings.
    fn since(self, before: Self) -> Vec<(u16, u32)> {
        let mut settings = Vec::new();
        if self.list != before.list {
            settings.push((MAX_HEADER_LIST_SIZE, self.list));
        }
        if self.connect_protocol && !before.connect_protocol {
            settings.push((ENABLE_CONNECT_PROTOCOL, 1));
        }
        settings
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// An endpoint has said what it can: clients are told what all can.
    pub(super) fn offer(&mut self) {
        let mut offers = Offers::new(self.limits);
        let said = || self.upstreams.iter().filter(|(_, it)| it.is_greeted).map(|it| &it.1.peer);
        for peer in said() {
            offers.list = offers.list.min(peer.remote.list.max(LEAST_LIST));
        }
        let can = said().next().is_some() && said().all(|peer| peer.remote.connect_protocol);
        offers.connect_protocol = can || self.offers.connect_protocol;
        let settings = offers.since(std::mem::replace(&mut self.offers, offers));
        if settings.is_empty() {
            return;
        }
        let all: Vec<_> = self.clients.iter().map(|(id, _)| PeerId::Client(id)).collect();
        for which in all {
            if let Some(peer) = self.peer_mut(which) {
                peer.out.settings(&settings);
                self.mark(which);
            }
        }
    }
}

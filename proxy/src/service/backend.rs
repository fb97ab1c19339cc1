//! Requests to a backend of a route: each goes to an endpoint of its service.

use std::{net::SocketAddr, sync::Arc};

use weir_http::Choice;

use super::{
    Origin, Services, Target,
    requests::{AtOriginal, pick},
};
use crate::forward::requests::BoxedLease;

/// Sends requests to the endpoints of a backend.
pub(super) struct ToBackend {
    services: Arc<Services>,
    target: Arc<Target>,
    /// Where requests go when no endpoint can be reached.
    last: Option<SocketAddr>,
    /// Those of one client have the same.
    key: Option<u64>,
}

// === impl ToBackend ===

impl ToBackend {
    /// For clients that have asked for `destination`. What a cluster routes, or is theirs anyway, is the
    /// last resort.
    pub(super) fn new(
        services: Arc<Services>,
        target: Arc<Target>,
        destination: SocketAddr,
        key: Option<u64>,
    ) -> Self {
        let frontends = target.frontends();
        let last = match frontends.contains(&destination) {
            true => Some(destination),
            false => frontends.first().copied().filter(|_| target.origin() == Origin::Cluster),
        };
        Self { services, target, last, key }
    }
}

impl weir_http::Endpoints for ToBackend {
    type Lease = BoxedLease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        let Self { services, target, last, key } = self;
        if services.endpoints(target).pool().is_empty() {
            return None;
        }
        if let Some(picked) = pick(services, target, tried, *key) {
            return Some(picked);
        }
        let address = last.filter(|last| !tried.contains(last))?;
        target.fell_back();
        Some(Choice { address, connect_timeout: None, lease: Box::new(AtOriginal) })
    }

    /// An endpoint that was tried is better than the last resort.
    fn choose_again(
        &self,
        tried: &[SocketAddr],
        unreachable: &[SocketAddr],
    ) -> Option<Choice<BoxedLease>> {
        let pick = |tried| pick(&self.services, &self.target, tried, self.key);
        let picked = pick(tried).or_else(|| pick(unreachable));
        picked.or_else(|| self.choose(unreachable))
    }
}

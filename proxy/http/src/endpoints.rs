//! Where requests that are balanced go: the seam between an engine and what knows the endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Came, Exchange, RequestView, Routed};

/// Chooses the endpoint of each request.
pub trait Endpoints {
    /// Counts a request as in flight until it is dropped.
    type Lease: Lease;

    /// An endpoint that is not among `tried`; `None` if there is none left. Called for each request: must
    /// not block.
    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<Self::Lease>>;

    /// An endpoint for a request that may be sent to any of them once more: one that is not among `tried`,
    /// or else one that is not among `unreachable`.
    fn choose_again(
        &self,
        tried: &[SocketAddr],
        unreachable: &[SocketAddr],
    ) -> Option<Choice<Self::Lease>> {
        self.choose(tried).or_else(|| self.choose(unreachable))
    }

    /// An endpoint closes a connection that is in use because of an error of its own.
    fn failed(&self, _address: SocketAddr) {}

    /// Whether requests are routed by their heads at present: [`Self::route`] is to be asked.
    fn is_routed(&self) -> bool {
        false
    }

    /// What becomes of a request by its head; `None` for one that goes where all go. Called once for each
    /// request: must not block.
    fn route(&self, _request: &RequestView<'_>) -> Option<Routed<Self::Lease>> {
        None
    }
}

/// A request at an endpoint.
pub trait Lease {
    /// The request is over, as it is reported. Without this call (a request that went to another
    /// endpoint before it was answered) nothing is learned.
    fn over(&mut self, exchange: &Exchange);

    /// This came of it after that time, and the request is sent elsewhere.
    fn failed(&mut self, _came: Came, _after: Duration) {}

    /// What the endpoint, or one like it, usually takes to answer; `None` where nothing is known.
    fn estimate(&self) -> Option<Duration> {
        None
    }
}

/// The endpoint of a request.
#[derive(Debug)]
pub struct Choice<L> {
    /// Where it is.
    pub address: SocketAddr,
    /// How long it may take to accept a connection; `None` for the usual time.
    pub connect_timeout: Option<Duration>,
    /// Lives as long as the request is there.
    pub lease: L,
}

impl<E: Endpoints + ?Sized> Endpoints for Arc<E> {
    type Lease = E::Lease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<E::Lease>> {
        (**self).choose(tried)
    }

    fn choose_again(
        &self,
        tried: &[SocketAddr],
        unreachable: &[SocketAddr],
    ) -> Option<Choice<E::Lease>> {
        (**self).choose_again(tried, unreachable)
    }

    fn failed(&self, address: SocketAddr) {
        (**self).failed(address);
    }

    fn is_routed(&self) -> bool {
        (**self).is_routed()
    }

    fn route(&self, request: &RequestView<'_>) -> Option<Routed<E::Lease>> {
        (**self).route(request)
    }
}

impl<L: Lease + ?Sized> Lease for Box<L> {
    fn over(&mut self, exchange: &Exchange) {
        (**self).over(exchange);
    }

    fn failed(&mut self, came: Came, after: Duration) {
        (**self).failed(came, after);
    }

    fn estimate(&self) -> Option<Duration> {
        (**self).estimate()
    }
}

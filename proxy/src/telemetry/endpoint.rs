//! The endpoint that a connection was made to in place of its original destination, and who learns from
//! its answers.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    SkippedConnection,
    classify::Answer,
    event::{Connection, Event},
    sinks::Sink,
};
use crate::tcp_info::TcpInfo;

/// An endpoint that was chosen.
#[derive(Clone, Debug)]
pub struct ChosenEndpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Who learns from its answers.
    pub listener: Arc<dyn EndpointListener>,
}

/// Learns from an endpoint's answers, and from the ends of raw connections to it. Called on the data
/// path: must not block.
pub trait EndpointListener: fmt::Debug + Send + Sync {
    /// A request is over: its response began after this time, if there was one.
    fn exchange(&self, time_to_head: Option<Duration>, answer: Answer);

    /// A connection is about to be closed, of which the kernel says this.
    fn closing(&self, info: &TcpInfo);
}

/// Tells endpoints of the answers on their connections.
#[derive(Debug, Default)]
pub(super) struct Answers;

// === impl Answers ===

impl Sink for Answers {
    type State = ();

    fn opened(&self, _: &Connection) {}

    fn event(&self, connection: &Connection, (): &(), event: Event<'_>) {
        // Where requests are balanced, the lease of each has been told already.
        if let Event::ExchangeEnded { exchange, .. } = event
            && exchange.upstream.is_none()
            && let Some(endpoint) = connection.endpoint.get()
        {
            endpoint.listener.exchange(exchange.time_to_head, Answer::of(exchange));
        }
    }

    fn skipped(&self, _: u64, _: &SkippedConnection) {}
}

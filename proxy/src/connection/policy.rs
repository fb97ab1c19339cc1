//! How connections to a destination are served: decided once for each, before its upstream is dialled.

use std::time::Instant;

use crate::{
    capture::Captured,
    config::{HttpEngine, TrafficPolicy},
    decision::{Direction, PortState, Source},
    learn::Learning,
};

/// What applies to one connection, by its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DestinationPolicy {
    /// Where it is set that its bytes are not looked at; `None` if its protocol is to be detected.
    pub(super) opaque: Option<Source>,
    /// Carries it if it is HTTP.
    pub(super) engine: HttpEngine,
}

// === impl DestinationPolicy ===

impl DestinationPolicy {
    /// Of the settings, of what the hooks found for the port, and of what has been learned by `now`.
    pub(super) fn of(
        captured: &Captured,
        traffic: &TrafficPolicy,
        engine: Option<HttpEngine>,
        learning: &Learning,
        now: Instant,
    ) -> Self {
        let Captured { direction, destination, .. } = *captured;
        let opaque = match captured.state {
            PortState::Opaque => Some(captured.state_source),
            PortState::Detect | PortState::Skip => {
                learning.known(direction, destination, now).then_some(Source::Learned)
            }
        };
        let own = engine.filter(|_| direction == Direction::Outbound);
        Self { opaque, engine: own.unwrap_or_else(|| traffic.http.engine.engine()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::EngineName, connection::tests::captured, learn::Learn};

    #[test]
    fn a_port_that_is_opaque_is_so_by_its_own_source_and_a_learned_destination_by_what_was_learned()
    {
        let (now, destination) = (Instant::now(), "10.0.0.1:80".parse().unwrap());
        let mut traffic = TrafficPolicy::default();
        traffic.http.engine = EngineName::Terminate;
        let learning = Learning::new(Learn::Opaque);
        let of = |state, learning: &Learning| {
            let captured = Captured { state, ..captured(Direction::Outbound, destination) };
            DestinationPolicy::of(&captured, &traffic, None, learning, now)
        };
        let engine = HttpEngine::Terminate;
        let detected = DestinationPolicy { opaque: None, engine };
        assert_eq!(of(PortState::Detect, &learning), detected);
        let opaque = DestinationPolicy { opaque: Some(Source::Config), engine };
        assert_eq!(of(PortState::Opaque, &learning), opaque);
        while of(PortState::Detect, &learning) == detected {
            learning.observe(Direction::Outbound, destination, true, now);
        }
        let learned = DestinationPolicy { opaque: Some(Source::Learned), engine };
        assert_eq!(of(PortState::Detect, &learning), learned);
        assert_eq!(of(PortState::Opaque, &learning), opaque);
    }
}

//! What the kernel reports of a connection that went direct, as telemetry takes it.

use std::sync::Arc;

use weir_common::Reason;

use crate::{
    capture::{DirectClose, End},
    decision::{Direction, Source},
    telemetry::{CloseReason, SkippedConnection},
};

/// The end of a direct connection of the workload with this name.
#[must_use]
pub fn skipped(name: &Arc<str>, event: &DirectClose) -> SkippedConnection {
    SkippedConnection {
        workload: Arc::clone(name),
        direction: event.captured.direction,
        destination: event.captured.destination,
        source: match event.reason {
            Reason::SkipCidr | Reason::NotIncluded => Source::Config,
            Reason::FailedBefore | Reason::Learned => Source::Learned,
            Reason::SkipPort => event.captured.state_source,
            _ => Source::Default,
        },
        reason: event.reason,
        bytes_sent: event.bytes_sent,
        bytes_received: event.bytes_received,
        duration: event.duration,
        srtt: event.srtt,
        retransmits: event.retransmits,
        end: end(event.captured.direction, event.end),
        process: event.captured.process,
    }
}

/// Who ended it: the workload is the client outbound, the server inbound.
const fn end(direction: Direction, end: End) -> CloseReason {
    match (end, direction) {
        (End::NotEstablished(errno), _) => CloseReason::NotEstablished(errno),
        (End::Finished, _) => CloseReason::Finished,
        (End::OwnReset, Direction::Outbound) | (End::PeerReset, Direction::Inbound) => {
            CloseReason::ClientReset
        }
        (End::PeerReset, Direction::Outbound) | (End::OwnReset, Direction::Inbound) => {
            CloseReason::UpstreamReset
        }
        (End::Error(errno), _) => CloseReason::Error(errno),
    }
}

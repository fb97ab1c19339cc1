//! What the kernel reports of a connection that went direct, as telemetry takes it.

use std::sync::Arc;

use weir_common::Reason;

use crate::{capture::DirectClose, decision::Source, telemetry::SkippedConnection};

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
        established: event.established,
    }
}

//! weir's own log at level debug: what was decided about each connection, whether its destination was
//! reached, and how it ended. Addresses, reasons and numbers: nothing that peers have written.

use super::{
    SkippedConnection,
    event::{Connection, Event, Found},
    sinks::Sink,
};
use crate::decision::{direction_name, source_name};

/// Writes a line for each step of a connection.
#[derive(Debug)]
pub(super) struct Lines;

// === impl Lines ===

impl Sink for Lines {
    type State = ();

    fn opened(&self, connection: &Connection) {
        let info = &connection.info;
        tracing::debug!(
            connection.id = connection.id,
            workload = &*info.workload,
            direction = direction_name(info.direction),
            client.addr = %info.client,
            destination.addr = %info.destination,
            "connection captured"
        );
    }

    fn event(&self, connection: &Connection, (): &(), event: Event<'_>) {
        let id = connection.id;
        match event {
            Event::Connected => {
                let upstream = connection.endpoint().unwrap_or(connection.info.destination);
                tracing::debug!(connection.id = id, upstream.addr = %upstream, "upstream connected");
            }
            Event::Detected(Found { detection: Some(found), took, .. }) => tracing::debug!(
                connection.id = id,
                protocol = found.treatment().name(),
                source = source_name(found.source()),
                why = found.why(),
                ?took,
                "protocol decided"
            ),
            Event::Closed(reason) => tracing::debug!(
                connection.id = id,
                close = reason.name(),
                error = reason.error().as_deref(),
                bytes.sent = connection.counters.client_to_upstream(),
                bytes.received = connection.counters.upstream_to_client(),
                duration = ?connection.age(),
                "connection ended"
            ),
            _ => {}
        }
    }

    fn skipped(&self, id: u64, skipped: &SkippedConnection) {
        let detection = skipped.detection();
        tracing::debug!(
            connection.id = id,
            workload = &*skipped.workload,
            direction = direction_name(skipped.direction),
            destination.addr = %skipped.destination,
            source = source_name(detection.source()),
            why = detection.why(),
            close = skipped.end.name(),
            error = skipped.end.error().as_deref(),
            bytes.sent = skipped.bytes_sent,
            bytes.received = skipped.bytes_received,
            duration = ?skipped.duration,
            "direct connection ended"
        );
    }
}

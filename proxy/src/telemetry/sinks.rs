//! Who is told what happens on connections. Another one is one more field here, and nothing elsewhere.

use super::{
    SkippedConnection,
    endpoint::Answers,
    event::{Connection, Event},
    lines::Lines,
    metrics::Metrics,
    record::Records,
    spans::Spans,
    stats::Stats,
};

/// Is told what happens on connections. Called on the data path: must not block.
pub(super) trait Sink {
    /// What it keeps of each connection.
    type State;

    /// A connection has been accepted, or its SYN is held.
    fn opened(&self, connection: &Connection) -> Self::State;

    /// Something has happened on it.
    fn event(&self, connection: &Connection, state: &Self::State, event: Event<'_>);

    /// A connection that went direct has ended; `id` is its own.
    fn skipped(&self, id: u64, skipped: &SkippedConnection);
}

/// All sinks.
#[derive(Debug)]
pub(super) struct Sinks {
    pub(super) metrics: Metrics,
    pub(super) stats: Stats,
    /// The record log and the taps.
    pub(super) records: Records,
    /// The exporter of spans, if there is one.
    pub(super) spans: Option<Spans>,
    /// Endpoints of services.
    pub(super) answers: Answers,
    /// weir's own log.
    pub(super) lines: Lines,
}

/// What the sinks keep of a connection.
#[derive(Debug)]
pub(super) struct States {
    pub(super) metrics: <Metrics as Sink>::State,
    stats: <Stats as Sink>::State,
    pub(super) records: <Records as Sink>::State,
}

// === impl Sinks ===

impl Sink for Sinks {
    type State = States;

    fn opened(&self, connection: &Connection) -> States {
        self.lines.opened(connection);
        States {
            metrics: self.metrics.opened(connection),
            stats: self.stats.opened(connection),
            records: self.records.opened(connection),
        }
    }

    fn event(&self, connection: &Connection, state: &States, event: Event<'_>) {
        self.metrics.event(connection, &state.metrics, event);
        self.stats.event(connection, &state.stats, event);
        self.records.event(connection, &state.records, event);
        self.spans.event(connection, &(), event);
        self.answers.event(connection, &(), event);
        self.lines.event(connection, &(), event);
    }

    fn skipped(&self, id: u64, skipped: &SkippedConnection) {
        self.metrics.skipped(id, skipped);
        self.stats.skipped(id, skipped);
        self.records.skipped(id, skipped);
        self.lines.skipped(id, skipped);
    }
}

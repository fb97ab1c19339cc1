//! The connections that are open, as `weir connections` lists them. They are read where they are: the
//! data path keeps nothing for it but the name of the first request.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    event::Connection,
    record::{micros, time},
};
use crate::{
    decision::{Detection, Direction, Source, Treatment, direction_name, source_name},
    names,
    process::Process,
    table::{Cell, Column, Table, Width},
    units::{human_bytes, human_duration},
};

/// What a connection says that is not detected yet.
const DETECTING: &str = "not decided yet";

/// Connections that pass a filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenConnections {
    /// How many there are.
    pub open: u64,
    /// The first of them, the oldest one first.
    pub connections: Vec<OpenConnection>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// Its number, also in its records.
    pub id: u64,
    /// When it was accepted, RFC 3339.
    #[serde(with = "time")]
    pub time: SystemTime,
    /// Since then.
    #[serde(rename = "age_us", with = "micros")]
    pub age: Duration,
    /// The workload's name.
    pub workload: Arc<str>,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// The process that connected: of outbound connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The original destination.
    pub destination: SocketAddr,
    /// The endpoint that was chosen in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The host name that its client has asked for: that of the TLS ClientHello, or of the first request
    /// that names a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is going on.
    pub state: ConnectionState,
    /// What it is treated as; absent before a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treatment: Option<Treatment>,
    /// Who said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why, as a clause.
    pub why: Cow<'static, str>,
    /// `tap` where it is seen in the kernel and not proxied; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Cow<'static, str>>,
    /// Requests so far.
    pub requests: u64,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
}

/// What is going on on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// There is no upstream connection yet.
    Dialling,
    /// It is not known what it is: the bytes so far leave that open, or there are none.
    Detecting,
    /// Bytes pass in both directions.
    Open,
    /// One side has ended its stream, and the other has not.
    HalfClosed,
}

// === impl OpenConnection ===

impl OpenConnection {
    pub(super) fn new(connection: &Connection, requests: u64) -> Self {
        let (info, counters) = (&connection.info, &connection.counters);
        let detection = connection.detection();
        Self {
            id: connection.id,
            time: connection.started,
            age: connection.age(),
            workload: Arc::clone(&info.workload),
            direction: info.direction,
            client: info.client,
            process: info.process,
            destination: info.destination,
            endpoint: connection.endpoint(),
            name: connection.name().map(str::to_owned),
            state: ConnectionState::of(connection),
            treatment: detection.map(Detection::treatment),
            source: detection.map(Detection::source),
            why: detection.map_or(DETECTING, Detection::why).into(),
            engine: info.tapped.map(|_| "tap".into()),
            requests,
            bytes_sent: counters.client_to_upstream(),
            bytes_received: counters.upstream_to_client(),
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let dash = || "-".to_owned();
        let by = self.source.map_or_else(String::new, |by| format!("{}: ", source_name(by)));
        let cells = [
            self.id.to_string(),
            human_duration(self.age),
            self.workload.to_string(),
            direction_name(self.direction).to_owned(),
            self.client.to_string(),
            self.process.map_or_else(dash, |process| process.to_string()),
            self.destination.to_string(),
            self.endpoint.map_or_else(dash, |endpoint| endpoint.to_string()),
            self.name.clone().unwrap_or_else(dash),
            self.treatment.map_or_else(dash, |treatment| treatment.to_string()),
            self.state.name().to_owned(),
            if self.requests > 0 { self.requests.to_string() } else { dash() },
            human_bytes(self.bytes_sent),
            human_bytes(self.bytes_received),
            by + &self.why,
        ];
        cells.map(Cell::from).to_vec()
    }
}

// === impl OpenConnections ===

impl OpenConnections {
    /// A table, one line per connection.
    #[must_use]
    pub fn table(&self, width: Width) -> String {
        let first = self.connections.first();
        let is_one = |of: fn(&OpenConnection) -> &str| {
            self.connections.iter().all(|it| first.is_some_and(|first| of(first) == of(it)))
        };
        // What is the same for all of them is left out first on a narrow terminal.
        let rank = |is_one: bool, rank: u8| if is_one { 10 } else { rank };
        let workload = rank(is_one(|it| &it.workload), 2);
        let direction = rank(is_one(|it| direction_name(it.direction)), 3);
        let mut table = Table::new(vec![
            Column::number("ID", 8),
            Column::number("AGE", 0),
            Column::text("WORKLOAD", workload),
            Column::text("DIRECTION", direction),
            Column::text("CLIENT", 6),
            Column::text("PROCESS", 3).optional(),
            Column::text("DESTINATION", 0),
            Column::text("ENDPOINT", 5).optional(),
            Column::text("NAME", 1).optional(),
            Column::text("PROTOCOL", 1),
            Column::text("STATE", 2),
            Column::number("REQ", 7).optional(),
            Column::number("SENT", 4),
            Column::number("RECEIVED", 4),
            Column::text("DECIDED BY", 9),
        ]);
        for connection in &self.connections {
            table.add(connection.cells());
        }
        table.print(width)
    }
}

// === impl ConnectionState ===

impl ConnectionState {
    fn of(connection: &Connection) -> Self {
        if !connection.is_connected() {
            Self::Dialling
        } else if connection.counters.is_half_closed() {
            Self::HalfClosed
        } else if connection.found.get().is_none() {
            Self::Detecting
        } else {
            Self::Open
        }
    }

    /// As JSON has it.
    const fn name(self) -> &'static str {
        match self {
            Self::Dialling => "dialling",
            Self::Detecting => "detecting",
            Self::Open => "open",
            Self::HalfClosed => "half_closed",
        }
    }
}

#[cfg(test)]
mod tests;

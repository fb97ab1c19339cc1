//! Rows beside those by destination: by process of outbound connections, by client of inbound ones, and by
//! host and path of requests. Clients choose these, so that their number is bounded.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    AT_HAND, By, OfConnection, Stats,
    row::{Key, Row},
    rows::Rows,
};
use crate::{
    decision::{Detection, Direction},
    forward::http::Exchange,
    telemetry::{event::Connection, lock, name::host_name, record::UNDETECTED},
};

/// Rows of a workload by process or client, and by path: clients choose these, so that there are few.
pub(super) const VIEW: usize = 256;
/// Bytes of a path that rows tell apart.
const PATH: usize = 128;

/// In place of the destination, in rows that differ in their names only.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A row of the requests for a path.
#[derive(Debug)]
pub(super) struct OfPath {
    authority: Option<Arc<str>>,
    path: Arc<str>,
    row: Arc<Row>,
}

// === impl Stats ===

impl Stats {
    /// The row of a connection's process or client, from the first call on, if it is known.
    pub(super) fn party<'a>(
        &self,
        connection: &Connection,
        rows: &'a OfConnection,
    ) -> Option<&'a Arc<Row>> {
        let party = rows.party.get_or_init(|| {
            let info = &connection.info;
            let name = match info.direction {
                Direction::Outbound => info.process?.command(),
                Direction::Inbound => info.client.ip().to_string(),
            };
            let (workload, detection) = (&info.workload, connection.detection());
            let row = view(&self.parties, workload, info.direction, name, detection);
            row.opened();
            Some(row)
        });
        party.as_ref()
    }

    /// The row of a request's host and path.
    pub(super) fn path(
        &self,
        connection: &Connection,
        rows: &OfConnection,
        exchange: &Exchange,
    ) -> Arc<Row> {
        let mut known = lock(&rows.paths);
        let is_same = |it: &&OfPath| it.path == exchange.path && it.authority == exchange.authority;
        if let Some(found) = known.iter().find(is_same) {
            return Arc::clone(&found.row);
        }
        let host = exchange.authority.as_deref().and_then(host_name);
        let destination = connection.destination();
        let host = host.map_or_else(|| destination.to_string(), str::to_ascii_lowercase);
        let path = &exchange.path[..exchange.path.floor_char_boundary(PATH)];
        let (info, detection) = (&connection.info, connection.detection());
        // A peer has chosen it, and it is shown on terminals.
        let name = format!("{host}{}", path.escape_default());
        let row = view(&self.paths, &info.workload, info.direction, name, detection);
        if known.len() < AT_HAND {
            let (authority, path) = (exchange.authority.clone(), Arc::clone(&exchange.path));
            known.push(OfPath { authority, path, row: Arc::clone(&row) });
        }
        row
    }

    /// The rows that are summed up by this, and those of one direction where only it has such.
    pub(super) fn rows_by(&self, by: By) -> (&Rows, Option<Direction>) {
        match by {
            By::Destination | By::Endpoint | By::Name => (&self.rows, None),
            By::Process => (&self.parties, Some(Direction::Outbound)),
            By::Client => (&self.parties, Some(Direction::Inbound)),
            By::Path => (&self.paths, None),
        }
    }

    pub(super) fn all(&self, by: By) -> Vec<(Key, Arc<Row>)> {
        let (rows, direction) = self.rows_by(by);
        let mut all = rows.all();
        all.retain(|(key, _)| direction.is_none_or(|only| key.direction == only));
        all
    }
}

// === helpers ===

/// A row of those that differ in their names.
pub(super) fn view(
    rows: &Rows,
    workload: &Arc<str>,
    direction: Direction,
    name: String,
    detection: Option<Detection>,
) -> Arc<Row> {
    let key = Key {
        workload: Arc::clone(workload),
        direction,
        destination: Some(ANYWHERE),
        endpoint: None,
        name: Some(name.into()),
        treatment: detection.map(Detection::treatment),
        source: detection.map(Detection::source),
        reason: detection.and_then(Detection::unasked),
    };
    rows.get(key, detection.map_or(UNDETECTED, Detection::why))
}

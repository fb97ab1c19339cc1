//! `weir explain`: what a connection to an address gets, found with the hooks' own maps and with their
//! table of checks (`weir_common::decision`).

mod facts;
mod walk;

use std::{net::SocketAddr, sync::Arc};

use weir_common::{AddrWords, decision, destination};

use self::{facts::Facts, walk::walk};
use crate::{
    admin::protocol::{Explanation, Seen, Step},
    capture::{CaptureError, address_of, words},
    decision::{Direction, Source},
    telemetry::stats::StatsSnapshot,
    workload::Workload,
    workloads::WaitingWorkload,
};

/// What a connection to `address` would get. Enters the workload's network namespace: not for the thread
/// of the runtime.
///
/// # Errors
/// Where a map or the namespace's sockets cannot be read.
pub(super) fn explain(
    workload: &Arc<Workload>,
    stats: &StatsSnapshot,
    address: SocketAddr,
    direction: Direction,
) -> Result<Explanation, CaptureError> {
    let address = leads_to(address, direction);
    let facts = Facts::of(workload, address, direction)?;
    let walked = walk(decision::checks(direction), &facts, address, direction);
    Ok(Explanation {
        address,
        direction,
        verdict: walked.verdict.name.to_owned(),
        source: walked.verdict.source,
        why: walked.verdict.why,
        reason: walked.verdict.reason.map(|reason| reason.name().to_owned()),
        steps: walked.steps,
        seen: seen(stats, workload.name(), address, direction),
        service: None,
    })
}

/// What a connection gets of a workload that is wanted and not captured now.
pub(super) fn waiting(
    workload: &WaitingWorkload,
    address: SocketAddr,
    direction: Direction,
) -> Explanation {
    let why = format!("weir waits to capture the workload: {}", workload.wait.why);
    let step = Step { test: "captured?".to_owned(), result: "no".to_owned(), decisive: true };
    Explanation {
        address: leads_to(address, direction),
        direction,
        verdict: "skip".to_owned(),
        source: Source::Default,
        why,
        reason: None,
        steps: vec![step],
        seen: Vec::new(),
        service: None,
    }
}

// === helpers ===

/// The address that the hooks see: a v4-mapped one is IPv4, and connect(2) to an unspecified one leads to
/// loopback.
fn leads_to(address: SocketAddr, direction: Direction) -> SocketAddr {
    let asked: AddrWords = words(address.ip());
    let seen = match direction {
        Direction::Outbound => destination(asked),
        Direction::Inbound => asked,
    };
    SocketAddr::new(address_of(seen), address.port())
}

fn seen(
    stats: &StatsSnapshot,
    workload: &str,
    address: SocketAddr,
    direction: Direction,
) -> Vec<Seen> {
    stats
        .rows
        .iter()
        .filter(|row| &*row.workload == workload)
        .filter(|row| row.destination == Some(address) && row.direction == direction)
        .map(|row| Seen {
            treatment: row.treatment,
            source: row.source,
            reason: row.reason.clone(),
            why: row.why.clone(),
            connections: row.connections,
        })
        .collect()
}

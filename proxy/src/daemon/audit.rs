//! The audit trail: every change that is asked for over the control socket, with who has asked.

use crate::{
    admin::{control::Caller, protocol::PortsChanged},
    decision::{direction_name, source_name, state_name},
    ports::{PortChange, PortStatus},
};

/// A process that asks, or weir itself when the time of a change is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Author {
    Caller(Caller),
    Expiry,
}

/// Ports have other states: a line for each group that changed in the same way.
pub(super) fn ports(
    author: Author,
    workload: &str,
    changes: &[PortChange],
    lifetime_s: Option<u64>,
) {
    let status = |it: PortStatus| format!("{} ({})", state_name(it.state), source_name(it.source));
    for PortsChanged { direction, ports, before, after } in PortsChanged::group(changes) {
        let (direction, from, to) = (direction_name(direction), status(before), status(after));
        match author {
            Author::Caller(Caller { uid, pid, .. }) => tracing::info!(
                caller.uid = uid,
                caller.pid = pid,
                workload,
                direction,
                %ports,
                from,
                to,
                for_s = lifetime_s,
                "ports changed"
            ),
            Author::Expiry => {
                tracing::info!(workload, direction, %ports, from, to, "ports changed back: time is over");
            }
        }
    }
}

/// A workload was added or removed.
pub(super) fn workload(caller: Caller, name: &str, change: &'static str) {
    let Caller { uid, pid, .. } = caller;
    tracing::info!(caller.uid = uid, caller.pid = pid, workload = name, change, "workload changed");
}

/// The log filter is another one. Said before it is in force, which may be silence.
pub(super) fn log_level(caller: Caller, from: &str, to: &str) {
    let Caller { uid, pid, .. } = caller;
    tracing::info!(caller.uid = uid, caller.pid = pid, from, to, "log filter changed");
}

//! Programs of others that take sockets: sock maps on the whole machine, `sk_lookup` in the network
//! namespace.

use std::os::fd::BorrowedFd;

use aya::programs::loaded_programs;

use super::{Finding, Severity, blind};
use crate::capture::{
    foreign::{OURS, called, is_ours},
    query,
};

pub(super) const ADVICE: &str = "nothing while --sk-msg is off; otherwise compare `weir stat` with the statistics of the other \
     program";

/// `enum bpf_prog_type` (`include/uapi/linux/bpf.h`).
const SK_SKB: u32 = 14;
const SK_MSG: u32 = 16;

/// `enum bpf_map_type`.
const SOCKMAP: u32 = 15;
const SOCKHASH: u32 = 18;

/// Programs that belong to sock maps, wherever their sockets are: the kernel does not tell which
/// map a program is attached to.
pub(super) fn maps() -> Vec<Finding> {
    let mut names = Vec::new();
    for info in loaded_programs() {
        let info = match info {
            Ok(info) => info,
            Err(error) => return vec![blind("sock maps", "this machine", &error)],
        };
        let kind = match info.program_type() as u32 {
            SK_MSG => "sk_msg",
            SK_SKB => "sk_skb",
            _ => continue,
        };
        let name = info.name_as_str().unwrap_or_default();
        if !name.starts_with(OURS) {
            names.push(if name.is_empty() { kind.into() } else { format!("{name} ({kind})") });
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    names.sort();
    names.dedup();
    // Whether any socket of ours is concerned is for the sockops hook to say.
    vec![Finding {
        area: "sock maps",
        what: names.join(", "),
        place: "this machine".into(),
        effect: "processes the sockets of a sock map; with --sk-msg on, a socket that already has \
                 such a program stays on the TCP stack (EBUSY)"
            .into(),
        severity: Severity::Note,
        advice: String::new(),
    }]
}

/// Programs that choose the listener of incoming connections
/// (`Documentation/bpf/prog_sk_lookup.rst`).
pub(super) fn lookup(netns: BorrowedFd<'_>) -> Vec<Finding> {
    let programs = match query::netns_programs(netns) {
        Ok(programs) => programs,
        Err(error) => return vec![blind("sk_lookup", "the network namespace", &error)],
    };
    let others: Vec<_> = programs.iter().filter(|program| !is_ours(program)).map(called).collect();
    if others.is_empty() {
        return Vec::new();
    }
    vec![Finding {
        area: "sk_lookup",
        what: others.join(", "),
        place: "the network namespace".into(),
        effect: "also selects listeners for incoming connections, in the order of attachment: the \
                 last selection counts, and a connection that it drops is accepted if weir \
                 selects a listener for it"
            .into(),
        severity: Severity::Warn,
        advice: "exempt its ports: --skip-inbound-ports".into(),
    }]
}

/// Whether a program has a sock map among its maps. What cannot be asked has none.
pub(super) fn uses_sock_map(program: u32) -> bool {
    let maps = query::program(program).map(|program| program.maps).unwrap_or_default();
    maps.iter().any(|id| matches!(query::map_kind(*id), Ok(SOCKMAP | SOCKHASH)))
}

//! What this kernel and this process can do with BPF, found out by really loading tiny programs
//! and maps. Used by `weir check`.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};

use crate::capture::Support;

/// A program type that weir attaches.
pub const PROGRAMS: [(&str, ProgramType); 5] = [
    ("cgroup/connect, getpeername, getsockname", ProgramType::CgroupSockAddr),
    ("sockops", ProgramType::SockOps),
    ("cgroup/getsockopt", ProgramType::CgroupSockopt),
    ("sk_msg", ProgramType::SkMsg),
    ("socket filter", ProgramType::SocketFilter),
];

/// A map type that weir uses.
pub const MAPS: [(&str, MapType); 5] = [
    ("sock hash", MapType::SockHash),
    ("socket storage", MapType::SkStorage),
    ("longest-prefix match", MapType::LpmTrie),
    ("per-cpu hash", MapType::PerCpuHash),
    ("ring buffer", MapType::RingBuf),
];

/// Whether a program of this type loads.
#[must_use]
pub fn program(kind: ProgramType) -> Support {
    answer(is_program_supported(kind))
}

/// Whether a map of this type can be made.
#[must_use]
pub fn map(kind: MapType) -> Support {
    answer(is_map_supported(kind))
}

fn answer<E: std::error::Error + 'static>(result: Result<bool, E>) -> Support {
    match result {
        Ok(true) => Support::Yes,
        Ok(false) => Support::No,
        Err(error) => Support::Unknown(root_cause(&error)),
    }
}

/// aya's errors name the call; the reason is at the end of the chain.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

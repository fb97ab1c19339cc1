//! What operator and proxy have said about a connection, for both directions.

use aya_ebpf::{btf_maps::HashMap, helpers::bpf_ktime_get_ns};
use weir_common::{
    DestinationKey, Direction, OriginalDestination, PortBlockKey, PortRule, Reason, Source,
    WorkloadConfig, WorkloadId, flags,
};

use crate::maps::{HEARTBEAT, LEARNED, NO_PREALLOC, PORTS};

/// The rule of a port; where there is none, the default: detect.
#[inline(always)]
pub fn rule(workload: WorkloadId, direction: Direction, port: u16) -> PortRule {
    let key = PortBlockKey::of(workload, direction, port);
    // SAFETY: userspace replaces entries, it does not write into them; one byte is read.
    match unsafe { PORTS.get(&key) } {
        Some(block) => block.rule(port),
        None => PortRule::default(),
    }
}

/// Lets through what the proxy has found to be raw TCP, and notes that with the decision.
#[inline(always)]
pub fn learned(dest: &mut OriginalDestination, key: &DestinationKey) -> Result<(), Reason> {
    if is_ahead(&LEARNED, key) {
        dest.state_source = Source::Learned as u8;
        return Err(Reason::Learned);
    }
    Ok(())
}

/// True where the destination has an entry whose time has not come yet.
#[inline(always)]
pub fn is_ahead<const MAX: usize>(
    until: &HashMap<DestinationKey, u64, MAX, NO_PREALLOC>,
    key: &DestinationKey,
) -> bool {
    // SAFETY: one aligned word, and a plain helper call.
    unsafe { until.get(key) }.is_some_and(|until| unsafe { bpf_ktime_get_ns() } < *until)
}

/// True where the proxy has shown a sign of life in time.
#[inline(always)]
pub fn is_fresh(config: &WorkloadConfig, now: u64) -> bool {
    if config.heartbeat_limit_ns == 0 {
        return true;
    }
    // A heartbeat written between the two clock readings is newer than "now".
    HEARTBEAT.get(0).is_some_and(|beat| *beat >= now || now - *beat <= config.heartbeat_limit_ns)
}

/// What follows from there being no proxy: `reason`, or a refusal where the workload wants that.
#[inline(always)]
pub const fn without_proxy(config: &WorkloadConfig, reason: Reason) -> Reason {
    if config.flags & flags::FAIL_CLOSED != 0 { Reason::FailClosed } else { reason }
}

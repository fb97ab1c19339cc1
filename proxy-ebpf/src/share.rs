//! The workload's shares of the tables that the hooks write for all workloads: what is beyond them
//! goes direct. Connections are counted before the redirect, because afterwards there is no way back.

use core::arch::asm;

use weir_common::{Shares, Usage, WorkloadConfig, WorkloadId};

use crate::maps::{SHARES, USAGE};

/// Reserves a place for one more connection on its way; false where the share is used up.
#[inline(always)]
pub fn reserve(config: &WorkloadConfig, workload: WorkloadId) -> bool {
    let Some(usage) = USAGE.get_ptr_mut(&workload) else { return false };
    // SAFETY: aligned words of a live entry.
    unsafe {
        let released = (&raw const (*usage).released).read_volatile();
        let reserved = add(&raw mut (*usage).reserved, 1);
        let counted = reserved.wrapping_sub(released);
        if Usage::used(counted, config.forgiven_in_flight) < shares().in_flight {
            return true;
        }
        add(&raw mut (*usage).reserved, -1);
    }
    false
}

/// Gives a place back that [`reserve`] reserved.
#[inline(always)]
pub fn release(workload: WorkloadId) {
    if let Some(usage) = USAGE.get_ptr_mut(&workload) {
        // SAFETY: an aligned word of a live entry.
        unsafe { add(&raw mut (*usage).released, 1) };
    }
}

/// Counts one more address and port that is listened on; false where the share is used up.
#[inline(always)]
pub fn begin_listening(config: &WorkloadConfig, workload: WorkloadId) -> bool {
    let Some(usage) = USAGE.get_ptr_mut(&workload) else { return false };
    // SAFETY: an aligned word of a live entry.
    unsafe {
        let count = &raw mut (*usage).listening;
        if Usage::used(add(count, 1), config.forgiven_listening) < shares().listening {
            return true;
        }
        add(count, -1);
    }
    false
}

/// Counts one less.
#[inline(always)]
pub fn end_listening(workload: WorkloadId) {
    if let Some(usage) = USAGE.get_ptr_mut(&workload) {
        // SAFETY: an aligned word of a live entry.
        unsafe { add(&raw mut (*usage).listening, -1) };
    }
}

/// What userspace allows; before it has said anything, what fits for as many workloads as there can be.
#[inline(always)]
fn shares() -> Shares {
    const LEAST: Shares = Shares::among(Shares::MAX_WORKLOADS);
    match SHARES.get(0) {
        Some(shares) if shares.in_flight != 0 => *shares,
        _ => LEAST,
    }
}

/// Adds to a counter, with other CPUs at it too; returns what it was. `core` has no such operation
/// for this target; the kernel has it since 5.12 (`BPF_FETCH`).
///
/// # Safety
/// `at` is an aligned word of a live map value.
#[inline(always)]
pub unsafe fn add(at: *mut u32, by: i32) -> u32 {
    let mut value = by as u32;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u32 *)({at} + 0), {value})",
            at = in(reg) at,
            value = inout(wreg) value,
            options(nostack),
        );
    }
    value
}

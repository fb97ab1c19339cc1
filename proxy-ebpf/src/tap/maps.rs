//! The maps of the tap: each process has its own.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, RingBuf, SkStorage},
    macros::btf_map,
};
use weir_common::{TapEnded, TapEvent, TapSocket};

#[btf_map]
pub static TAPS: SkStorage<TapSocket> = SkStorage::new();

/// The smallest there is where the tap is not loaded; userspace sets the size (`capture/tap.rs`).
#[btf_map]
pub static TAP_EVENTS: RingBuf<TapEvent, 65_536> = RingBuf::new();

#[btf_map]
pub static TAP_IDLE: Array<u64, 1> = Array::new();

/// Entries stay for milliseconds. What finds no room is told when weir ends.
#[btf_map]
pub static TAP_ENDS: HashMap<u64, TapEnded, 65_536, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

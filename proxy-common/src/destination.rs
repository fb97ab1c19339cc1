//! Destinations of a workload: the keys of what is known about each, and the routes to them.

use crate::{AddrWords, Direction, WorkloadId};

/// Key of one destination: of a workload's outbound connections, or of connections to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationKey {
    /// The address.
    pub addr: AddrWords,
    /// The workload.
    pub workload: WorkloadId,
    /// The port, host order.
    pub port: u16,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// Padding.
    pub _pad: u8,
}

impl DestinationKey {
    /// Bits of a key, where it is one of a longest-prefix match.
    pub const BITS: u32 = 8 * size_of::<Self>() as u32;

    /// The key of an address and port of a workload, for one direction.
    #[must_use]
    pub const fn new(
        workload: WorkloadId,
        direction: Direction,
        addr: AddrWords,
        port: u16,
    ) -> Self {
        Self { addr, workload, port, direction: direction as u8, _pad: 0 }
    }
}

/// The data of a longest-prefix-match key: a workload, then an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// The workload, big-endian, always matched in full.
    pub workload_be: [u8; 4],
    /// The address.
    pub addr: AddrWords,
}

impl PrefixKey {
    /// Bits of a key before the address begins.
    pub const WORKLOAD_BITS: u32 = 32;
    /// Bits of a full key.
    pub const BITS: u32 = Self::WORKLOAD_BITS + 128;

    /// The key for an address of a workload.
    #[must_use]
    pub const fn new(workload: WorkloadId, addr: AddrWords) -> Self {
        Self { workload_be: workload.to_be_bytes(), addr }
    }
}

/// One prefix of the workload's routing table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The source address that the kernel would choose.
    pub source: AddrWords,
    /// 0 for unreachable, prohibit and blackhole routes, else 1.
    pub reachable: u32,
}

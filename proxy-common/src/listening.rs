//! Listening sockets: those of a workload, and those of the proxy that serve it.

use crate::{AddrWords, WorkloadId};

/// How many sockets of one port [`maps::SEEDED`] holds, over all addresses.
pub const SEED_PLACES: usize = 8;

/// The sockets of a workload that listen on one address and port, as the kernel sees `listen(2)`
/// and close. The unspecified addresses have keys of their own: `::ffff:0.0.0.0` and `::`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// How many.
    pub sockets: u32,
    /// 1 where a socket takes no IPv4 connections (`IPV6_V6ONLY`); matters for `::` only. The
    /// kernel sets that option for sockets on one IPv6 address by itself.
    pub v6_only: u32,
}

/// The sockets of one port of a workload in [`maps::SEEDED`], by place. A place of which the bit is
/// set may be empty: then its socket has been closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seeds {
    /// The address that the socket in a place is bound to, keyed as for [`Listening`].
    pub addrs: [AddrWords; SEED_PLACES],
    /// Bit `n`: place `n` was filled.
    pub places: u32,
    /// Bit `n`: the socket in place `n` takes no IPv4 connections (`IPV6_V6ONLY`).
    pub v6_only: u32,
}

/// Key of one place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeedKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The port, host order.
    pub port: u16,
    /// The place, below [`SEED_PLACES`].
    pub place: u16,
}

/// Which listener of a workload a slot holds.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// 127.0.0.1: inbound IPv4 connections, and outbound ones without a listener of their own.
    V4 = 0,
    /// ::1: the same of IPv6.
    V6 = 1,
    /// Every IPv4 address of the loopback interface: outbound IPv4 connections.
    Outbound4 = 2,
    /// ::1: outbound IPv6 connections; several, told apart by [`ListenerKey::place`].
    Outbound6 = 3,
}

/// Key of a listener slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The workload.
    pub workload: WorkloadId,
    /// [`ListenerKind`] as a number.
    pub kind: u16,
    /// Which one of the kind; see [`spread::place`].
    pub place: u16,
}

/// Key of a count of open connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The listener's port, host order.
    pub listener: u16,
    /// 1 for a listener on IPv6.
    pub inet6: u16,
}

//! Options that an application sets on its socket after connect(2).

use crate::WorkloadId;

/// Told when an application sets one of the [`followed`] options on a captured socket. The kernel has
/// not looked at the value yet, and may refuse it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionEvent {
    /// [`crate::OriginalDestination::connected_ns`] of the connection; with workload and port it names
    /// it.
    pub connected_ns: u64,
    /// The first 16 bytes of the value, as they stand in memory; zero behind its end.
    pub value: [u64; 2],
    /// The workload.
    pub workload: WorkloadId,
    /// As in setsockopt(2).
    pub level: i32,
    /// As in setsockopt(2).
    pub name: i32,
    /// Bytes of `value` that count.
    pub length: u16,
    /// The socket's own port, host order.
    pub port: u16,
}

/// How many options of a socket were told of late: all workloads have one ring buffer, and no
/// application is to keep it full.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToldOptions {
    /// `bpf_ktime_get_ns` when the count began.
    pub since_ns: u64,
    /// Told since.
    pub count: u64,
}

impl ToldOptions {
    /// Options of one socket that are told in each [`Self::PERIOD_NS`].
    pub const MOST: u64 = 64;
    /// A second.
    pub const PERIOD_NS: u64 = 1_000_000_000;
}

impl OptionEvent {
    /// Bytes of a value that are told: all of those of the options that are followed.
    pub const VALUE_BYTES: u16 = 16;
}

/// The options that are followed: what the network and the peer can see of a connection, and how long
/// silence is borne. Not `TCP_NODELAY`: weir sends at once whatever it has read.
pub mod followed {
    /// socket(7).
    pub const SOL_SOCKET: i32 = 1;
    /// tcp(7).
    pub const SOL_TCP: i32 = 6;
    /// ip(7).
    pub const SOL_IP: i32 = 0;
    /// ipv6(7).
    pub const SOL_IPV6: i32 = 41;
    /// Of `SOL_SOCKET`.
    pub const SO_KEEPALIVE: i32 = 9;
    /// Of `SOL_SOCKET`.
    pub const SO_PRIORITY: i32 = 12;
    /// Of `SOL_SOCKET`.
    pub const SO_MAX_PACING_RATE: i32 = 47;
    /// Of `SOL_TCP`.
    pub const TCP_KEEPIDLE: i32 = 4;
    /// Of `SOL_TCP`.
    pub const TCP_KEEPINTVL: i32 = 5;
    /// Of `SOL_TCP`.
    pub const TCP_KEEPCNT: i32 = 6;
    /// Of `SOL_TCP`.
    pub const TCP_CONGESTION: i32 = 13;
    /// Of `SOL_TCP`.
    pub const TCP_USER_TIMEOUT: i32 = 18;
    /// Of `SOL_IP`.
    pub const IP_TOS: i32 = 1;
    /// Of `SOL_IPV6`.
    pub const IPV6_TCLASS: i32 = 67;

    /// How many there are.
    pub const COUNT: usize = 10;

    /// Whether an option is one of them.
    #[must_use]
    #[inline(always)]
    pub const fn contains(level: i32, name: i32) -> bool {
        match level {
            SOL_SOCKET => matches!(name, SO_KEEPALIVE | SO_PRIORITY | SO_MAX_PACING_RATE),
            SOL_TCP => matches!(
                name,
                TCP_KEEPIDLE | TCP_KEEPINTVL | TCP_KEEPCNT | TCP_CONGESTION | TCP_USER_TIMEOUT
            ),
            SOL_IP => name == IP_TOS,
            SOL_IPV6 => name == IPV6_TCLASS,
            _ => false,
        }
    }
}

const _: () = assert!(size_of::<OptionEvent>() == 40 && size_of::<ToldOptions>() == 16);

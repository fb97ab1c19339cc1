//! The boundary between weir's BPF programs and its userspace: every structure, map name and
//! constant that both sides use, defined once.
//!
//! Byte order: addresses are in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), so
//! that one key type serves both families; ports are host order.

#![no_std]

/// Identifies a workload in every map key. Zero is never used.
pub type WorkloadId = u32;

/// The sixteen bytes of an IPv6 or v4-mapped IPv4 address in network order, as the four words
/// they make in memory: the kernel hands them to the hooks so, and lets no hook read more at once.
pub type AddrWords = [u32; 4];

/// The third word of every v4-mapped address; the first two are zero (RFC 4291 §2.5.5.2).
pub const V4_MAPPED_WORD: u32 = 0xffff_u32.to_be();

/// Names of the maps in the BPF object, as userspace looks them up.
pub mod maps {
    /// `WorkloadId → WorkloadConfig`.
    pub const WORKLOADS: &str = "WORKLOADS";
    /// `PortKey → PortRule`.
    pub const PORTS: &str = "PORTS";
    /// `PortKey → u64`: connections that a skip rule let pass.
    pub const PORT_HITS: &str = "PORT_HITS";
    /// Longest-prefix match over `PrefixKey → u8`: destinations that are never captured.
    pub const SKIP_CIDRS: &str = "SKIP_CIDRS";
    /// `DestinationKey → u64`: destinations that go direct until then, `bpf_ktime_get_ns` clock.
    pub const FAILED: &str = "FAILED";
    /// Longest-prefix match over `PrefixKey → Route`: the workload's routing table.
    pub const ROUTES: &str = "ROUTES";
    /// Sock hash `ListenerKey → listening socket`; its emptiness is the liveness check.
    pub const LISTENERS: &str = "LISTENERS";
    /// `WorkloadId → u64`: last heartbeat of the proxy, `bpf_ktime_get_ns` clock.
    pub const HEARTBEATS: &str = "HEARTBEATS";
    /// `ConnectionKey → OriginalDestination`, from `TCP_CONNECT_CB` until the proxy's accept.
    pub const PENDING: &str = "PENDING";
    /// Socket-local storage `OriginalDestination` on the workload's own socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// Per-CPU `CounterKey → u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// Sock hash `TupleKey → established socket` for `sk_msg` redirection.
    pub const PEERS: &str = "PEERS";
    /// Ring buffer of `CloseEvent`.
    pub const EVENTS: &str = "EVENTS";
}

/// Which way a connection goes, seen from the workload.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Opened by the workload.
    Outbound = 0,
    /// Accepted by the workload.
    Inbound = 1,
}

/// What is to be done with connections of one port.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortState {
    /// Proxied, with protocol detection (the default).
    Detect = 0,
    /// Proxied as raw TCP, no detection.
    Opaque = 1,
    /// Let pass by the kernel; never reaches the proxy.
    Skip = 2,
}

/// Who said so.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// weir's built-in default.
    Default = 0,
    /// The configuration file or a flag at start.
    Config = 1,
    /// A Kubernetes annotation.
    Annotation = 2,
    /// `weir ports …` on a running weir.
    Cli = 3,
    /// Remembered from an earlier connection.
    Learned = 4,
    /// Read off the bytes of the connection itself.
    Detected = 5,
}

impl PortState {
    /// The state with this number, as it stands in a map.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Detect),
            1 => Some(Self::Opaque),
            2 => Some(Self::Skip),
            _ => None,
        }
    }
}

impl Source {
    /// The source with this number, as it stands in a map.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Default),
            1 => Some(Self::Config),
            2 => Some(Self::Annotation),
            3 => Some(Self::Cli),
            4 => Some(Self::Learned),
            5 => Some(Self::Detected),
            _ => None,
        }
    }
}

/// Why the connect hook decided as it did; the index of a counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Handed to the proxy.
    Redirected = 0,
    /// Not a TCP stream socket.
    NotTcp = 1,
    /// A loopback destination, and capturing those was not asked for.
    Loopback = 2,
    /// The proxy's own connection.
    OwnTraffic = 3,
    /// The port is in state skip.
    SkipPort = 4,
    /// The destination is in a skipped prefix.
    SkipCidr = 5,
    /// There is an include list and the port is not on it.
    NotIncluded = 6,
    /// The kernel has no route to it: let it fail as it would.
    NoRoute = 7,
    /// No proxy listens (not started, killed, drained).
    NoListener = 8,
    /// The proxy has not shown a sign of life in time.
    Stale = 9,
    /// The socket is bound to a device, so it cannot reach a listener on loopback.
    BoundDevice = 10,
    /// The workload has no configuration (yet).
    Unconfigured = 11,
    /// A helper failed; the connection went direct.
    HookError = 12,
    /// `TCP_CONNECT_CB` could not store the original destination.
    PendingFull = 13,
    /// The destination is the proxy's own listener.
    OwnListener = 14,
    /// A link-local destination, whose scope the proxy could not reproduce.
    LinkLocal = 15,
    /// The proxy has just failed to reach it: the application is to see the kernel's own error.
    FailedBefore = 16,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 17] = [
        Self::Redirected,
        Self::NotTcp,
        Self::Loopback,
        Self::OwnTraffic,
        Self::SkipPort,
        Self::SkipCidr,
        Self::NotIncluded,
        Self::NoRoute,
        Self::NoListener,
        Self::Stale,
        Self::BoundDevice,
        Self::Unconfigured,
        Self::HookError,
        Self::PendingFull,
        Self::OwnListener,
        Self::LinkLocal,
        Self::FailedBefore,
    ];

    /// The name used in metrics and in the CLI.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::NotTcp => "not_tcp",
            Self::Loopback => "loopback",
            Self::OwnTraffic => "own_traffic",
            Self::SkipPort => "skip_port",
            Self::SkipCidr => "skip_cidr",
            Self::NotIncluded => "not_included",
            Self::NoRoute => "no_route",
            Self::NoListener => "no_listener",
            Self::Stale => "stale",
            Self::BoundDevice => "bound_device",
            Self::Unconfigured => "unconfigured",
            Self::HookError => "hook_error",
            Self::PendingFull => "pending_full",
            Self::OwnListener => "own_listener",
            Self::LinkLocal => "link_local",
            Self::FailedBefore => "failed_before",
        }
    }
}

/// Flags of [`WorkloadConfig`].
pub mod flags {
    /// Capture connections to 127.0.0.0/8 and ::1 too.
    pub const CAPTURE_LOOPBACK: u32 = 1 << 0;
    /// Only outbound ports whose rule is `included` are captured.
    pub const INCLUDE_OUTBOUND: u32 = 1 << 1;
    /// Only inbound ports whose rule is `included` are captured.
    pub const INCLUDE_INBOUND: u32 = 1 << 2;
    /// The route map is complete: a miss means unreachable.
    pub const ROUTES_COMPLETE: u32 = 1 << 3;
    /// Insert redirected sockets into the sock hash for `sk_msg`.
    pub const SK_MSG: u32 = 1 << 4;
}

/// What the hooks need to know about a workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// cgroup id whose sockets are the proxy's own; 0 for none.
    pub exempt_cgroup: u64,
    /// A heartbeat older than this many nanoseconds means a hung proxy; 0 turns the test off.
    pub heartbeat_limit_ns: u64,
    /// See [`flags`].
    pub flags: u32,
    /// Padding.
    pub _pad: u32,
}

/// Key of a port rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The port, host order.
    pub port: u16,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// Padding.
    pub _pad: u8,
}

impl PortKey {
    /// The key of one port in one direction.
    #[must_use]
    pub const fn new(workload: WorkloadId, direction: Direction, port: u16) -> Self {
        Self { workload, port, direction: direction as u8, _pad: 0 }
    }
}

/// What a port's connections get, and who said so.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRule {
    /// [`PortState`] as a number.
    pub state: u8,
    /// [`Source`] as a number.
    pub source: u8,
    /// 1 if the port is on the include list.
    pub included: u8,
    /// Padding.
    pub _pad: u8,
}

/// Key of one destination of a workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationKey {
    /// The address.
    pub addr: AddrWords,
    /// The workload.
    pub workload: WorkloadId,
    /// The port, host order.
    pub port: u16,
    /// Padding.
    pub _pad: u16,
}

impl DestinationKey {
    /// The key of an address and port of a workload.
    #[must_use]
    pub const fn new(workload: WorkloadId, addr: AddrWords, port: u16) -> Self {
        Self { addr, workload, port, _pad: 0 }
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

/// Which listener of a workload a slot holds.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// 127.0.0.1, for captured outbound IPv4 connections.
    Outbound4 = 0,
    /// ::1, for captured outbound IPv6 connections.
    Outbound6 = 1,
    /// Any address, for steered inbound connections.
    Inbound = 2,
}

/// Key of a listener slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The workload.
    pub workload: WorkloadId,
    /// [`ListenerKind`] as a number.
    pub kind: u32,
}

/// Names a captured connection as both ends see it: the workload's end of the redirected socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// The workload's source address.
    pub addr: AddrWords,
    /// The workload's source port, host order.
    pub port: u16,
    /// Padding.
    pub _pad: [u8; 6],
}

/// What the connect hook knew about a connection that it redirected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalDestination {
    /// The address the application asked for.
    pub addr: AddrWords,
    /// The source address a direct connection would have had; all zero if not known.
    pub source: AddrWords,
    /// `bpf_ktime_get_ns` at connect.
    pub connected_ns: u64,
    /// The workload.
    pub workload: WorkloadId,
    /// The port the application asked for, host order.
    pub port: u16,
    /// [`PortState`] that the hook found.
    pub state: u8,
    /// [`Source`] of that state.
    pub state_source: u8,
    /// 1 if the application used an AF_INET6 socket (also for v4-mapped addresses).
    pub inet6: u8,
    /// [`Reason`] of the hook as a number (`Redirected`, or why it went direct).
    pub reason: u8,
    /// 1 if the application itself had bound `source` before connecting.
    pub bound: u8,
    /// Padding.
    pub _pad: u8,
    /// The socket's `SO_MARK`.
    pub mark: u32,
}

/// Key of a per-CPU counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey {
    /// The workload.
    pub workload: WorkloadId,
    /// [`Reason`] as a number.
    pub reason: u32,
}

/// One end of a proxied connection in the sock hash: the socket's own local and remote end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TupleKey {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The socket's local address.
    pub local_addr: AddrWords,
    /// The socket's remote address.
    pub remote_addr: AddrWords,
    /// The socket's local port, host order.
    pub local_port: u16,
    /// The socket's remote port, host order.
    pub remote_port: u16,
    /// Padding.
    pub _pad: u32,
}

/// Sent when a connection that went direct has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseEvent {
    /// The destination, and the hook's decision.
    pub destination: OriginalDestination,
    /// Bytes acknowledged by the peer.
    pub bytes_sent: u64,
    /// Bytes received from the peer.
    pub bytes_received: u64,
    /// Nanoseconds from connect to close.
    pub duration_ns: u64,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// 1 if the handshake completed, else 0: the connection never came to be.
    pub established: u32,
    /// Padding.
    pub _pad: u32,
}

const _: () = {
    assert!(size_of::<WorkloadConfig>() == 24);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<PortRule>() == 4);
    assert!(size_of::<DestinationKey>() == 24);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<Route>() == 20);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<ConnectionKey>() == 32);
    assert!(size_of::<OriginalDestination>() == 56);
    assert!(size_of::<CounterKey>() == 8);
    assert!(size_of::<TupleKey>() == 48);
    assert!(size_of::<CloseEvent>() == 96);
};

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($name:ty),* $(,)?) => {
            $(
                // SAFETY: `repr(C)`, integers only, and padding is spelt out in fields.
                unsafe impl aya::Pod for $name {}
            )*
        };
    }

    pod!(
        WorkloadConfig,
        PortKey,
        PortRule,
        DestinationKey,
        PrefixKey,
        Route,
        ListenerKey,
        ConnectionKey,
        OriginalDestination,
        CounterKey,
        TupleKey,
        CloseEvent,
    );
}

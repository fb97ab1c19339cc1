//! The boundary between weir's BPF programs and its userspace: every structure, map name and
//! constant that both sides use, defined once.
//!
//! Byte order: addresses are in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), so
//! that one key type serves both families; ports are host order.

#![no_std]

#[cfg(test)]
extern crate std;

mod address;
mod option;
mod properties;
mod reason;
pub mod spread;

pub use address::AddressClass;
pub use option::{OptionEvent, ToldOptions, followed};
pub use properties::{Properties, Set};
pub use reason::Reason;

/// Identifies a workload in every map key. Zero is never used.
pub type WorkloadId = u32;

/// The sixteen bytes of an IPv6 or v4-mapped IPv4 address in network order, as the four words
/// they make in memory: the kernel hands them to the hooks so, and lets no hook read more at once.
pub type AddrWords = [u32; 4];

/// The third word of every v4-mapped address; the first two are zero (RFC 4291 §2.5.5.2).
pub const V4_MAPPED_WORD: u32 = 0xffff_u32.to_be();

/// Carried by the proxy's connections to the application with `--preserve-client-ip`: the answers
/// to it find the rule that keeps them local. Low bits are left to Kubernetes and Cilium.
pub const CLIENT_IP_MARK: u32 = 0x5745_0000;

/// How many sockets of one port [`maps::SEEDED`] holds, over all addresses.
pub const SEED_PLACES: usize = 8;

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
    /// One-element array: last heartbeat of the proxy, `bpf_ktime_get_ns` clock.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// `DestinationKey → Listening`: what the workload listens on, as far as the hooks have counted.
    pub const LISTENING: &str = "LISTENING";
    /// `PortKey` (inbound) `→ Seeds`: on which addresses the sockets in [`SEEDED`] listen. An entry
    /// stays when they have gone.
    pub const SEEDS: &str = "SEEDS";
    /// Sock hash `SeedKey → listening socket`: sockets of the workload that no hook counts, because
    /// they were listening before it was attached. The kernel takes one out when its last descriptor
    /// is closed: `sock_map_close`, by `sock_map_remove_links` (net/core/sock_map.c). After
    /// shutdown(2) it stays there (since 5.16, when TCP lost `sock_map_unhash`): so its state counts.
    pub const SEEDED: &str = "SEEDED";
    /// `DestinationKey → u64`: destinations learned to be raw TCP that go direct until then,
    /// `bpf_ktime_get_ns` clock.
    pub const LEARNED: &str = "LEARNED";
    /// `DestinationKey → u8`, direction inbound: peers whose connections to the workload come from
    /// inside its namespace, and are not steered. An address of the namespace with port 0 (any);
    /// with `--preserve-client-ip` the client's address and the port that the proxy connects to
    /// the application from, for as long as it connects. The kernel cannot tell: it takes a
    /// connection to an own address of a device for one that came in by that device.
    pub const INSIDE: &str = "INSIDE";
    /// Socket-local storage [`crate::WorkloadId`] on the proxy's own listeners, which accepted
    /// sockets inherit: neither counts as the workload's, and an accepted socket names the workload
    /// whose listener it came through.
    pub const OWN: &str = "OWN";
    /// `ConnectionKey → OriginalDestination`, from `TCP_CONNECT_CB` until the handshake has completed
    /// on the proxy's side, or the attempt has ended.
    pub const PENDING: &str = "PENDING";
    /// Socket-local storage `OriginalDestination` on the proxy's accepted socket: what was in
    /// [`PENDING`] for this very connection, moved there when its handshake completed.
    pub const ACCEPTED: &str = "ACCEPTED";
    /// `OpenKey → u32`: redirected connections to each listener that all of a workload's connections
    /// share, from the SYN to the close of the workload's socket.
    pub const OPEN: &str = "OPEN";
    /// `WorkloadId → Usage`: what a workload has used up of its shares of the tables above.
    pub const USAGE: &str = "USAGE";
    /// One-element array of [`crate::Shares`]: how much a workload may use. Userspace only writes.
    pub const SHARES: &str = "SHARES";
    /// Socket-local storage `OriginalDestination` on the workload's own socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// Per-CPU `CounterKey → u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// Sock hash `TupleKey → established socket` for `sk_msg` redirection.
    pub const PEERS: &str = "PEERS";
    /// Ring buffer of `CloseEvent`.
    pub const EVENTS: &str = "EVENTS";
    /// Ring buffer of `HoldEvent`, which concern the process's own listeners.
    pub const HOLDS: &str = "HOLDS";
    /// Ring buffer of `OptionEvent`.
    pub const OPTIONS: &str = "OPTIONS";
    /// Socket-local storage [`crate::ToldOptions`] on a captured socket of which an option was told.
    pub const TOLD: &str = "TOLD";

    /// The maps that every process has for itself.
    pub const OF_PROCESS: [&str; 2] = [HOLDS, OPTIONS];
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
    /// Where no proxy is there, what it would have captured is refused: EPERM outbound, RST inbound.
    pub const FAIL_CLOSED: u32 = 1 << 5;
    /// Inbound connections are captured, so that those which go direct are reported.
    pub const CAPTURE_INBOUND: u32 = 1 << 6;
    /// Outbound connections go to the hold listeners where there are any: their SYN is held until
    /// the upstream is connected.
    pub const HOLD: u32 = 1 << 7;
    /// Outbound connections go direct: somebody else's program filters them, and would not filter the
    /// proxy's.
    pub const OUTBOUND_FILTERED: u32 = 1 << 8;
    /// The same inbound.
    pub const INBOUND_FILTERED: u32 = 1 << 9;
    /// Programs that filter what the workload sends filter what the proxy sends too: that there are any
    /// is no reason to let a connection go direct.
    pub const EGRESS_SHARED: u32 = 1 << 10;
    /// Loopback carries the addresses of [`crate::spread`], so that IPv4 connections can be spread
    /// over them.
    pub const SPREAD: u32 = 1 << 11;
}

/// How far a connection has come whose SYN is held: [`OriginalDestination::hold`].
pub mod hold {
    /// It is not held.
    pub const NONE: u32 = 0;
    /// The proxy does not know of it: its next SYN is to be told, and dropped.
    pub const NEW: u32 = 1;
    /// The proxy dials: its SYNs are dropped.
    pub const WAITING: u32 = 2;
    /// The upstream is connected: its SYN may pass.
    pub const READY: u32 = 3;
    /// The acknowledgement that completes its handshake is being processed.
    pub const ACKNOWLEDGED: u32 = 4;
    /// The same, and a segment behind it has found no socket: it is to be dropped.
    pub const MISSED: u32 = 5;
    /// The same, and that has been done: no other segment is dropped.
    pub const DELAYED: u32 = 6;
}

/// What the hooks need to know about a workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// cgroup id whose sockets are the proxy's own; 0 for none.
    pub exempt_cgroup: u64,
    /// Cookie of the workload's network namespace (`SO_NETNS_COOKIE`). Sockets of its cgroup in any
    /// other namespace are not the workload's; 0 turns the test off.
    pub netns_cookie: u64,
    /// A heartbeat older than this many nanoseconds means a hung proxy; 0 turns the test off.
    pub heartbeat_limit_ns: u64,
    /// See [`flags`].
    pub flags: u32,
    /// Connections that [`Usage`] counts as on their way although they are not: see [`Usage::used`].
    pub forgiven_in_flight: u32,
    /// The same for addresses and ports listened on.
    pub forgiven_listening: u32,
    /// How many connections a listener may have that [`maps::OPEN`] counts: beyond it they would fail
    /// for want of a source port. 0 turns the test off.
    pub source_ports: u32,
}

/// What a workload has used up of its [`Shares`]. The hooks write it, one atomic operation at a
/// time; each counter wraps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections for which a place in [`maps::PENDING`] was reserved, before the redirect.
    pub reserved: u32,
    /// Places given back: the handshake completed, or the attempt ended.
    pub released: u32,
    /// Entries in [`maps::LISTENING`].
    pub listening: u32,
    /// Padding.
    pub _pad: u32,
}

/// How much of a table one workload may use.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections on their way from connect(2) to the end of the handshake.
    pub in_flight: u32,
    /// Addresses and ports listened on.
    pub listening: u32,
}

impl Usage {
    /// What is used of a share. What the hooks have counted can drift: a connection that was reserved
    /// for may fail before its SYN (no local port left, say), and userspace corrects
    /// [`maps::LISTENING`]. Userspace measures that and has it forgiven; for a moment it may forgive a
    /// few too many.
    #[must_use]
    pub const fn used(counted: u32, forgiven: u32) -> u32 {
        let count = counted.wrapping_sub(forgiven).cast_signed();
        if count < 0 { 0 } else { count.cast_unsigned() }
    }

    /// Connections on their way, as the hooks have counted them.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.reserved.wrapping_sub(self.released)
    }
}

impl Shares {
    /// Entries that [`maps::PENDING`] holds.
    pub const PENDING_ENTRIES: usize = 262_144;
    /// Entries that [`maps::LISTENING`] holds.
    pub const LISTENING_ENTRIES: usize = 131_072;
    /// Workloads that an instance has room for: several times what a kubelet admits.
    pub const MAX_WORKLOADS: usize = 1024;

    /// The share of each of so many workloads. All shares together take half of a table at most: when
    /// they shrink, what is in use shrinks after them.
    #[must_use]
    pub const fn among(workloads: usize) -> Self {
        Self {
            in_flight: share(Self::PENDING_ENTRIES, workloads, 16_384),
            listening: share(Self::LISTENING_ENTRIES, workloads, 16_384),
        }
    }
}

const fn share(entries: usize, workloads: usize, most: usize) -> u32 {
    let count = if workloads == 0 { 1 } else { workloads };
    let share = entries / 2 / count;
    (if share > most { most } else { share }) as u32
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

/// Names a captured connection as both ends see it: the redirected socket's own end, and where it was
/// redirected to. Two listeners of one namespace, and two addresses of one listener, get connections
/// from the same address and port at the same time, so the source alone names none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// The workload's source address.
    pub addr: AddrWords,
    /// The address of loopback that it was redirected to.
    pub listener_addr: AddrWords,
    /// The workload that was redirected, and that the listener serves.
    pub workload: WorkloadId,
    /// The workload's source port, host order.
    pub port: u16,
    /// The listener's port, host order.
    pub listener: u16,
}

/// What a hook knew about a connection when it decided.
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
    /// [`Direction`] as a number. Inbound: `addr` and `port` are the workload's own end, and
    /// `source` is the client.
    pub direction: u8,
    /// The socket's `SO_MARK`.
    pub mark: u32,
    /// See [`hold`]. With the socket: whether it is held at all.
    pub hold: u32,
    /// Sequence number of the SYN that was told, host order: no other SYN passes.
    pub sequence: u32,
    /// What the application has set on its socket; for those that are redirected.
    pub properties: Properties,
    /// 1 with a socket that is counted in [`maps::OPEN`].
    pub counted: u32,
    /// Padding.
    pub _pad: u32,
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

/// Key of the [`Name`] of an MPTCP socket: what tells it from others is the same as of the TCP socket
/// below it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameKey {
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// The last word of the address that it is connected to, as it stands in memory.
    pub remote: u32,
    /// Its own port, host order.
    pub local_port: u16,
    /// The port that it is connected to, host order.
    pub remote_port: u16,
}

/// What getpeername(2) and getsockname(2) are to say of a redirected socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The peer's address.
    pub addr: AddrWords,
    /// The socket's own; all zero if not known.
    pub source: AddrWords,
    /// The peer's port, host order.
    pub port: u16,
    /// 1 if the application itself had bound `source` before connecting.
    pub bound: u16,
}

/// Key of a per-CPU counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey {
    /// The workload.
    pub workload: WorkloadId,
    /// [`Reason`] as a number.
    pub reason: u16,
    /// [`Direction`] as a number.
    pub direction: u16,
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
    /// Payload sent, each byte once.
    pub bytes_sent: u64,
    /// Payload received from the peer.
    pub bytes_received: u64,
    /// Nanoseconds from connect to close.
    pub duration_ns: u64,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// The state that the socket left (`enum` in include/net/tcp_states.h): see [`tcp_state`].
    pub state: u32,
    /// The socket's error as an `errno`, 0 for none; [`CloseEvent::ERROR_UNKNOWN`] where the kernel does
    /// not let it be read.
    pub error: u32,
}

impl CloseEvent {
    /// In place of an error that is not known.
    pub const ERROR_UNKNOWN: u32 = u32::MAX;
}

/// States of a TCP socket (include/net/tcp_states.h) that are told apart.
pub mod tcp_state {
    /// Both directions are open.
    pub const ESTABLISHED: u32 = 1;
    /// Its SYN is on the way.
    pub const SYN_SENT: u32 = 2;
    /// A SYN has come.
    pub const SYN_RECV: u32 = 3;
    /// Its FIN is on the way.
    pub const FIN_WAIT1: u32 = 4;
    /// Its FIN has been acknowledged.
    pub const FIN_WAIT2: u32 = 5;
    /// Closed.
    pub const CLOSE: u32 = 7;
    /// The peer's FIN has come.
    pub const CLOSE_WAIT: u32 = 8;
    /// The peer's FIN has come, then its own was sent.
    pub const LAST_ACK: u32 = 9;
    /// It listens.
    pub const LISTEN: u32 = 10;
    /// Its FIN was sent, then the peer's has come.
    pub const CLOSING: u32 = 11;
}

/// Bytes of the longest IP and TCP headers that are told: IPv6 with every TCP option, or IPv4.
pub const HELD_BYTES: usize = 104;

/// What the proxy is told of a connection whose SYN is held.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldEvent {
    /// The connection.
    pub key: ConnectionKey,
    /// [`OriginalDestination::connected_ns`]: tells it from another one under the same key.
    pub connected_ns: u64,
    /// Of the SYN, host order.
    pub sequence: u32,
    /// Bytes of `packet` that count; 0: it has been given up, and there is no packet.
    pub length: u32,
    /// IP and TCP header of the SYN, and nothing of what follows.
    pub packet: [u8; HELD_BYTES],
}

const _: () = {
    assert!(size_of::<WorkloadConfig>() == 40);
    assert!(size_of::<Usage>() == 16);
    assert!(size_of::<Shares>() == 8);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<PortRule>() == 4);
    assert!(size_of::<DestinationKey>() == 24);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<Route>() == 20);
    assert!(size_of::<Listening>() == 8);
    assert!(size_of::<Seeds>() == 136);
    assert!(size_of::<SeedKey>() == 8);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<ConnectionKey>() == 48);
    assert!(size_of::<OpenKey>() == 8);
    assert!(size_of::<Properties>() == 64);
    assert!(size_of::<OriginalDestination>() == 136);
    assert!(size_of::<CounterKey>() == 8);
    assert!(size_of::<TupleKey>() == 48);
    assert!(size_of::<CloseEvent>() == 176);
    assert!(size_of::<HoldEvent>() == 168);
};

#[cfg(feature = "user")]
mod pod;

//! One connection: what names it, and what the hooks note about it.

use crate::{AddrWords, Properties, WorkloadId};

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
    /// The process that connects, in the PID namespace of the machine; 0 if not known.
    pub pid: u32,
    /// The name of its thread (`TASK_COMM_LEN` bytes), as it stands in memory.
    pub command: [u64; 2],
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

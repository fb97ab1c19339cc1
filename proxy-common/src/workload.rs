//! What the hooks know about a workload, and what it has used up of the tables that all share.

/// Identifies a workload in every map key. Zero is never used.
pub type WorkloadId = u32;

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
    /// Outbound connections go direct: a foreign program filters them, and would not filter the
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
    /// Outbound connections go direct, and are seen by the tap.
    pub const TAP: u32 = 1 << 12;
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
    pub const PENDING_ENTRIES: usize = 131_072;
    /// Entries that [`maps::LISTENING`] holds.
    pub const LISTENING_ENTRIES: usize = 65_536;
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

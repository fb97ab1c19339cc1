//! Names of the maps in the BPF object, as userspace looks them up.

/// `WorkloadId → WorkloadConfig`.
pub const WORKLOADS: &str = "WORKLOADS";
/// `PortBlockKey → PortBlock`: the rules of ports.
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
/// Longest-prefix match `PortKey` (inbound) `→ Seeds`: on which addresses the sockets in [`SEEDED`] listen. An entry
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
/// Longest-prefix match `DestinationKey → u8`, direction inbound: peers whose connections to the workload come from
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
/// Longest-prefix match `DestinationKey → u8`, of workload 0: destinations that are proxied whatever the engine,
/// because weir chooses their endpoints.
pub const PROXIED: &str = "PROXIED";
/// Socket-local storage [`crate::TapSocket`] on a socket that is tapped.
pub const TAPS: &str = "TAPS";
/// Ring buffer of [`crate::TapEvent`], each with what its kind says.
pub const TAP_EVENTS: &str = "TAP_EVENTS";
/// One-element array: 1 while the reader of [`TAP_EVENTS`] wants to be woken.
pub const TAP_IDLE: &str = "TAP_IDLE";
/// `u64 → TapEnded`: sockets by cookie whose end found no room in [`TAP_EVENTS`].
pub const TAP_ENDS: &str = "TAP_ENDS";

/// The maps of the tap, which is loaded by itself, where a workload asks for it.
pub const OF_TAP: [&str; 4] = [TAPS, TAP_EVENTS, TAP_IDLE, TAP_ENDS];

/// Ring buffer of what the programs log (aya-log).
pub const LOGS: &str = "AYA_LOGS";

/// The maps that every process has for itself.
pub const OF_PROCESS: [&str; 3] = [HOLDS, OPTIONS, PEERS];

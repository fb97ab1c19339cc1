//! Why a hook decided as it did.

/// Why a hook decided as it did; the index of a counter.
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
    /// The workload has as many connections on their way to the proxy as its share allows.
    PendingFull = 13,
    /// The destination is the proxy's own listener.
    OwnListener = 14,
    /// A link-local destination, whose scope the proxy could not reproduce.
    LinkLocal = 15,
    /// The proxy has just failed to reach it: the application is to see the kernel's own error.
    FailedBefore = 16,
    /// The workload's `fail` policy is closed, and no proxy is there: refused.
    FailClosed = 17,
    /// Learned to be raw TCP, with `--learn bypass`.
    Learned = 18,
    /// An inbound connection from inside the namespace (the proxy's own among them).
    FromInside = 19,
    /// Nothing of the workload listens there (inbound), or nothing at all on an address of the
    /// namespace itself (outbound): the kernel answers as it would.
    NotListening = 20,
    /// A socket of the workload's cgroup in another network namespace than the workload's.
    OtherNetns = 21,
    /// A listening socket that was not noted, because the workload's share of the table is used up:
    /// connections to it go direct. Counted for each socket.
    ListeningFull = 22,
    /// The report of a connection that went direct was lost: userspace has not read fast enough.
    ReportLost = 23,
    /// The application has bound its socket to a source port, which only a direct connection can have.
    BoundPort = 24,
    /// The socket has keys for signed segments (TCP-MD5, TCP-AO): the proxy has none.
    Signed = 25,
    /// A foreign program filters what the workload's cgroup sends (outbound) or receives (inbound),
    /// which the proxy's own connections do not pass.
    Filtered = 26,
    /// An option that the application has set after connect(2) did not come to the proxy: the socket has
    /// set more than its share, or userspace has not read fast enough.
    OptionLost = 27,
    /// The listeners that the connection could go to have as many open as there are source ports.
    ShortOfPorts = 28,
    /// Seen by the tap instead of being proxied.
    Tapped = 29,
    /// A tapped connection that is not reported: the tap's ring buffer was full when it began.
    TapLost = 30,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 31] = [
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
        Self::FailClosed,
        Self::Learned,
        Self::FromInside,
        Self::NotListening,
        Self::OtherNetns,
        Self::ListeningFull,
        Self::ReportLost,
        Self::BoundPort,
        Self::Signed,
        Self::Filtered,
        Self::OptionLost,
        Self::ShortOfPorts,
        Self::Tapped,
        Self::TapLost,
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
            Self::FailClosed => "fail_closed",
            Self::Learned => "learned",
            Self::FromInside => "from_inside",
            Self::NotListening => "not_listening",
            Self::OtherNetns => "other_netns",
            Self::ListeningFull => "listening_full",
            Self::ReportLost => "report_lost",
            Self::BoundPort => "bound_port",
            Self::Signed => "signed",
            Self::Filtered => "filtered",
            Self::OptionLost => "option_lost",
            Self::ShortOfPorts => "short_of_ports",
            Self::Tapped => "tapped",
            Self::TapLost => "tap_lost",
        }
    }
}

//! What an application has set on its socket before it connects, as the kernel keeps it.

/// The properties of a socket. What is not in [`Self::set`] was not asked for, or is not known: the
/// kernel's default.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// `SO_MAX_PACING_RATE`, bytes a second.
    pub pacing: u64,
    /// `TCP_CONGESTION`: a name of up to 16 bytes, as it stands in memory.
    pub congestion: [u64; 2],
    /// The socket's owner.
    pub uid: u32,
    /// The group of the process that connects.
    pub gid: u32,
    /// `TCP_KEEPIDLE` in jiffies; 0 for the kernel's default.
    pub keepalive_time: u32,
    /// `TCP_KEEPINTVL` in jiffies; 0 for the kernel's default.
    pub keepalive_interval: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds; 0 for none.
    pub user_timeout: u32,
    /// `SO_PRIORITY`.
    pub priority: u32,
    /// The receive buffer as the kernel counts it: twice what was asked for.
    pub receive_buffer: u32,
    /// The same of the send buffer.
    pub send_buffer: u32,
    /// Bits of [`Set`].
    pub set: u16,
    /// `TCP_KEEPCNT`; 0 for the kernel's default.
    pub keepalive_probes: u8,
    /// `IP_TOS` or `IPV6_TCLASS`.
    pub traffic_class: u8,
    /// `IP_TTL` or `IPV6_UNICAST_HOPS`.
    pub hop_limit: u8,
    /// Padding.
    pub _pad: [u8; 3],
}

/// Which of the properties are meant.
pub struct Set;

impl Set {
    /// `SO_KEEPALIVE` is on.
    pub const KEEPALIVE: u16 = 1 << 0;
    /// [`Properties::hop_limit`].
    pub const HOP_LIMIT: u16 = 1 << 1;
    /// [`Properties::pacing`].
    pub const PACING: u16 = 1 << 2;
    /// [`Properties::receive_buffer`].
    pub const RECEIVE_BUFFER: u16 = 1 << 3;
    /// [`Properties::send_buffer`].
    pub const SEND_BUFFER: u16 = 1 << 4;
    /// [`Properties::congestion`].
    pub const CONGESTION: u16 = 1 << 5;
    /// [`Properties::uid`] and [`Properties::gid`].
    pub const OWNER: u16 = 1 << 6;
    /// The application's socket is an MPTCP one, and this is the TCP socket below it.
    pub const MPTCP: u16 = 1 << 7;
}

impl Properties {
    /// Whether this bit of [`Set`] is set.
    #[must_use]
    pub const fn has(&self, bit: u16) -> bool {
        self.set & bit != 0
    }

    /// The name of the congestion control, up to its end.
    #[must_use]
    pub fn congestion_name(&self) -> ([u8; 16], usize) {
        let mut name = [0; 16];
        let [first, second] = self.congestion.map(u64::to_ne_bytes);
        let (low, high) = name.split_at_mut(8);
        low.copy_from_slice(&first);
        high.copy_from_slice(&second);
        let mut length = 0;
        while length < name.len() && name[length] != 0 {
            length += 1;
        }
        (name, length)
    }
}

//! What kind of address a destination is, decided once for the hooks and for userspace.

use crate::{AddrWords, V4_MAPPED_WORD};

/// What kind of address a destination is, as far as capturing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// One host, reached by the routing table. 240.0.0.0/4 too: Linux treats it as plain unicast, and
    /// some clusters number their pods from it.
    Unicast,
    /// 127.0.0.0/8 or ::1 (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
    Loopback,
    /// fe80::/10 (RFC 4291 §2.5.6), whose scope the proxy could not reproduce. 169.254.0.0/16 needs no
    /// scope, and is unicast here.
    LinkLocal,
    /// 224.0.0.0/4 or ff00::/8 (RFC 5771, RFC 4291 §2.7): the kernel refuses TCP to it.
    Multicast,
    /// 255.255.255.255 (RFC 919): the kernel refuses TCP to it.
    Broadcast,
}

impl AddressClass {
    /// The class of an address.
    #[inline(always)]
    #[must_use]
    pub const fn of(addr: &AddrWords) -> Self {
        if addr[0] == 0 && addr[1] == 0 && addr[2] == V4_MAPPED_WORD {
            let v4 = u32::from_be(addr[3]);
            return if v4 >> 24 == 127 {
                Self::Loopback
            } else if v4 >> 28 == 0xe {
                Self::Multicast
            } else if v4 == u32::MAX {
                Self::Broadcast
            } else {
                Self::Unicast
            };
        }
        let first = u32::from_be(addr[0]);
        if first == 0 && addr[1] == 0 && addr[2] == 0 && addr[3] == 1_u32.to_be() {
            Self::Loopback
        } else if first >> 22 == 0xfe80 >> 6 {
            Self::LinkLocal
        } else if first >> 24 == 0xff {
            Self::Multicast
        } else {
            Self::Unicast
        }
    }
}

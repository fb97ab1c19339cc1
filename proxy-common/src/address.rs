//! Addresses as both sides of the kernel boundary see them, and what of a decision depends on the
//! address alone.

use crate::Reason;

/// The sixteen bytes of an IPv6 or v4-mapped IPv4 address in network order, as the four words
/// they make in memory: the kernel hands them to the hooks so, and lets no hook read more at once.
pub type AddrWords = [u32; 4];

/// The third word of every v4-mapped address; the first two are zero (RFC 4291 §2.5.5.2).
pub const V4_MAPPED_WORD: u32 = 0xffff_u32.to_be();

/// 127.0.0.1 as it stands in memory.
pub const LOOPBACK4: u32 = u32::from_be_bytes([127, 0, 0, 1]).to_be();

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

// === impl AddressClass ===

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

    /// Why connections to such an address are never captured; `None` where they may be.
    #[inline(always)]
    #[must_use]
    pub const fn refused(self) -> Option<Reason> {
        match self {
            Self::Unicast | Self::Loopback => None,
            Self::LinkLocal => Some(Reason::LinkLocal),
            Self::Multicast | Self::Broadcast => Some(Reason::NoRoute),
        }
    }

    /// True for loopback addresses.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        matches!(self, Self::Loopback)
    }
}

/// Where connect(2) to an address leads: the kernel takes `::` for `::1`, and `0.0.0.0`, mapped or not,
/// for 127.0.0.1.
#[inline(always)]
#[must_use]
pub const fn destination(addr: AddrWords) -> AddrWords {
    let [a, b, c, d] = addr;
    if a | b | d != 0 {
        addr
    } else if c == 0 {
        [a, b, c, 1_u32.to_be()]
    } else if c == V4_MAPPED_WORD {
        [a, b, c, LOOPBACK4]
    } else {
        addr
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    fn words(address: &str) -> AddrWords {
        let v6 = match address.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let bytes = v6.octets();
        std::array::from_fn(|word| u32::from_ne_bytes(bytes[word * 4..][..4].try_into().unwrap()))
    }

    fn address(words: AddrWords) -> IpAddr {
        let mut bytes = [0; 16];
        for (to, from) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).to_canonical()
    }

    #[test]
    fn the_unspecified_addresses_lead_to_loopback() {
        for (to, leads_to) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::ffff:0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("::1", "::1"),
            ("0.0.0.1", "0.0.0.1"),
            ("::1:0:0", "::1:0:0"),
            ("::1:0", "::1:0"),
            ("1::", "1::"),
        ] {
            let leads_to: IpAddr = leads_to.parse().unwrap();
            assert_eq!(address(destination(words(to))), leads_to.to_canonical(), "{to}");
        }
    }
}

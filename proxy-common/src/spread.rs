//! Where on loopback a captured outbound connection arrives: by a hash of its destination, so that
//! connections to different destinations can have the same source port, as direct ones can.
//!
//! IPv4 has a whole /10 for that, all of it reached by one listener. IPv6 has `::1` alone, and so
//! several listeners there.

use crate::{AddrWords, V4_MAPPED_WORD};

/// 127.64.0.0/10: away from both ends of 127.0.0.0/8, where resolvers (127.0.0.11, 127.0.0.53),
/// host names (127.0.1.1) and packet filter rules have their addresses, and from its broadcast
/// address. Two destinations share one of the 4,194,304 addresses as good as never.
pub const NETWORK: [u8; 4] = [127, 64, 0, 0];
/// Length of the prefix of [`NETWORK`].
pub const PREFIX: u32 = 10;
/// Listeners on `::1`. Each costs the proxy three descriptors. A power of two.
pub const PLACES6: u16 = 4;

const HOSTS: u32 = u32::MAX >> PREFIX;
const FIRST: u32 = u32::from_be_bytes(NETWORK);
const _: () = assert!(PLACES6.is_power_of_two() && FIRST & HOSTS == 0);

/// The hash of a destination: a few multiplications, since a hook has no room for more. An application that chose
/// destinations for their hash would run out of source ports as with a single destination.
#[inline(always)]
#[must_use]
pub const fn hash(addr: &AddrWords, port: u16) -> u32 {
    let mut hash = mixed(port as u32);
    hash = mixed(hash ^ addr[0]);
    hash = mixed(hash ^ addr[1]);
    hash = mixed(hash ^ addr[2]);
    mixed(hash ^ addr[3])
}

/// The finalizer of MurmurHash3, which has every bit depend on every other.
#[inline(always)]
const fn mixed(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x85eb_ca6b);
    word ^= word >> 13;
    word = word.wrapping_mul(0xc2b2_ae35);
    word ^ word >> 16
}

/// The address for an IPv4 destination with this hash, v4-mapped.
#[inline(always)]
#[must_use]
pub const fn address(hash: u32) -> AddrWords {
    [0, 0, V4_MAPPED_WORD, (FIRST | hash & HOSTS).to_be()]
}

/// Whether it is one of the addresses that [`address`] gives.
#[inline(always)]
#[must_use]
pub const fn contains(addr: &AddrWords) -> bool {
    addr[0] == 0
        && addr[1] == 0
        && addr[2] == V4_MAPPED_WORD
        && u32::from_be(addr[3]) & !HOSTS == FIRST
}

/// The listener on `::1` for an IPv6 destination with this hash; the next ones are to follow where
/// this one is short of ports.
#[inline(always)]
#[must_use]
pub const fn place(hash: u32, attempt: u16) -> u16 {
    // The high bits, of which the address has none.
    ((hash >> 24) as u16).wrapping_add(attempt) % PLACES6
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn mapped(v4: Ipv4Addr) -> AddrWords {
        [0, 0, V4_MAPPED_WORD, u32::from_ne_bytes(v4.octets())]
    }

    fn ip(addr: AddrWords) -> Ipv4Addr {
        addr[3].to_ne_bytes().into()
    }

    #[test]
    fn neighbouring_destinations_have_addresses_of_their_own() {
        let mut seen = HashSet::new();
        for host in 0..=255 {
            for port in [80, 443, 5432, 7001, 7002, 7003, 7004, 65_535] {
                let to = address(hash(&mapped(Ipv4Addr::new(10, 1, 2, host)), port));
                assert!(contains(&to), "{}", ip(to));
                assert_eq!(to, address(hash(&mapped(Ipv4Addr::new(10, 1, 2, host)), port)));
                seen.insert(to);
            }
        }
        // By chance one pair of 2,048 at most times shares an address.
        assert!(seen.len() >= 2046, "{}", seen.len());
    }

    #[test]
    fn every_address_is_of_the_prefix() {
        assert_eq!(ip(address(0)), Ipv4Addr::new(127, 64, 0, 0));
        assert_eq!(ip(address(u32::MAX)), Ipv4Addr::new(127, 127, 255, 255));
        for (other, is_one) in [
            ([127, 63, 255, 255], false),
            ([127, 64, 0, 1], true),
            ([127, 127, 255, 255], true),
            ([127, 128, 0, 0], false),
            ([127, 0, 0, 1], false),
        ] {
            assert_eq!(contains(&mapped(other.into())), is_one, "{other:?}");
        }
        assert!(!contains(&[0, 0, 0, 1_u32.to_be()]));
    }

    #[test]
    fn every_place_is_tried_once_and_used_as_often_as_the_others() {
        let mut used = [0; PLACES6 as usize];
        for host in 0..4096_u32 {
            let hash = hash(&[0xfd00_u32.to_be(), 0, 0, host.to_be()], 443);
            let tried: HashSet<u16> = (0..PLACES6).map(|attempt| place(hash, attempt)).collect();
            assert_eq!(tried.len(), PLACES6.into());
            used[usize::from(place(hash, 0))] += 1;
        }
        assert!(used.iter().all(|count| (800..1250).contains(count)), "{used:?}");
    }
}

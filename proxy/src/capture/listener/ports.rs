//! The ports of a namespace: those for weir's own listeners, and how many connections to one of them
//! there are source ports for. The kernel allows no listener on 0.0.0.0 and a port on which another
//! listens: so they are none of `ip_local_port_range`, where it would be chance that decides whose
//! server cannot start, and none of `ip_local_reserved_ports`, which operators keep for servers.

use std::{fs, ops::RangeInclusive};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// How many are offered.
const OFFERED: usize = 64;
/// Below are well-known ports.
const LOW: u16 = 10_000;

/// Ports in the calling thread's namespace, in the order in which they are to be tried; none where the
/// kernel chooses from all.
pub(super) fn aside() -> Vec<u16> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let range = range(&read(RANGE)).unwrap_or(32_768..=60_999);
    choose(&range, &reserved(&read(RESERVED)))
}

/// How many connections the kernel finds source ports for, to one address and port, in the calling
/// thread's namespace. A quarter is left to sockets that were bound to a port of the range, which the
/// kernel assigns to no other socket, and to those in TIME_WAIT.
pub(in crate::capture) fn usable() -> u32 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    range(&read(RANGE)).map_or(0, |range| counted(&range, &reserved(&read(RESERVED))))
}

fn counted(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]) -> u32 {
    let is_free = |port: &u16| !reserved.iter().any(|range| range.contains(port));
    let free = range.clone().filter(is_free).count() as u32;
    (free - free / 4).max(1)
}

/// Above the range first, where the fewest servers are.
fn choose(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]) -> Vec<u16> {
    let is_free = |port: &u16| !reserved.iter().any(|range| range.contains(port));
    let above = range.end().saturating_add(1)..=u16::MAX;
    let below = LOW..=range.start().saturating_sub(1);
    let mut ports = Vec::new();
    for side in [above, below] {
        let mut free: Vec<u16> =
            side.filter(|port| !range.contains(port)).filter(is_free).collect();
        fastrand::shuffle(&mut free);
        ports.extend(free);
    }
    ports.truncate(OFFERED);
    ports
}

/// "32768 60999"
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(|port| port.parse().ok());
    Some(ports.next()??..=ports.next()??)
}

/// "8080,9148-9200"
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let one = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_outside_of_what_the_kernel_gives_and_operators_reserve() {
        let reserved = reserved("8080,61000-65000\n");
        assert_eq!(reserved, [8080..=8080, 61_000..=65_000]);
        let ports = choose(&range("32768\t60999\n").unwrap(), &reserved);
        assert_eq!(ports.len(), OFFERED);
        assert!(ports.iter().all(|port| *port > 65_000), "{ports:?}");
        let ports = choose(&(1024..=65_530), &[]);
        assert_eq!(ports.len(), 5);
        let below = choose(&(20_000..=65_535), &[]);
        assert!(below.iter().all(|port| (LOW..20_000).contains(port)), "{below:?}");
        assert!(choose(&(1024..=65_535), &[]).is_empty());
        assert_eq!(range(""), None);
    }

    #[test]
    fn a_quarter_of_the_ports_is_left_to_others() {
        assert_eq!(counted(&(32_768..=60_999), &[]), 21_174);
        assert_eq!(counted(&(40_000..=40_099), &reserved("40000-40049,9")), 38);
        assert_eq!(counted(&(40_000..=40_000), &[]), 1);
        assert_eq!(counted(&(40_000..=40_000), &reserved("40000")), 1);
    }
}

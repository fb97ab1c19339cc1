//! A SYN's headers, and the packets that are made of them: the SYN itself once more, and the answers
//! by which connect(2) fails. Pure; nothing of a payload is ever in here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_common::HELD_BYTES;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of headers without options.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const ICMP_BYTES: usize = 8;
/// Flags of a TCP header's byte 13.
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
/// Hops that an answer may take; it takes none.
const HOPS: u8 = 64;
/// The longest packet that is made: an ICMPv6 error with the whole of the headers.
const LONGEST: usize = IPV6_BYTES + ICMP_BYTES + HELD_BYTES;

/// The IP and TCP header of a SYN, of which the lengths are consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    bytes: [u8; HELD_BYTES],
    length: usize,
    /// Where the TCP header begins.
    tcp: usize,
}

/// A packet as it goes to a raw socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    bytes: [u8; LONGEST],
    length: usize,
    destination: SocketAddr,
}

/// How a SYN is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not at all: the application's own timers tell it.
    Silence,
    /// By a reset: `ECONNREFUSED`.
    Reset,
    /// By an ICMP or ICMPv6 error of this type and code.
    Error {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

// === impl Answer ===

impl Answer {
    /// The answer after which connect(2) fails as the dial has: with the same `errno`, where one of the
    /// family's errors means it (`icmp_err_convert` in net/ipv4/icmp.c, `tab_unreach` in
    /// net/ipv6/icmp.c), else with `ECONNREFUSED`. IPv4 has none for `EACCES`: there a destination that
    /// is prohibited is `EHOSTUNREACH`. Timeouts are left to the application.
    #[must_use]
    pub const fn to(errno: i32, is_ipv6: bool) -> Self {
        const UNREACHABLE: u8 = 3;
        const UNREACHABLE6: u8 = 1;
        const PARAMETER6: u8 = 4;
        let (kind, code) = match (errno, is_ipv6) {
            (libc::ETIMEDOUT, _) => return Self::Silence,
            (libc::ENETUNREACH, false) => (UNREACHABLE, 0),
            (libc::EHOSTUNREACH, false) => (UNREACHABLE, 1),
            (libc::ENOPROTOOPT, false) => (UNREACHABLE, 2),
            (libc::EOPNOTSUPP, false) => (UNREACHABLE, 5),
            (libc::EHOSTDOWN, false) => (UNREACHABLE, 7),
            (libc::ENONET, false) => (UNREACHABLE, 8),
            (libc::EACCES | libc::EPERM, false) => (UNREACHABLE, 13),
            (libc::ENETUNREACH, true) => (UNREACHABLE6, 0),
            (libc::EACCES | libc::EPERM, true) => (UNREACHABLE6, 1),
            (libc::EHOSTUNREACH, true) => (UNREACHABLE6, 3),
            (libc::EPROTO, true) => (PARAMETER6, 0),
            _ => return Self::Reset,
        };
        Self::Error { kind, code }
    }
}

// === impl Syn ===

impl Syn {
    /// Reads the headers of a SYN; `None` for anything else.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let tcp = match packet.first()? >> 4 {
            4 => {
                let length = usize::from(packet[0] & 0xf) * 4;
                let is_tcp = packet.get(9) == Some(&TCP) && length >= IPV4_BYTES;
                is_tcp.then_some(length)?
            }
            6 => (packet.get(6) == Some(&TCP)).then_some(IPV6_BYTES)?,
            _ => return None,
        };
        let header = packet.get(tcp..)?;
        let length = usize::from(header.get(12)? >> 4) * 4;
        let fits = length >= TCP_BYTES && header.len() == length && packet.len() <= HELD_BYTES;
        if !fits || header[13] & (SYN | ACK | RST) != SYN {
            return None;
        }
        let mut bytes = [0; HELD_BYTES];
        bytes[..packet.len()].copy_from_slice(packet);
        Some(Self { bytes, length: packet.len(), tcp })
    }

    /// Whether it is one of IPv6. An application's v4-mapped address makes one of IPv4.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.bytes[0] >> 4 == 6
    }

    /// The same SYN, without what data it had: TCP sends that again (RFC 7413 §4.2.2).
    #[must_use]
    pub fn again(&self) -> Packet {
        let mut packet = Packet::new(self.destination());
        packet.push(self.headers());
        packet.finish_ip(self.tcp);
        packet.finish_tcp(self.tcp);
        packet
    }

    /// What a closed port answers: RFC 9293 §3.10.7.1.
    #[must_use]
    pub fn reset(&self) -> Packet {
        let mut packet = self.answer(TCP);
        let tcp = packet.length;
        let ports = &self.headers()[self.tcp..];
        let acknowledged = self.sequence().wrapping_add(1);
        packet.push(&ports[2..4]);
        packet.push(&ports[..2]);
        packet.push(&[0; 4]);
        packet.push(&acknowledged.to_be_bytes());
        packet.push(&[(TCP_BYTES as u8 / 4) << 4, RST | ACK]);
        packet.push(&[0; 6]);
        packet.finish_ip(tcp);
        packet.finish_tcp(tcp);
        packet
    }

    /// An ICMP or ICMPv6 error that quotes it: RFC 792, RFC 4443 §3.
    #[must_use]
    pub fn error(&self, kind: u8, code: u8) -> Packet {
        let mut packet = self.answer(if self.is_ipv6() { ICMPV6 } else { ICMP });
        let icmp = packet.length;
        packet.push(&[kind, code]);
        packet.push(&[0; 6]);
        packet.push(self.headers());
        packet.finish_ip(icmp);
        let pseudo = if self.is_ipv6() { packet.pseudo_header(icmp, ICMPV6) } else { 0 };
        packet.finish_checksum(icmp, icmp + 2, pseudo);
        packet
    }

    fn headers(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn sequence(&self) -> u32 {
        let at = self.tcp + 4;
        u32::from_be_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    fn source(&self) -> SocketAddr {
        self.end(12, 8, self.tcp)
    }

    fn destination(&self) -> SocketAddr {
        self.end(16, 24, self.tcp + 2)
    }

    fn end(&self, v4: usize, v6: usize, port: usize) -> SocketAddr {
        let ip = if self.is_ipv6() {
            let mut octets = [0; 16];
            octets.copy_from_slice(&self.bytes[v6..v6 + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        } else {
            let mut octets = [0; 4];
            octets.copy_from_slice(&self.bytes[v4..v4 + 4]);
            IpAddr::V4(Ipv4Addr::from(octets))
        };
        SocketAddr::new(ip, u16::from_be_bytes([self.bytes[port], self.bytes[port + 1]]))
    }

    /// An IP header back to where the SYN came from.
    fn answer(&self, protocol: u8) -> Packet {
        let mut packet = Packet::new(self.source());
        match (self.destination().ip(), self.source().ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.push(&[4 << 4 | (IPV4_BYTES as u8 / 4), 0, 0, 0]);
                // Not to be fragmented.
                packet.push(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
                packet.push(&from.octets());
                packet.push(&to.octets());
            }
            (from, to) => {
                packet.push(&[6 << 4, 0, 0, 0, 0, 0, protocol, HOPS]);
                packet.push(&octets(from));
                packet.push(&octets(to));
            }
        }
        packet
    }
}

// === impl Packet ===

impl Packet {
    fn new(destination: SocketAddr) -> Self {
        Self { bytes: [0; LONGEST], length: 0, destination }
    }

    /// The whole packet, with its IP header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Where it goes.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    /// Fills in the IP header, which ends at `end`: the length, and the checksum of IPv4.
    fn finish_ip(&mut self, end: usize) {
        if self.destination.is_ipv6() {
            self.put(4, (self.length - end) as u16);
        } else {
            self.put(2, self.length as u16);
            self.put(10, 0);
            let sum = folded(sum(&self.bytes[..end]));
            self.put(10, !sum);
        }
    }

    fn finish_tcp(&mut self, at: usize) {
        let pseudo = self.pseudo_header(at, TCP);
        self.finish_checksum(at, at + 16, pseudo);
    }

    /// Puts the checksum over everything from `from` on to where it belongs: RFC 1071.
    fn finish_checksum(&mut self, from: usize, at: usize, pseudo: u32) {
        self.put(at, 0);
        let sum = folded(pseudo + sum(&self.bytes[from..self.length]));
        self.put(at, !sum);
    }

    /// The sum of the pseudo-header of what begins at `from`: RFC 9293 §3.1, RFC 8200 §8.1.
    fn pseudo_header(&self, from: usize, protocol: u8) -> u32 {
        let addresses = if self.destination.is_ipv6() { 8..40 } else { 12..20 };
        sum(&self.bytes[addresses]) + (self.length - from) as u32 + u32::from(protocol)
    }

    fn put(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

// === helpers ===

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The sum of the 16-bit words; an odd byte at the end counts as a word's first.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests;

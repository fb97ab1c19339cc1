//! The packets that answer a held SYN, byte by byte.

use proptest::prelude::*;

use super::*;

/// A SYN as Linux sends it to 127.0.0.1: with options, and a checksum that is left to the device.
const V4: [u8; 60] = [
    0x45, 0, 0, 60, 0x12, 0x34, 0x40, 0, 64, 6, 0x2a, 0x86, 127, 0, 0, 1, 127, 0, 0, 1, //
    0xc3, 0x50, 0x9c, 0x41, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xd7, 0xfe, 0x30, 0,
    0, //
    2, 4, 0xff, 0xd7, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7,
];

fn v6() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 40, 6, 64];
    for _ in 0..2 {
        packet.extend(Ipv6Addr::LOCALHOST.octets());
    }
    packet.extend(&V4[20..]);
    packet
}

fn is_right(packet: &Packet) {
    let bytes = packet.bytes();
    let (start, protocol, pseudo) = if packet.destination().is_ipv6() {
        assert_eq!(usize::from(u16::from_be_bytes([bytes[4], bytes[5]])), bytes.len() - 40);
        (40, bytes[6], sum(&bytes[8..40]))
    } else {
        let end = usize::from(bytes[0] & 0xf) * 4;
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
        assert_eq!(folded(sum(&bytes[..end])), 0xffff, "checksum of IPv4");
        (end, bytes[9], sum(&bytes[12..20]))
    };
    let pseudo = match protocol {
        ICMP => 0,
        _ => pseudo + u32::from(protocol) + (bytes.len() - start) as u32,
    };
    assert_eq!(folded(pseudo + sum(&bytes[start..])), 0xffff, "checksum of {protocol}");
}

#[test]
fn the_same_syn_is_sent_again_with_a_checksum_that_is_right() {
    for bytes in [V4.to_vec(), v6()] {
        let syn = Syn::parse(&bytes).unwrap();
        let again = syn.again();
        is_right(&again);
        let checksum = bytes.len() - 40 + 16;
        let (now, before) = (again.bytes(), &bytes);
        assert_eq!(now[checksum - 16..checksum], before[checksum - 16..checksum]);
        assert_eq!(now[checksum + 2..], before[checksum + 2..]);
        assert_eq!(again.destination().port(), 40_001);
        assert!(again.destination().ip().is_loopback());
    }
}

/// By hand, from RFC 1071: what other implementations make of it.
#[test]
fn a_reset_acknowledges_the_syn_and_goes_back() {
    let reset = Syn::parse(&V4).unwrap().reset();
    is_right(&reset);
    let expected = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x3c, 0xce, 127, 0, 0, 1, 127, 0, 0, 1, //
        0x9c, 0x41, 0xc3, 0x50, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xf0, 0x50, 0x14, 0, 0,
    ];
    assert_eq!(reset.bytes()[..36], expected);
    assert_eq!(reset.bytes().len(), 40);
    assert_eq!(reset.destination(), "127.0.0.1:50000".parse().unwrap());
    let reset = Syn::parse(&v6()).unwrap().reset();
    is_right(&reset);
    assert_eq!(reset.destination(), "[::1]:50000".parse().unwrap());
}

#[test]
fn an_error_quotes_the_syn() {
    for (bytes, kind) in [(V4.to_vec(), 3), (v6(), 1)] {
        let error = Syn::parse(&bytes).unwrap().error(kind, 1);
        is_right(&error);
        let start = bytes.len() - 40;
        assert_eq!(error.bytes()[start..start + 2], [kind, 1]);
        assert_eq!(error.bytes()[start + ICMP_BYTES..], bytes);
        assert_eq!(error.destination().port(), 50_000);
    }
}

#[test]
fn nothing_but_a_whole_syn_is_one() {
    assert!(Syn::parse(&V4).is_some());
    let with = |at: usize, byte: u8| {
        let mut bytes = V4;
        bytes[at] = byte;
        Syn::parse(&bytes)
    };
    for (at, byte, what) in [
        (0, 0x55, "another version"),
        (0, 0x44, "an IP header that is too short"),
        (0, 0x4f, "an IP header without room for TCP"),
        (9, 17, "another protocol"),
        (32, 0x40, "a TCP header that is too short"),
        (32, 0xb0, "a TCP header that is longer than the packet"),
        (33, 0x12, "a SYN with an ACK"),
        (33, 0x10, "an ACK"),
        (33, 0x06, "a SYN with a RST"),
    ] {
        assert_eq!(with(at, byte), None, "{what}");
    }
    for length in 0..V4.len() {
        assert_eq!(Syn::parse(&V4[..length]), None, "cut after {length}");
    }
    assert_eq!(Syn::parse(&[V4.as_slice(), &[0; 100]].concat()), None);
}

#[test]
fn every_errno_has_the_answer_that_gives_it() {
    use Answer::{Error, Reset, Silence};
    for (errno, v4, v6) in [
        (libc::ECONNREFUSED, Reset, Reset),
        (libc::ETIMEDOUT, Silence, Silence),
        (libc::ENETUNREACH, Error { kind: 3, code: 0 }, Error { kind: 1, code: 0 }),
        (libc::EHOSTUNREACH, Error { kind: 3, code: 1 }, Error { kind: 1, code: 3 }),
        (libc::EACCES, Error { kind: 3, code: 13 }, Error { kind: 1, code: 1 }),
        (libc::EPROTO, Reset, Error { kind: 4, code: 0 }),
        (libc::EIO, Reset, Reset),
    ] {
        assert_eq!((Answer::to(errno, false), Answer::to(errno, true)), (v4, v6), "{errno}");
    }
}

proptest! {
    /// Whatever the bytes are: what is taken for a SYN makes packets whose lengths and checksums are
    /// right, and nothing panics.
    #[test]
    fn what_is_made_of_anything_is_right(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..=HELD_BYTES + 8),
            (any::<[u8; 84]>(), 5_u8..=6, 5_u8..=10).prop_map(|(mut bytes, ip, tcp)| {
                bytes[0] = 0x40 | ip;
                bytes[9] = TCP;
                let at = usize::from(ip) * 4;
                bytes[at + 12] = tcp << 4;
                bytes[at + 13] = SYN;
                bytes[..at + usize::from(tcp) * 4].to_vec()
            }),
            (any::<[u8; 80]>(), 5_u8..=10).prop_map(|(mut bytes, tcp)| {
                bytes[0] = 0x60;
                bytes[6] = TCP;
                bytes[52] = tcp << 4;
                bytes[53] = SYN;
                bytes[..40 + usize::from(tcp) * 4].to_vec()
            }),
        ],
        kind in any::<u8>(),
        code in any::<u8>(),
    ) {
        let Some(syn) = Syn::parse(&bytes) else { return Ok(()) };
        for packet in [syn.again(), syn.reset(), syn.error(kind, code)] {
            is_right(&packet);
        }
        prop_assert_eq!(Syn::parse(syn.again().bytes()).map(|it| it.sequence()), Some(syn.sequence()));
    }
}

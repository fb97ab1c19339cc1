//! Lists of RFC 7541's examples, and lists that go from any tables to any others.

mod any_lists;
mod messages;
mod model;

use super::super::appendix_c::{REQUESTS, bytes};
use super::*;
use crate::ParseError;

/// The fields of a list, as text.
fn fields(list: &FieldList) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    list.iter().map(|(name, value, _)| (text(&name), text(&value))).collect()
}

/// RFC 7541 appendices C.3 and C.4, through a second table.
#[test]
fn requests_of_appendix_c() {
    let expected: [&[(&str, &str)]; 3] = [
        &[(":scheme", "http"), (":path", "/")],
        &[(":scheme", "http"), (":path", "/"), ("cache-control", "no-cache")],
        &[(":scheme", "https"), (":path", "/index.html"), ("custom-key", "custom-value")],
    ];
    for blocks in REQUESTS {
        let mut shared = Shared::default();
        let (mut first, mut second) = (ListDecoder::new(4096), ListDecoder::new(4096));
        let mut encoder = ListEncoder::default();
        let mut list = FieldList::default();
        for ((block, expected), size) in blocks.iter().zip(expected).zip([57, 110, 164]) {
            let mut all = vec![(":method", "GET")];
            all.extend_from_slice(expected);
            all.insert(3, (":authority", "www.example.com"));
            let all: Vec<_> = all.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            first.decode(&bytes(block), 1000, &mut shared, &mut list).unwrap();
            assert_eq!(fields(&list), all);
            assert_eq!((list.check_request(), first.entries.size()), (Ok(()), size));
            let mut out = Vec::new();
            encoder.encode(&list, &mut out);
            second.decode(&out, 1000, &mut Shared::default(), &mut list).unwrap();
            assert_eq!(fields(&list), all);
        }
    }
}

/// A literal: its first bits, its name and its value in plain.
fn literal(form: u8, name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![form];
    for bytes in [name, value] {
        let text = model::Text { bytes: bytes.into(), huffman: false };
        model::text(&mut block, &text);
    }
    block
}

/// A sender and its lists.
struct Sender {
    decoder: ListDecoder,
    list: FieldList,
}

impl Sender {
    fn new() -> Self {
        Self { decoder: ListDecoder::new(4096), list: FieldList::default() }
    }

    /// What comes out for a block.
    fn pass(&mut self, shared: &mut Shared, encoder: &mut ListEncoder, block: &[u8]) -> Vec<u8> {
        self.decoder.decode(block, 1 << 20, shared, &mut self.list).unwrap();
        let mut out = Vec::new();
        encoder.encode(&self.list, &mut out);
        out
    }
}

#[test]
fn a_field_is_indexed_once_for_all_senders_when_it_comes_again() {
    let (mut shared, mut encoder) = (Shared::default(), ListEncoder::default());
    let first = literal(0x40, "user-agent", "grpc-go/1.60.0");
    let mut senders: Vec<_> = (0..50).map(|_| Sender::new()).collect();
    let seen: Vec<_> =
        senders.iter_mut().map(|sender| sender.pass(&mut shared, &mut encoder, &first)).collect();
    assert_eq!(seen[0], literal(0, "user-agent", "grpc-go/1.60.0"), "it may not come again");
    let value = [&[14], b"grpc-go/1.60.0".as_slice()].concat();
    assert_eq!(seen[1], [&[0x40 | 58], value.as_slice()].concat());
    assert!(seen[2..].iter().all(|block| *block == [0xbe]));
    for sender in &mut senders {
        assert_eq!(sender.pass(&mut shared, &mut encoder, &[0xbe]), [0xbe]);
    }
}

#[test]
fn literals_are_copied_as_they_are() {
    let (mut shared, mut encoder) = (Shared::default(), ListEncoder::default());
    let mut sender = Sender::new();
    let long = [bytes("00 01 61 7f 00"), vec![b'v'; 127]].concat();
    let long_length = [bytes("00 01 61 7f 80 80 00"), vec![b'v'; 127]].concat();
    let cases = [
        ("never indexed", literal(0x10, "authorization", "secret"), None),
        ("never indexed, the name in the static table", bytes("1f 08 01 78"), None),
        ("not indexed, the name in the static table", bytes("0f 08 01 78"), None),
        ("a value in Huffman's code", bytes("00 01 61 84 10 42 08 bf"), None),
        ("a name in Huffman's code", bytes("00 84 10 42 08 bf 00"), None),
        (
            "Huffman's code longer than the string",
            bytes("00 01 61 82 ff c7"),
            Some("00 01 61 01 00"),
        ),
        ("a length in more bytes than it needs", long_length, None),
    ];
    for (what, block, expected) in cases {
        let expected = match (what, expected) {
            ("a length in more bytes than it needs", _) => long.clone(),
            (_, Some(expected)) => bytes(expected),
            (_, None) => block.clone(),
        };
        assert_eq!(sender.pass(&mut shared, &mut encoder, &block), expected, "{what}");
    }
}

#[test]
fn the_name_of_an_entry_is_the_name_of_a_literal() {
    let (mut shared, mut encoder) = (Shared::default(), ListEncoder::default());
    let mut sender = Sender::new();
    let named = [literal(0x40, "x-name", "a"), bytes("1f 2f 01 62")].concat();
    let plain = [literal(0, "x-name", "a"), literal(0x10, "x-name", "b")].concat();
    assert_eq!(sender.pass(&mut shared, &mut encoder, &named), plain, "it is not in the table");
    let entry = literal(0x40, "x-name", "a");
    assert_eq!(sender.pass(&mut shared, &mut encoder, &[0xbe]), entry);
    let by_index = bytes("1f 2f 01 62");
    assert_eq!(sender.pass(&mut shared, &mut encoder, &by_index), by_index);
}

#[test]
fn a_field_that_would_fill_the_table_stays_out() {
    let (mut shared, mut encoder) = (Shared::default(), ListEncoder::default());
    let mut sender = Sender::new();
    for (length, form) in [(3072 - 33, 0x40), (3072 - 32, 0)] {
        let block = literal(0x40, "x", &"v".repeat(length));
        sender.pass(&mut shared, &mut encoder, &block);
        let again = sender.pass(&mut shared, &mut encoder, &[0xbe]);
        assert_eq!(again, literal(form, "x", &"v".repeat(length)), "{length}");
    }
}

#[test]
fn the_next_block_tells_of_the_table() {
    let (mut shared, mut sender) = (Shared::default(), Sender::new());
    let cases: &[(&[u32], &str)] = &[
        (&[], ""),
        (&[4096], ""),
        (&[65_536], ""),
        (&[0], "20"),
        (&[100, 200], "3f 45 3f a9 01"),
        (&[200, 100], "3f 45"),
        (&[0, 65_536], "20 3f e1 1f"),
        (&[65_536, 30, 31], "3e 3f 00"),
    ];
    for (sizes, updates) in cases {
        let mut encoder = ListEncoder::default();
        sizes.iter().for_each(|size| encoder.allow(*size));
        let block = sender.pass(&mut shared, &mut encoder, &[0x82]);
        assert_eq!(block, [bytes(updates), vec![0x82]].concat(), "{sizes:?}");
        assert_eq!(sender.pass(&mut shared, &mut encoder, &[0x82]), [0x82], "told once");
    }
}

#[test]
fn blocks_that_cannot_be_decoded() {
    let cases = [
        ("80", ParseError::NoEntry, "index 0"),
        ("be", ParseError::NoEntry, "an index beyond the table"),
        ("7f 00 00", ParseError::NoEntry, "a name beyond the table"),
        ("0f 2f 00", ParseError::NoEntry, "a name beyond the table, not indexed"),
        ("3f e2 1f", ParseError::TableSize, "a size update beyond 4096"),
        ("82 20", ParseError::LateTableSize, "a size update behind a field"),
        ("ff ff ff ff ff ff", ParseError::Integer, "an integer of more than 32 bits"),
        ("41 84 ff ff ff ff", ParseError::Huffman, "the end of string inside a string"),
        ("00 81 00 00", ParseError::Huffman, "padding that is not ones, in a name"),
        ("00 01 61 81 fe", ParseError::Huffman, "padding of eight bits, nearly, not indexed"),
        ("41 05 61", ParseError::ShortBlock, "a string that is cut short"),
        ("41", ParseError::ShortBlock, "a field without a value"),
        ("ff", ParseError::ShortBlock, "an index that is cut short"),
    ];
    for (hex, error, what) in cases {
        for limit in [0, 1 << 20] {
            let (mut decoder, mut list) = (ListDecoder::new(0), FieldList::default());
            let read = decoder.decode(&bytes(hex), limit, &mut Shared::default(), &mut list);
            assert_eq!(read, Err(DecodeError::Compression(error)), "{what}");
            assert!(list.is_empty());
        }
    }
}

#[test]
fn a_list_over_the_limit_leaves_the_table_in_step() {
    let (mut shared, mut sender) = (Shared::default(), Sender::new());
    let block =
        [literal(0x40, "a", "b"), literal(0x40, "c", "d"), literal(0x40, "e", "f")].concat();
    let mut decode = |block: &[u8], limit| {
        sender.decoder.decode(block, limit, &mut shared, &mut sender.list)?;
        let names = fields(&sender.list).into_iter().map(|(name, _)| name);
        Ok(names.collect::<String>())
    };
    assert_eq!(decode(&block, 3 * 34 - 1), Err(DecodeError::TooLarge));
    assert_eq!(decode(&[0xc0, 0xbf, 0xbe], 3 * 34).as_deref(), Ok("ace"));
    assert_eq!(decode(&[0xc0, 0xbf, 0xbe], 3 * 34 - 1), Err(DecodeError::TooLarge));
    assert_eq!(decode(&[0xbe], 34).as_deref(), Ok("e"));
}

/// One entry, or its name, in a few bytes for each time: the list stops at the limit.
#[test]
fn bombs_do_not_go_off() {
    const LIMIT: usize = 64 << 10;
    let large = "n".repeat(4000);
    let blocks = [
        [literal(0x40, &large, ""), vec![0xbe; 1 << 20]].concat(),
        [literal(0x40, &large, ""), bytes("7e 00").repeat(1 << 14)].concat(),
        [literal(0x40, &large, ""), bytes("0f 2f 00").repeat(1 << 14)].concat(),
        [literal(0x40, "x", &large), vec![0xbe; 1 << 20]].concat(),
    ];
    for block in blocks {
        let (mut shared, mut list) = (Shared::default(), FieldList::default());
        let empty = shared.memory();
        let mut decoder = ListDecoder::new(4096);
        let read = decoder.decode(&block, LIMIT, &mut shared, &mut list);
        assert_eq!(read, Err(DecodeError::TooLarge));
        assert!(list.memory() <= 8 << 10, "{} bytes", list.memory());
        assert!(decoder.memory() <= 24 << 10, "{} bytes", decoder.memory());
        assert!(shared.memory() - empty <= 2 * LIMIT, "{} bytes", shared.memory());
    }
}

#[test]
fn a_list_that_is_used_again_does_not_grow() {
    let (mut shared, mut encoder) = (Shared::default(), ListEncoder::default());
    let mut sender = Sender::new();
    let block = literal(0, "grpc-timeout", "1000m");
    sender.pass(&mut shared, &mut encoder, &block);
    let first = sender.list.memory();
    for _ in 0..100 {
        sender.pass(&mut shared, &mut encoder, &block);
        assert_eq!((sender.list.memory(), sender.list.len()), (first, 1));
    }
}

#[test]
fn memory_stays_within_what_tables_hold() {
    let mut shared = Shared::default();
    let empty = shared.memory();
    let mut encoder = ListEncoder::default();
    let mut senders: Vec<_> = (0..4).map(|_| Sender::new()).collect();
    let mut most = 0;
    for number in 0..20_000_u32 {
        let block = literal(0x40, &format!("x-{number}"), &"v".repeat(number as usize % 100));
        let sender = &mut senders[number as usize % 4];
        sender.pass(&mut shared, &mut encoder, &block);
        sender.pass(&mut shared, &mut encoder, &[0xbe]);
        most = most.max(shared.memory() - empty);
        let memory = sender.decoder.memory() + encoder.memory() + sender.list.memory();
        assert!(memory <= 16 << 10, "{memory} bytes");
    }
    // Five tables of up to 4096 bytes. An entry of 64 bytes takes about three times as much.
    assert!(most <= 2 * 5 * 3 * 4096 + (16 << 10), "{most} bytes");
    drop((senders, encoder));
    shared.trim();
    assert_eq!(shared.memory(), empty);
}

//! RFC 7541's examples, and fields that come in pieces or are too large to be kept.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::appendix_c::{REQUESTS, bytes};
use super::*;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Head {
    let mut head = Head::default();
    decoder.decode(block, true, &mut head).unwrap();
    head
}

/// The same block in pieces of `step` bytes.
fn decode_in_steps(decoder: &mut Decoder, block: &[u8], step: usize) -> Result<Head, ParseError> {
    let mut head = Head::default();
    for piece in block.chunks(step) {
        decoder.decode(piece, false, &mut head)?;
    }
    decoder.decode(&[], true, &mut head)?;
    Ok(head)
}

/// A literal with its name, both in plain (RFC 7541 §6.2).
fn literal(indexed: bool, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![if indexed { 0x40 } else { 0 }];
    for text in [name, value] {
        length(&mut field, text.len());
        field.extend(text);
    }
    field
}

fn length(to: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return to.push(length as u8);
    }
    to.push(127);
    let mut rest = length - 127;
    while rest > 127 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

#[test]
fn integers_of_appendix_c_1() {
    let cases = [
        ("0a", 5, Some((10, 1))),
        ("1f 9a 0a", 5, Some((1337, 3))),
        ("ff 80 00", 7, Some((127, 3))),
        ("ff 80 ff ff ff 0f", 7, Some((0xffff_ffff, 6))),
        ("1f 9a", 5, None),
        ("1f", 5, None),
        ("", 5, None),
    ];
    for (hex, prefix, expected) in cases {
        assert_eq!(integer(&bytes(hex), prefix), Ok(expected), "{hex}");
    }
    for hex in ["ff 81 ff ff ff 0f", "ff 80 80 80 80 80", "ff ff ff ff ff ff 01"] {
        integer(&bytes(hex), 7).unwrap_err();
    }
}

/// RFC 7541 appendices C.3 and C.4: the same requests in plain and in Huffman's code.
#[test]
fn requests_of_appendix_c() {
    for blocks in REQUESTS {
        let mut decoder = Decoder::default();
        for (block, (path, size)) in
            blocks.iter().zip([("/", 57), ("/", 110), ("/index.html", 164)])
        {
            let head = decode(&mut decoder, &bytes(block));
            assert_eq!(head.method.as_deref(), Some("GET"));
            assert_eq!(head.path.as_deref(), Some(path));
            assert_eq!(head.authority.as_deref(), Some("www.example.com"));
            assert_eq!(decoder.table.size(), size);
        }
    }
}

/// RFC 7541 appendices C.5 and C.6: with a table of 256 bytes, so that entries are evicted.
#[test]
fn responses_of_appendix_c() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 \
         303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 \
         5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 \
         5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b \
         ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad \
         94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 \
         65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::default();
        decoder.table.resize(256).unwrap();
        for (block, (status, size)) in blocks.iter().zip([(302, 222), (307, 222), (200, 215)]) {
            let head = decode(&mut decoder, &bytes(block));
            assert_eq!((head.status, decoder.table.size()), (Some(status), size));
        }
    }
}

#[test]
fn what_a_field_says() {
    let cases: &[(&[u8], &[u8], Head)] = &[
        (b":path", b"/a?b#c", Head { path: Some("/a".into()), ..Head::default() }),
        (b":path", b"?b", Head { path: Some("/".into()), ..Head::default() }),
        (b":path", b"*", Head { path: Some("*".into()), ..Head::default() }),
        (b":path", b"/\xff", Head { path: Some("/\u{fffd}".into()), ..Head::default() }),
        (b":method", b"PATCH", Head { method: Some("PATCH".into()), ..Head::default() }),
        (b"host", b"a:1", Head { host: Some("a:1".into()), ..Head::default() }),
        (b":status", b"599", Head { status: Some(599), ..Head::default() }),
        (b":status", b"20", Head::default()),
        (b":status", b"099", Head::default()),
        (b"content-type", b"application/grpc+x", Head { grpc: Some(true), ..Head::default() }),
        (b"content-type", b"text/html", Head { grpc: Some(false), ..Head::default() }),
        (b"grpc-status", b" 16 ", Head { grpc_status: Some(Some(16)), ..Head::default() }),
        (b"grpc-status", b"x", Head { grpc_status: Some(None), ..Head::default() }),
        (b"x-path", b"/", Head::default()),
    ];
    for (name, value, expected) in cases {
        let mut decoder = Decoder::default();
        let first = decode(&mut decoder, &literal(true, name, value));
        assert_eq!(&first, expected, "{}", value.escape_ascii());
        assert_eq!(&decode(&mut decoder, &[0xbe]), expected, "from the table");
        // Only the first of several counts.
        let again = [literal(false, name, value), literal(false, name, b"/other")].concat();
        assert_eq!(decode(&mut decoder, &again).path, expected.path);
    }
}

#[test]
fn blocks_that_cannot_be_followed() {
    let cases = [
        ("80", "index 0"),
        ("be", "an index beyond the table"),
        ("7e 00", "a name beyond the table"),
        ("3f e2 1f", "a size update beyond 4096"),
        ("ff ff ff ff ff ff", "an integer of more than 32 bits"),
        ("41 84 ff ff ff ff", "the end of string inside a string"),
        ("41 81 00", "padding that is not ones"),
        ("41 81 fe", "padding of eight bits, nearly"),
        ("41 82 07 ff", "padding of more than seven bits"),
        ("41 05 61", "a string that is cut short"),
        ("41", "a field that is cut short"),
    ];
    for (hex, what) in cases {
        let block = bytes(hex);
        let mut decoder = Decoder::default();
        assert!(decoder.decode(&block, true, &mut Head::default()).is_err(), "{what}");
        for step in 1..3 {
            decode_in_steps(&mut Decoder::default(), &block, step).expect_err(what);
        }
    }
}

#[test]
fn size_updates_follow_what_the_receiver_allows() {
    let mut decoder = Decoder::default();
    decode(&mut decoder, &literal(true, b"a", b"b"));
    assert_eq!(decoder.table.size(), 34);
    decoder.allow(100);
    // Not in force until the sender says so, and it may not have heard of the lower bound yet.
    decode(&mut decoder, &bytes("3f e1 1f be"));
    decode(&mut decoder, &bytes("20 3f 05"));
    assert_eq!(decoder.table.size(), 0);
    decode(&mut decoder, &literal(true, b"ab", b"cd"));
    decode(&mut decoder, &literal(true, b"ab", b"c"));
    assert_eq!(decoder.table.size(), 35, "36 bytes and then 35");
    decoder.allow(8192);
    decode(&mut decoder, &bytes("3f e1 3f"));
    for path in ["/a", "/b"] {
        let value = format!("{path}?{}", "x".repeat(2997));
        decode(&mut decoder, &literal(true, b":path", value.as_bytes()));
    }
    assert_eq!(decoder.table.size(), 35 + 2 * (5 + 3000 + 32), "more than 4096 bytes");
    assert_eq!(decode(&mut decoder, &[0xbf]).path.as_deref(), Some("/a"));
    decoder.decode(&bytes("3f e2 3f"), true, &mut Head::default()).unwrap_err();
}

#[test]
fn large_fields_are_skipped_without_being_kept() {
    let large = vec![b'x'; 1 << 20];
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b":path", &large, false),
        (b":path", &large, true),
        (&large, b"short", false),
        (&large, b"short", true),
        (&large, &large, true),
        (b"x", &large[..KEPT + 1], true),
    ];
    for (name, value, indexed) in cases {
        for step in [1 << 21, 16_384, 4097, 1] {
            let mut decoder = Decoder::default();
            decode(&mut decoder, &literal(true, b"a", b"b"));
            let block = [literal(*indexed, name, value), vec![0x83]].concat();
            let mut head = Head::default();
            for piece in block.chunks(step) {
                decoder.decode(piece, false, &mut head).unwrap();
                assert!(decoder.carry.capacity() <= 2 * KEPT, "{} bytes", decoder.carry.capacity());
            }
            decoder.decode(&[], true, &mut head).unwrap();
            assert_eq!(head, Head { method: Some("POST".into()), ..Head::default() });
            assert_eq!(decoder.table.size(), if *indexed { 0 } else { 34 });
            assert!(decoder.carry.capacity() <= BUFFER && decoder.plain.capacity() <= BUFFER);
        }
    }
}

#[test]
fn a_table_that_the_peers_make_huge_is_not_followed() {
    let mut decoder = Decoder::default();
    decoder.allow(u32::MAX);
    decode(&mut decoder, &bytes("3f e0 ff ff ff 0f"));
    let entry = literal(true, b"x", &[b'x'; 60_000]);
    let stored =
        (0..100).take_while(|_| decoder.decode(&entry, true, &mut Head::default()).is_ok());
    assert_eq!(stored.count(), (1 << 20) / (60_000 + 1 + 32));
}

/// Fields of every representation, with names and values that matter or not.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let name =
        prop::sample::select(vec![":path", ":method", "host", ":status", "x-y", "grpc-status"]);
    let plain = (any::<bool>(), name, vec(any::<u8>(), 0..200))
        .prop_map(|(indexed, name, value)| literal(indexed, name.as_bytes(), &value));
    let field = prop_oneof![
        4 => plain,
        4 => (0x81_u8..=0xc8).prop_map(|index| vec![index]),
        1 => (0x20_u8..0x3f).prop_map(|size| vec![size]),
        1 => vec(any::<u8>(), 1..8),
    ];
    vec(field, 0..20).prop_map(|fields| fields.concat())
}

proptest! {
    #[test]
    fn any_block_reads_the_same_in_any_pieces(blocks in vec(block(), 1..6), step in 1_usize..50) {
        let (mut whole, mut pieces) = (Decoder::default(), Decoder::default());
        for block in blocks {
            let mut head = Head::default();
            let expected = whole.decode(&block, true, &mut head).map(|()| head);
            let seen = decode_in_steps(&mut pieces, &block, step);
            prop_assert_eq!(&seen, &expected);
            if expected.is_err() {
                break;
            }
            prop_assert_eq!(whole.table.size(), pieces.table.size());
        }
    }

    #[test]
    fn huffmans_code_reads_what_was_written(text in vec(any::<u8>(), 0..300)) {
        let mut read = Vec::new();
        huffman::decode(&huffman::tests::encode(&text), |byte| read.push(byte)).unwrap();
        prop_assert_eq!(read, text);
    }
}

/// A `traceparent` is read where it is plain, in Huffman's code and in the table; several say nothing.
#[test]
fn the_trace_of_a_request_is_read_in_any_form() {
    let value = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = |head: Head| head.into_request().trace.map(|it| it.parent_id);
    let expected = Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    for step in 1..=4 {
        let mut decoder = Decoder::default();
        let block = literal(false, b"traceparent", value);
        assert_eq!(trace(decode_in_steps(&mut decoder, &block, step).unwrap()), expected);
    }
    let mut decoder = Decoder::default();
    let indexed = literal(true, b"traceparent", value);
    assert_eq!(trace(decode(&mut decoder, &indexed)), expected);
    assert_eq!(trace(decode(&mut decoder, &[0xbe])), expected, "the newest entry");
    assert_eq!(trace(decode(&mut decoder, &[0xbe, 0xbe])), None, "twice");
}

//! Header lists of several senders reach one receiver as another decoder reads them at the senders,
//! whatever the tables and the limit.
//!
//! The first byte is the limit, in steps of 64 bytes (0: none). Then come pieces: the length in seven
//! bits, and the sender in the eighth. Before a piece without bytes, the receiver allows a table of as
//! many times 32 bytes as the next byte says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_http::ParseError;
use weir_http::h2::fields::{DecodeError, FieldList, ListDecoder, ListEncoder, Shared};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A decoder of each kind, for one table.
struct Reader {
    ours: ListDecoder,
    other: loona_hpack::Decoder<'static>,
}

impl Reader {
    fn new() -> Self {
        let mut other = loona_hpack::Decoder::new();
        other.set_max_allowed_table_size(4096);
        Self { ours: ListDecoder::new(4096), other }
    }
}

fn plain(list: &FieldList) -> Fields {
    list.iter().map(|(name, value, _)| (name.into_owned(), value.into_owned())).collect()
}

fn never_indexed(list: &FieldList) -> Vec<bool> {
    list.iter().map(|(.., never_indexed)| never_indexed).collect()
}

fn other(decoder: &mut loona_hpack::Decoder<'static>, block: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    decoder.decode_with_cb(block, |name, value| fields.push((name.into(), value.into()))).ok()?;
    Some(fields)
}

/// The next piece, and its sender.
fn piece<'a>(data: &mut &'a [u8]) -> Option<(usize, &'a [u8])> {
    let (first, rest) = data.split_first()?;
    let (piece, rest) = rest.split_at(usize::from(first & 0x7f).min(rest.len()));
    *data = rest;
    Some((usize::from(first >> 7), piece))
}

fuzz_target!(|data: &[u8]| {
    let Some((limit, mut data)) = data.split_first() else { return };
    let limit = if *limit == 0 { usize::MAX } else { usize::from(*limit) * 64 };
    let mut shared = Shared::default();
    let (mut senders, mut receiver) = ([Reader::new(), Reader::new()], Reader::new());
    let mut encoder = ListEncoder::default();
    let (mut list, mut received, mut out) =
        (FieldList::default(), FieldList::default(), Vec::new());
    while let Some((from, block)) = piece(&mut data) {
        if block.is_empty() {
            let Some((size, rest)) = data.split_first() else { return };
            encoder.allow(u32::from(*size) * 32);
            data = rest;
            continue;
        }
        let sender = &mut senders[from];
        let read = sender.ours.decode(block, limit, &mut shared, &mut list);
        // What the other refuses may be of no importance here; its table is of no use then.
        let Some(expected) = other(&mut sender.other, block) else { return };
        let size =
            expected.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
        match read {
            // It takes them anywhere.
            Err(DecodeError::Compression(ParseError::LateTableSize)) => return,
            Err(DecodeError::TooLarge) if size > limit => continue,
            _ => assert_eq!(read, Ok(()), "{}", block.escape_ascii()),
        }
        assert!(size <= limit, "{size} bytes");
        assert_eq!((plain(&list), list.size()), (expected.clone(), size));
        let _ = (list.check_request(), list.check_response(), list.check_trailers());
        let _ = list.content_length();
        out.clear();
        encoder.encode(&list, &mut out);
        assert_eq!(other(&mut receiver.other, &out), Some(expected), "{}", out.escape_ascii());
        receiver.ours.decode(&out, usize::MAX, &mut Shared::default(), &mut received).unwrap();
        assert_eq!(plain(&received), plain(&list));
        assert_eq!(never_indexed(&received), never_indexed(&list));
        assert_eq!(received.head(), list.head());
    }
});

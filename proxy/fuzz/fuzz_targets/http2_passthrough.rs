//! Header blocks say to the observer what they say to another decoder, and no bytes of either peer
//! make it panic, forget an exchange or report differently when they come in other pieces.
//!
//! The lowest bit of the first byte chooses between the two, the others are the size of the pieces.

#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use weir_http::h2::hpack::{Decoder, Head};
use weir_http::{Connection, Exchange, ExchangeEnd, ExchangeSink, Side, Untracked};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// What a block says.
#[derive(Debug, Default, PartialEq)]
struct Fields {
    method: Option<String>,
    /// Without its query.
    path: Option<String>,
    authority: Option<String>,
    host: Option<String>,
    status: Option<u16>,
}

#[derive(Default)]
struct Seen {
    started: usize,
    lines: Vec<String>,
    downgrades: Vec<Untracked>,
}

#[derive(Default)]
struct Sink(Mutex<Seen>);

impl ExchangeSink for Sink {
    fn request_started(&self) {
        self.0.lock().unwrap().started += 1;
    }

    fn exchange(&self, exchange: Exchange) {
        let Exchange { method, authority, path, status, end, .. } = &exchange;
        let Exchange { grpc, grpc_status, request_bytes, response_bytes, .. } = &exchange;
        self.0.lock().unwrap().lines.push(format!(
            "{method} {authority:?} {path} {status:?} {grpc} {grpc_status:?} \
             {request_bytes}/{response_bytes} {end:?}"
        ));
    }

    fn downgraded(&self, untracked: Untracked) {
        self.0.lock().unwrap().downgrades.push(untracked);
    }
}

fn connection(script: &[(Side, &[u8])], step: usize) -> (Vec<String>, Vec<Untracked>) {
    let sink = Arc::new(Sink::default());
    let mut connection = Connection::http2(Arc::clone(&sink));
    for (from, bytes) in script {
        for piece in bytes.chunks(step) {
            connection.bytes(*from, piece, &mut |_| true);
            let _ = (connection.is_idle(), connection.shutdown_notice());
        }
    }
    connection.finish(ExchangeEnd::Cancelled);
    let seen = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(seen.started, seen.lines.len());
    assert!(seen.downgrades.len() <= 1);
    (seen.lines, seen.downgrades)
}

/// The next piece that begins with its length, in seven bits, and the eighth.
fn piece<'a>(data: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let (first, rest) = data.split_first()?;
    let (piece, rest) = rest.split_at(usize::from(first & 0x7f).min(rest.len()));
    *data = rest;
    Some((first & 0x80 != 0, piece))
}

/// The first field of each name counts, as in `http::HeaderMap::get`.
fn fields(other: &mut loona_hpack::Decoder<'_>, block: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    let text = |value: &[u8]| Some(String::from_utf8_lossy(value).into_owned());
    let see = |name: &[u8], value: &[u8]| match name {
        b":method" if fields.method.is_none() => fields.method = text(value),
        b":authority" if fields.authority.is_none() => fields.authority = text(value),
        b"host" if fields.host.is_none() => fields.host = text(value),
        b":path" if fields.path.is_none() => {
            let end = value.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
            fields.path = text(if end.is_empty() { b"/" } else { end });
        }
        b":status" if fields.status.is_none() && value.iter().all(u8::is_ascii_digit) => {
            let status = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            fields.status = status.filter(|_| value.len() == 3 && value[0] != b'0');
        }
        _ => {}
    };
    let mut see = see;
    other.decode_with_cb(block, |name, value| see(&name, &value)).ok()?;
    Some(fields)
}

/// Reads a block in pieces of `step` bytes. `None`: it cannot be followed.
fn decode(ours: &mut Decoder, block: &[u8], step: usize) -> Option<Fields> {
    let mut head = Head::default();
    for piece in block.chunks(step) {
        ours.decode(piece, false, &mut head).ok()?;
    }
    ours.decode(&[], true, &mut head).ok()?;
    let Head { method, path, authority, host, status, .. } = head;
    let [method, path, authority, host] =
        [method, path, authority, host].map(|text| text.map(|text| text.to_string()));
    Some(Fields { method, path, authority, host, status })
}

fn header_blocks(mut data: &[u8], step: usize) {
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    let mut ours = Decoder::default();
    // What the other refuses may be of no importance here; its table is of no use then.
    while let Some((_, block)) = piece(&mut data)
        && let Some(expected) = fields(&mut other, block)
    {
        assert_eq!(decode(&mut ours, block, step), Some(expected), "{}", block.escape_ascii());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let step = usize::from(first >> 1).max(1);
    if first & 1 == 0 {
        return header_blocks(rest, step);
    }
    let mut script = vec![(Side::Client, PREFACE), (Side::Upstream, SETTINGS)];
    while let Some((upstream, bytes)) = piece(&mut rest) {
        script.push((if upstream { Side::Upstream } else { Side::Client }, bytes));
    }
    assert_eq!(connection(&script, step), connection(&script, usize::MAX));
});

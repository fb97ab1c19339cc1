//! What following HTTP/2 costs per stream: unary gRPC calls in segments as sockets give them. And
//! what header lists cost on their way from one table to another, and such calls through the relay.

mod discard;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use weir_http::h2::fields::{FieldList, ListDecoder, ListEncoder, Shared};
use weir_http::h2::relay::{Limits, PeerId, Relay};
use weir_http::{Choice, Connection, Endpoints, Exchange, Lease, Side};

use self::discard::Discard;

/// Frame types and flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How many times all streams of a connection are used, one set after the other.
const ROUNDS: u32 = 100;
/// What one read gives at most.
const SEGMENT: usize = 16_384;

type Script = Vec<(Side, Vec<u8>)>;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 10, 50], sample_count = 20, sample_size = 1)]
fn unary_calls(bencher: Bencher<'_, '_>, streams: u32) {
    let steps = calls(streams);
    bencher.counter(ItemsCount::new(streams * ROUNDS)).with_inputs(connection).bench_local_values(
        |mut connection| {
            for (from, bytes) in &steps {
                connection.bytes(*from, black_box(bytes), &mut |_| true);
            }
            assert!(connection.is_idle(), "all calls have ended");
            connection
        },
    );
}

/// The head of a gRPC call with ten fields: from a client's block to the block for an endpoint.
#[divan::bench(sample_size = 1000)]
fn transcode(bencher: Bencher<'_, '_>) {
    let (mut shared, mut list) = (Shared::default(), FieldList::default());
    let (mut decoder, mut encoder) = (ListDecoder::new(4096), ListEncoder::default());
    let mut out = Vec::new();
    let traced = |first| {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let literals = [literal(0, "traceparent", trace), literal(0, "x-request-id", "8a3f")];
        [head(1, first), literals.concat()].concat()
    };
    let mut pass = |block: &[u8]| {
        out.clear();
        decoder.decode(block, 64 << 10, &mut shared, &mut list).expect("a block");
        list.check_request().expect("a request");
        encoder.encode(&list, &mut out);
        out.len()
    };
    pass(&traced(true));
    let block = traced(false);
    pass(&block);
    bencher.bench_local(move || pass(black_box(&block)));
}

/// The calls of [`unary_calls`] through the relay: from what a client and an endpoint send to what they
/// are sent.
#[divan::bench(args = [1, 10, 50], sample_count = 20, sample_size = 1)]
fn relay(bencher: Bencher<'_, '_>, streams: u32) {
    let steps = calls(streams);
    bencher.counter(ItemsCount::new(streams * ROUNDS)).with_inputs(relayed).bench_local_values(
        |(mut relay, client, endpoint)| {
            for (from, bytes) in &steps {
                let from = if *from == Side::Client { client } else { endpoint };
                relay.read(from, black_box(bytes));
                for to in [client, endpoint] {
                    let count = black_box(relay.output(to)).len();
                    relay.written(to, count);
                }
            }
            assert!(relay.is_idle(client) && !relay.is_closing(client), "all calls have ended");
            relay
        },
    );
}

/// A relay whose client and endpoint have said hello.
fn relayed() -> (Relay<Discard, One>, PeerId, PeerId) {
    let mut relay = Relay::new(One, Limits::default());
    let endpoint = PeerId::Upstream(relay.add_upstream(One::ADDRESS));
    let client = PeerId::Client(relay.add_client(Arc::new(Discard)));
    let settings = frame(SETTINGS, 0, 0, &[]);
    relay.read(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    relay.read(client, &settings);
    relay.read(endpoint, &settings);
    // It reads everything at once.
    relay.read(client, &frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()));
    (relay, client, endpoint)
}

/// The only endpoint.
struct One;

impl One {
    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
}

impl Endpoints for One {
    type Lease = Self;

    fn choose(&self, _: &[SocketAddr]) -> Option<Choice<Self>> {
        Some(Choice { address: Self::ADDRESS, connect_timeout: None, lease: Self })
    }
}

impl Lease for One {
    fn over(&mut self, exchange: &Exchange) {
        black_box(exchange);
    }
}

/// A connection that has said hello.
fn connection() -> Connection<Discard> {
    let mut connection = Connection::http2(Arc::new(Discard));
    let settings = frame(SETTINGS, 0, 0, &[]);
    connection.bytes(Side::Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &mut |_| true);
    connection.bytes(Side::Client, &settings, &mut |_| true);
    connection.bytes(Side::Upstream, &settings, &mut |_| true);
    connection
}

fn calls(streams: u32) -> Script {
    let mut steps = Vec::new();
    for round in 0..ROUNDS {
        let ids = (0..streams).map(|n| 2 * (round * streams + n) + 1);
        let requests: Vec<u8> = ids.clone().flat_map(|id| request(id, id == 1)).collect();
        let responses: Vec<u8> = ids.flat_map(|id| response(id, id == 1)).collect();
        steps.extend(requests.chunks(SEGMENT).map(|piece| (Side::Client, piece.to_vec())));
        steps.extend(responses.chunks(SEGMENT).map(|piece| (Side::Upstream, piece.to_vec())));
    }
    steps
}

fn request(stream: u32, first: bool) -> Vec<u8> {
    let data = frame(DATA, END_STREAM, stream, &[0; 25]);
    [frame(HEADERS, END_HEADERS, stream, &head(stream, first)), data].concat()
}

/// As grpc-go says it: the first call fills the table, the others refer to it.
fn head(stream: u32, first: bool) -> Vec<u8> {
    let names = [
        (":authority", "helloworld.example:50051"),
        (":path", "/helloworld.Greeter/SayHello"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.60.0"),
        ("te", "trailers"),
    ];
    let fields = if first {
        names.iter().flat_map(|(name, value)| literal(0x40, name, value)).collect()
    } else {
        vec![0xc2, 0xc1, 0xc0, 0xbf, 0xbe]
    };
    // And one value that changes with every call.
    let timeout = literal(0, "grpc-timeout", &format!("{}m", 1000 + stream % 1000));
    [vec![0x83, 0x86], fields, timeout].concat()
}

fn response(stream: u32, first: bool) -> Vec<u8> {
    let (head, trailers) = if first {
        (
            [vec![0x88], literal(0x40, "content-type", "application/grpc")].concat(),
            [literal(0x40, "grpc-status", "0"), literal(0x40, "grpc-message", "")].concat(),
        )
    } else {
        (vec![0x88, 0xc0], vec![0xbf, 0xbe])
    };
    [
        frame(HEADERS, END_HEADERS, stream, &head),
        frame(DATA, 0, stream, &[0; 30]),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 30]),
    ]
    .concat()
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal, in plain and short: with indexing (0x40) or without (RFC 7541 §6.2).
fn literal(form: u8, name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("a short field");
    [&[form, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

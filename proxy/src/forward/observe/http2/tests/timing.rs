//! How long the observer takes; run by hand, in a release build:
//! `cargo test --release -p weir --lib observe::http2::tests::timing -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

struct Nowhere;

impl ExchangeSink for Nowhere {
    fn request_started(&self) {}
    fn exchange(&self, _: Exchange) {}
    fn downgraded(&self, untracked: Untracked) {
        panic!("{untracked:?}");
    }
}

/// A literal that enters the table, both in plain (RFC 7541 §6.2.1).
fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut field = field(name, value);
    field[0] = 0x40;
    field
}

/// Unary gRPC calls, so many streams at a time, in segments as sockets give them.
fn calls(streams: u32, rounds: u32) -> Script {
    let request = |stream: u32, first: bool| {
        let names = [
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.60.0"),
            ("te", "trailers"),
            (":authority", "helloworld.example:50051"),
            (":path", "/helloworld.Greeter/SayHello"),
        ];
        let head = match first {
            true => names.iter().flat_map(|(name, value)| indexed(name, value)).collect(),
            false => vec![0xbe, 0xbf, 0xc0, 0xc1, 0xc2],
        };
        // And one value that changes with every call.
        let timeout = field("grpc-timeout", &format!("{}m", 1000 + stream % 1000));
        let head = [vec![0x83, 0x86], head, timeout].concat();
        let data = frame(DATA, END_STREAM, stream, &[0; 25]);
        [frame(HEADERS, END_HEADERS, stream, &head), data].concat()
    };
    let response = |stream: u32, first: bool| {
        let (head, trailers) = match first {
            true => (
                [vec![0x88], indexed("content-type", "application/grpc")].concat(),
                [indexed("grpc-status", "0"), indexed("grpc-message", "")].concat(),
            ),
            false => (vec![0x88, 0xc0], vec![0xbf, 0xbe]),
        };
        let frames = [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, 0, stream, &[0; 30]),
            frame(HEADERS, BOTH, stream, &trailers),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 30]),
        ];
        frames.concat()
    };
    let mut steps = Vec::new();
    for round in 0..rounds {
        let ids = (0..streams).map(|n| 2 * (round * streams + n) + 1);
        let requests: Vec<u8> = ids.clone().flat_map(|id| request(id, id == 1)).collect();
        let responses: Vec<u8> = ids.flat_map(|id| response(id, id == 1)).collect();
        steps.extend(requests.chunks(16_384).map(|piece| (Side::Client, piece.to_vec())));
        steps.extend(responses.chunks(16_384).map(|piece| (Side::Upstream, piece.to_vec())));
    }
    steps
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_call() {
    const ROUNDS: u32 = 1000;
    for streams in [1, 10, 50] {
        let steps = calls(streams, ROUNDS);
        let best = (0..20).map(|_| {
            let mut observer = Http2Observer::new(Arc::new(Nowhere));
            for (from, bytes) in script([]) {
                observer.bytes(from, &bytes);
            }
            let start = Instant::now();
            for (from, bytes) in &steps {
                observer.bytes(*from, bytes);
            }
            let took = start.elapsed();
            assert!(observer.is_idle());
            took.as_nanos() / u128::from(streams * ROUNDS)
        });
        println!("{streams} streams at a time: {} ns a call", best.min().unwrap());
    }
}

//! Two clients and two endpoints send a relay of HTTP/2 any bytes in any interleaving: what it writes is
//! frames, and what it holds is bounded.
//!
//! The input is pieces. The first byte of one says the peer in two bits, and what comes of it in the
//! others: so many bytes that the peer sends, as they are or as the payload of a frame whose head follows
//! from the next bytes; or that it reads; or that it has ended.

#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir_http::h2::frames::PREFACE;
use weir_http::h2::relay::{End, Limits, PeerId, Relay};
use weir_http::{Choice, Endpoints, Exchange, ExchangeEnd, ExchangeSink, Lease, Untracked};

/// What may be held: windows, outputs, and tables.
const MEMORY: usize = 32 << 20;

struct Two;
struct Nothing;

impl Endpoints for Two {
    type Lease = Nothing;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<Nothing>> {
        let address = [address(0), address(1)].into_iter().find(|it| !tried.contains(it))?;
        Some(Choice { address, connect_timeout: None, lease: Nothing })
    }
}

impl Lease for Nothing {
    fn over(&mut self, _: &Exchange) {}
}

impl ExchangeSink for Nothing {
    fn request_started(&self) {}
    fn exchange(&self, _: Exchange) {}
    fn downgraded(&self, _: Untracked) {}
}

/// Follows the frames that are written to one peer.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    has_preface: bool,
}

impl Output {
    fn read(&mut self, bytes: &[u8], is_endpoint: bool) {
        self.bytes.extend_from_slice(bytes);
        if is_endpoint && !self.has_preface && self.bytes.len() >= PREFACE.len() {
            assert!(self.bytes.starts_with(PREFACE));
            self.bytes.drain(..PREFACE.len());
            self.has_preface = true;
        }
        if is_endpoint && !self.has_preface {
            return;
        }
        while let Some(head) = self.bytes.get(..9) {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            assert!(head[3] <= 9 && head[5] < 0x80, "{head:?}");
            assert!(length <= 1 << 24);
            if self.bytes.len() < 9 + length {
                return;
            }
            self.bytes.drain(..9 + length);
        }
    }
}

struct Peers {
    relay: Relay<Nothing, Two>,
    peers: [PeerId; 4],
    outputs: [Output; 4],
}

impl Peers {
    fn new() -> Self {
        let mut relay = Relay::new(Two, Limits { connections: 2, ..Limits::default() });
        let clients = [0, 1].map(|_| PeerId::Client(relay.add_client(Arc::new(Nothing))));
        let upstreams = [0, 1].map(|it| PeerId::Upstream(relay.add_upstream(address(it))));
        let peers = [clients[0], clients[1], upstreams[0], upstreams[1]];
        let mut all = Self { relay, peers, outputs: Default::default() };
        all.peers.iter().for_each(|peer| {
            if matches!(peer, PeerId::Client(_)) {
                all.relay.read(*peer, PREFACE);
            }
            all.relay.read(*peer, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        });
        all
    }

    fn write(&mut self, of: usize, most: usize) {
        let peer = self.peers[of];
        let output = self.relay.output(peer);
        let count = output.len().min(most);
        self.outputs[of].read(&output[..count], of >= 2);
        self.relay.written(peer, count);
    }

    /// A connection has ended; the next one takes its place.
    fn end(&mut self, of: usize, end: End) {
        let peer = self.peers[of];
        self.relay.ended(peer, end);
        self.relay.remove(peer, ExchangeEnd::Cancelled);
        self.outputs[of] = Output::default();
        self.peers[of] = match peer {
            PeerId::Client(_) => PeerId::Client(self.relay.add_client(Arc::new(Nothing))),
            PeerId::Upstream(_) => {
                PeerId::Upstream(self.relay.add_upstream(address(of as u16 - 2)))
            }
        };
    }

    /// What the relay asks for cannot be had.
    fn dial(&mut self) {
        while let Some(dial) = self.relay.take_dials().pop() {
            self.relay.ended(PeerId::Upstream(dial.upstream), End::NotConnected);
            self.relay.remove(PeerId::Upstream(dial.upstream), ExchangeEnd::Cancelled);
        }
    }
}

fn address(endpoint: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000 + endpoint))
}

/// So many bytes at most.
fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(count.min(data.len()));
    *data = rest;
    taken
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut all = Peers::new();
    while let [first, ..] = take(&mut data, 1) {
        let (of, what) = (usize::from(first & 3), first >> 2);
        let peer = all.peers[of];
        match what {
            0 => all.end(of, End::Closed { acknowledged: None }),
            1 => all.end(of, End::Failed),
            2 => all.relay.ended(peer, End::Closed { acknowledged: None }),
            3 => all.write(of, usize::MAX),
            4 => all.write(of, 100),
            // A frame: kind, flags, and stream in a byte each; its payload as long as the fourth says.
            5..40 => {
                let [kind, flags, stream, length] = take(&mut data, 4) else { return };
                let payload = take(&mut data, usize::from(*length));
                let length = payload.len() as u8;
                let head = [0, 0, length, *kind, *flags, 0, 0, 0, *stream];
                all.relay.read(peer, &[&head, payload].concat());
            }
            // Content that is longer than what stands here.
            40..44 => {
                let [stream, length] = take(&mut data, 2) else { return };
                let length = usize::from(*length) * 64;
                let size = (length as u32).to_be_bytes();
                let head = [size[1], size[2], size[3], 0, 0, 0, 0, 0, *stream];
                all.relay.read(peer, &[&head[..], &vec![0; length]].concat());
            }
            44 => all.relay.shed(),
            45 => all.relay.leave_all(),
            46 => all.relay.retire_all(),
            _ => all.relay.read(peer, take(&mut data, usize::from(what))),
        }
        all.dial();
        let memory = all.relay.memory();
        assert!(memory <= MEMORY, "{memory} bytes");
    }
    (0..4).for_each(|of| all.write(of, usize::MAX));
});

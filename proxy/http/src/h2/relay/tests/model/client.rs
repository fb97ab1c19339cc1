//! A client of a model: what it asks for, and what it expects.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::super::wire::{Seen, frame, headers, padded, request_fields, reset};
use super::super::world::World;
use super::Manner;
use super::link::Link;
use crate::h2::frames::PREFACE;

/// Open at a time.
const STREAMS: usize = 12;
const TRAILERS: [(&str, &str); 1] = [("x-checksum", "1")];

pub(super) struct Client {
    pub(super) link: Link,
    next: u32,
    exchanges: BTreeMap<u32, Exchange>,
}

/// What a path says: `/seed/request/response/trailers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) request: usize,
    pub(super) response: usize,
    pub(super) has_trailers: bool,
}

#[derive(Debug)]
struct Exchange {
    plan: Plan,
    outgoing: Outgoing,
    incoming: Incoming,
}

/// Content that is being sent, to its end.
#[derive(Debug)]
pub(super) struct Outgoing {
    seed: u64,
    size: usize,
    has_trailers: bool,
    sent: usize,
    pub(super) has_ended: bool,
}

/// Content that is coming.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    has_head: bool,
    count: usize,
    pub(super) has_ended: bool,
}

// === impl Plan ===

impl Plan {
    fn draw(rng: &mut Rng, manner: Manner) -> Self {
        let mut size = || match manner.is_stuck {
            true => 200_000,
            false => Self::size(rng),
        };
        let (request, response) = (size(), size());
        Self { seed: rng.u64(..1 << 40), request, response, has_trailers: rng.bool() }
    }

    fn size(rng: &mut Rng) -> usize {
        match rng.u8(..8) {
            0 => 0,
            1 => 1,
            2 | 3 => rng.usize(..500),
            4 | 5 => rng.usize(..20_000),
            6 => rng.usize(..100_000),
            _ => rng.usize(..600_000),
        }
    }

    fn path(self) -> String {
        let Self { seed, request, response, has_trailers } = self;
        format!("/{seed}/{request}/{response}/{has_trailers}")
    }

    pub(super) fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        Self {
            seed: parts[0].parse().unwrap(),
            request: parts[1].parse().unwrap(),
            response: parts[2].parse().unwrap(),
            has_trailers: parts[3].parse().unwrap(),
        }
    }
}

// === impl Outgoing ===

impl Outgoing {
    pub(super) const fn new(seed: u64, size: usize, has_trailers: bool) -> Self {
        Self { seed, size, has_trailers, sent: 0, has_ended: false }
    }

    /// Sends a frame, if it may; whether it has.
    pub(super) fn send(
        &mut self,
        link: &mut Link,
        rng: &mut Rng,
        stream: u32,
        most: usize,
    ) -> bool {
        if self.has_ended {
            return false;
        }
        let left = self.size - self.sent;
        if left == 0 {
            self.has_ended = true;
            match self.has_trailers {
                true => link.put(&headers(stream, &TRAILERS, true)),
                false => link.put(&frame(0, 1, stream, b"")),
            }
            return true;
        }
        let padding = if rng.u8(..8) == 0 { rng.u8(..) } else { 0 };
        let extra = if padding > 0 { usize::from(padding) + 1 } else { 0 };
        let allowed = link.allowed(stream).min(16_384).min(most);
        let Some(count) = allowed.checked_sub(extra).map(|it| it.min(left)) else { return false };
        if count == 0 {
            return false;
        }
        let bytes: Vec<u8> = (0..count).map(|at| byte(self.seed, self.sent + at)).collect();
        self.sent += count;
        let end = self.sent == self.size && !self.has_trailers && rng.bool();
        self.has_ended = end;
        match padding {
            0 => link.put(&frame(0, u8::from(end), stream, &bytes)),
            _ => link.put(&padded(stream, &bytes, padding, end)),
        }
        link.sent(stream, count + extra);
        true
    }
}

// === impl Incoming ===

impl Incoming {
    /// Another frame of the stream; the content is to be so long.
    pub(super) fn see(&mut self, seen: &Seen, (seed, size): (u64, usize), has_trailers: bool) {
        assert!(!self.has_ended, "{seen:?} behind the end");
        match seen {
            Seen::Headers { fields, .. } if fields[0].1 == "103" => {
                assert!(!self.has_head, "a late interim head");
                return;
            }
            Seen::Headers { end, .. } if !self.has_head => {
                (self.has_head, self.has_ended) = (true, *end);
            }
            Seen::Headers { fields, end, .. } => {
                assert!(has_trailers && *end, "{fields:?}");
                assert_eq!((fields[0].0.as_str(), fields[0].1.as_str()), TRAILERS[0]);
                self.has_ended = true;
            }
            Seen::Data { bytes, end, .. } => {
                for got in bytes {
                    assert_eq!(*got, byte(seed, self.count), "byte {} of {seed}", self.count);
                    self.count += 1;
                }
                assert!(!*end || !has_trailers, "no trailers");
                self.has_ended = *end;
            }
            _ => unreachable!("{seen:?}"),
        }
        assert!(self.has_head, "content without a head");
        assert!(!self.has_ended || self.count == size, "{} of {size} bytes", self.count);
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(world: &mut World, rng: &mut Rng) -> Self {
        let mut link = Link::new(world.silent_client());
        link.put(PREFACE);
        link.say([65_535, 0, 1, 1 << 20][rng.usize(..4)], &[(1, [4096, 0, 100][rng.usize(..3)])]);
        Self { link, next: 1, exchanges: BTreeMap::new() }
    }

    pub(super) fn step(
        &mut self,
        world: &mut World,
        rng: &mut Rng,
        manner: Manner,
        requests: &mut u64,
    ) {
        match rng.u8(..16) {
            0 | 1 if self.exchanges.len() < STREAMS => {
                self.ask(rng, manner);
                *requests += 1;
            }
            2..7 => self.send(rng, manner),
            7..9 => self.link.vary(rng),
            9 if manner.is_rude => self.give_up(rng),
            10..13 => self.read(world, rng.usize(..40_000)),
            _ => self.link.flush_pieces(world, rng, manner.is_slow),
        }
    }

    fn ask(&mut self, rng: &mut Rng, manner: Manner) {
        let plan = Plan::draw(rng, manner);
        let number = self.next;
        self.next += 2 * rng.u32(1..3);
        self.link.open(number);
        let mut outgoing = Outgoing::new(plan.seed, plan.request, plan.has_trailers);
        outgoing.has_ended = plan.request == 0 && !plan.has_trailers && rng.bool();
        self.link.put(&headers(number, &request_fields(&plan.path()), outgoing.has_ended));
        let exchange = Exchange { plan, outgoing, incoming: Incoming::default() };
        self.exchanges.insert(number, exchange);
    }

    fn send(&mut self, rng: &mut Rng, manner: Manner) {
        if manner.is_stuck {
            for (number, exchange) in &mut self.exchanges {
                while exchange.outgoing.send(&mut self.link, rng, *number, 16_384) {}
            }
            return;
        }
        let numbers: Vec<u32> = self.exchanges.keys().copied().collect();
        let Some(number) = rng.choice(numbers) else { return };
        let most = [1, 100, 16_384][rng.usize(..3)];
        let exchange = self.exchanges.get_mut(&number).expect("an exchange");
        exchange.outgoing.send(&mut self.link, rng, number, most);
    }

    fn give_up(&mut self, rng: &mut Rng) {
        let numbers: Vec<u32> = self.exchanges.keys().copied().collect();
        if let Some(number) = rng.choice(numbers).filter(|_| rng.u8(..8) == 0) {
            self.link.put(&reset(number, 8));
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        self.exchanges.remove(&number);
        self.link.forget(number);
    }

    fn read(&mut self, world: &mut World, most: usize) {
        for seen in world.see_some(self.link.which, most) {
            self.link.follow(&seen);
            match &seen {
                Seen::Headers { stream, .. } | Seen::Data { stream, .. } => {
                    let Some(exchange) = self.exchanges.get_mut(stream) else { continue };
                    let Plan { seed, response, has_trailers, .. } = exchange.plan;
                    exchange.incoming.see(&seen, (!seed, response), has_trailers);
                    if exchange.outgoing.has_ended && exchange.incoming.has_ended {
                        self.forget(*stream);
                    }
                }
                // A peer was rude, and has said so.
                Seen::Reset { stream, code } => {
                    assert!(matches!(code, 0 | 2 | 7 | 8), "{seen:?}");
                    self.forget(*stream);
                }
                Seen::GoAway { .. } => panic!("{seen:?}"),
                _ => {}
            }
        }
        let done = |it: &Exchange| it.outgoing.has_ended && it.incoming.has_ended;
        let done: Vec<u32> =
            self.exchanges.iter().filter(|it| done(it.1)).map(|it| *it.0).collect();
        done.into_iter().for_each(|number| self.forget(number));
    }

    /// Sends and reads what there is; whether there was anything.
    pub(super) fn go_on(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let mut has_moved = self.link.flush(world, usize::MAX);
        has_moved |= !world.relay.output(self.link.which).is_empty();
        self.read(world, usize::MAX);
        has_moved |= self.link.allow_all();
        for (number, exchange) in &mut self.exchanges {
            has_moved |= exchange.outgoing.send(&mut self.link, rng, *number, 16_384);
        }
        has_moved
    }

    pub(super) fn assert_done(&self) {
        assert!(self.exchanges.is_empty(), "{:?}: {:?}", self.link.which, self.exchanges);
    }
}

// === helpers ===

/// Of content.
fn byte(seed: u64, at: usize) -> u8 {
    (seed.wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

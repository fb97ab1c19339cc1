//! A connection to an endpoint of a model, which answers what it is asked.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::super::wire::{Seen, go_away, reset, response};
use super::super::world::World;
use super::Manner;
use super::client::{Incoming, Outgoing, Plan};
use super::link::Link;

pub(super) struct Endpoint {
    pub(super) link: Link,
    exchanges: BTreeMap<u32, Exchange>,
    /// The highest stream.
    last: u32,
    /// It takes no streams above this one.
    gone: Option<u32>,
}

struct Exchange {
    plan: Plan,
    incoming: Incoming,
    /// It has begun to answer.
    outgoing: Option<Outgoing>,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn accept(world: &mut World, rng: &mut Rng, manner: Manner) -> Self {
        let mut link = Link::new(world.connect_silent());
        let streams = [1, 3, 100][rng.usize(..3)];
        let table = [4096, 0, 100][rng.usize(..3)];
        let window = if manner.is_stuck { 0 } else { [65_535, 0, 1, 1 << 20][rng.usize(..4)] };
        link.say(window, &[(3, streams), (1, table)]);
        Self { link, exchanges: BTreeMap::new(), last: 0, gone: None }
    }

    /// It has said so, and nothing is left to be done.
    pub(super) fn has_gone_away(&self) -> bool {
        self.gone.is_some() && self.exchanges.is_empty()
    }

    pub(super) fn step(&mut self, world: &mut World, rng: &mut Rng, manner: Manner) {
        match rng.u8(..16) {
            0..6 => {
                let most = [1, 100, 16_384][rng.usize(..3)];
                self.answer(rng, most, false);
            }
            6..8 if !manner.is_stuck => self.link.vary(rng),
            8 if manner.is_rude => self.be_rude(rng),
            9..13 => self.read(world, rng.usize(..40_000)),
            _ => self.link.flush_pieces(world, rng, manner.is_slow),
        }
    }

    /// Sends a part of one response, or of all; whether it has sent anything.
    fn answer(&mut self, rng: &mut Rng, most: usize, of_all: bool) -> bool {
        let mut numbers: Vec<u32> = self.exchanges.keys().copied().collect();
        if !of_all {
            numbers = rng.choice(numbers).into_iter().collect();
        }
        let mut has_sent = false;
        for number in numbers {
            let exchange = self.exchanges.get_mut(&number).expect("an exchange");
            let Plan { seed, response: size, has_trailers, .. } = exchange.plan;
            match &mut exchange.outgoing {
                None if exchange.incoming.has_ended || rng.bool() => {
                    if rng.u8(..8) == 0 {
                        self.link.put(&response(number, "103", false));
                    }
                    let mut outgoing = Outgoing::new(!seed, size, has_trailers);
                    outgoing.has_ended = size == 0 && !has_trailers && rng.bool();
                    self.link.put(&response(number, "200", outgoing.has_ended));
                    exchange.outgoing = Some(outgoing);
                    has_sent = true;
                }
                None => has_sent |= of_all,
                Some(outgoing) => has_sent |= outgoing.send(&mut self.link, rng, number, most),
            }
            self.settle(number);
        }
        has_sent
    }

    fn settle(&mut self, number: u32) {
        let is_over = self.exchanges.get(&number).is_some_and(|it| {
            it.incoming.has_ended && it.outgoing.as_ref().is_some_and(|it| it.has_ended)
        });
        if is_over {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        self.exchanges.remove(&number);
        self.link.forget(number);
    }

    /// Resets a stream, refuses one, or goes away.
    fn be_rude(&mut self, rng: &mut Rng) {
        let numbers: Vec<u32> = self.exchanges.keys().copied().collect();
        match rng.u8(..24) {
            0 if self.gone.is_none() => {
                // Some that have come already may not have been looked at.
                let is_begun = |it: &&Exchange| it.outgoing.is_some();
                let begun = self.exchanges.iter().filter(|(_, it)| is_begun(it));
                let last = begun.map(|it| *it.0).max().unwrap_or_default();
                self.link.put(&go_away(last, 0));
                self.gone = Some(last);
                numbers.into_iter().filter(|it| *it > last).for_each(|it| self.forget(it));
            }
            1 | 2 => {
                let Some(number) = rng.choice(numbers) else { return };
                let is_begun = self.exchanges[&number].outgoing.is_some();
                self.link.put(&reset(number, if is_begun { 8 } else { 7 }));
                self.forget(number);
            }
            3 => {
                // It has answered, and wants nothing more of the request.
                let is_one =
                    |it: &&u32| self.exchanges[it].outgoing.as_ref().is_some_and(|it| it.has_ended);
                let Some(number) = numbers.iter().find(is_one).copied() else { return };
                self.link.put(&reset(number, 0));
                self.forget(number);
            }
            _ => {}
        }
    }

    fn read(&mut self, world: &mut World, most: usize) {
        for seen in world.see_some(self.link.which, most) {
            self.link.follow(&seen);
            match &seen {
                Seen::Headers { stream, fields, .. } if *stream > self.last => {
                    self.last = *stream;
                    if self.gone.is_some_and(|gone| *stream > gone) {
                        continue;
                    }
                    let plan = Plan::of(&fields[3].1);
                    self.link.open(*stream);
                    let incoming = Incoming::default();
                    self.exchanges.insert(*stream, Exchange { plan, incoming, outgoing: None });
                    self.see(*stream, &seen);
                }
                Seen::Headers { stream, .. } | Seen::Data { stream, .. } => {
                    self.see(*stream, &seen);
                }
                Seen::Reset { stream, code } => {
                    assert_eq!(*code, 8, "only clients reset");
                    self.forget(*stream);
                }
                Seen::GoAway { .. } => panic!("{seen:?}"),
                _ => {}
            }
        }
    }

    fn see(&mut self, number: u32, seen: &Seen) {
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        let Plan { seed, request, has_trailers, .. } = exchange.plan;
        exchange.incoming.see(seen, (seed, request), has_trailers);
        self.settle(number);
    }

    /// Sends and reads what there is; whether there was anything.
    pub(super) fn go_on(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let mut has_moved = self.link.flush(world, usize::MAX);
        has_moved |= !world.relay.output(self.link.which).is_empty();
        self.read(world, usize::MAX);
        has_moved |= self.link.allow_all();
        has_moved | self.answer(rng, 16_384, true)
    }
}

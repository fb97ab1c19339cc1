//! Random peers, windows, segments and schedules: every byte arrives in order and once, no window is
//! overdrawn, nothing dead-locks, and nothing is left behind.

mod client;
mod endpoint;
mod link;

use fastrand::Rng;

use self::client::Client;
use self::endpoint::Endpoint;
use super::world::World;
use super::{End, Limits, PeerId, checks};

/// What a peer does next is drawn from so many steps, before everything is to come to its end.
const STEPS: usize = 400;
/// Rounds in which everything comes to its end, if all are willing.
const ROUNDS: usize = 20_000;
/// What all may hold together, besides some for each stream.
const MEMORY: usize = 1 << 20;
const STREAM: usize = (2 * 256 + 128) << 10;

/// A relay between such peers.
struct Model {
    rng: Rng,
    world: World,
    clients: Vec<Client>,
    endpoints: Vec<Endpoint>,
    requests: u64,
}

/// How a model behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Peers reset streams, refuse them, and go away.
    is_rude: bool,
    /// Content goes in few bytes.
    is_slow: bool,
    /// There is much of it, and no endpoint takes any before everything comes to its end.
    is_stuck: bool,
}

// === impl Model ===

impl Model {
    fn new(seed: u64) -> (Self, Manner) {
        let mut rng = Rng::with_seed(seed);
        let manner =
            Manner { is_rude: rng.bool(), is_slow: rng.u8(..8) == 0, is_stuck: rng.u8(..8) == 0 };
        let limits = Limits { connections: rng.usize(1..4), ..Limits::default() };
        let mut world = World::with(rng.u16(1..4), limits);
        let clients = (0..rng.usize(1..6)).map(|_| Client::new(&mut world, &mut rng)).collect();
        (Self { rng, world, clients, endpoints: Vec::new(), requests: 0 }, manner)
    }

    fn step(&mut self, manner: Manner) {
        self.accept(manner);
        let Self { rng, world, clients, endpoints, requests } = self;
        let of = rng.usize(..clients.len() + endpoints.len());
        match clients.get_mut(of) {
            Some(client) => client.step(world, rng, manner, requests),
            None => endpoints[of - clients.len()].step(world, rng, manner),
        }
        self.close(manner);
        let most = MEMORY + self.world.relay.streams.len() * STREAM;
        assert!(self.world.relay.memory() <= most, "{} bytes", self.world.relay.memory());
    }

    /// Connections that were asked for are made.
    fn accept(&mut self, manner: Manner) {
        while self.world.dialled() > 0 {
            let endpoint = Endpoint::accept(&mut self.world, &mut self.rng, manner);
            self.endpoints.push(endpoint);
        }
    }

    /// Connections that are to be closed are, and those that are over.
    fn close(&mut self, manner: Manner) {
        let Self { world, endpoints, rng, .. } = self;
        endpoints.retain_mut(|endpoint| {
            let which = endpoint.link.which;
            let is_done = world.relay.is_closing(which) && world.relay.output(which).is_empty();
            let is_dead = manner.is_rude && endpoint.has_gone_away() && rng.u8(..16) == 0;
            if is_dead {
                world.end(which, End::Closed { acknowledged: None });
            }
            if is_done || is_dead {
                world.remove(which);
            }
            !is_done && !is_dead
        });
    }

    /// All are willing: everything comes to its end.
    fn finish(&mut self) {
        let manner = Manner { is_rude: false, is_slow: false, is_stuck: false };
        for _ in 0..ROUNDS {
            self.accept(manner);
            let mut has_moved = false;
            for client in &mut self.clients {
                has_moved |= client.go_on(&mut self.world, &mut self.rng);
            }
            for endpoint in &mut self.endpoints {
                has_moved |= endpoint.go_on(&mut self.world, &mut self.rng);
            }
            self.close(manner);
            if !has_moved && self.world.dialled() == 0 {
                break;
            }
        }
        for client in &self.clients {
            client.assert_done();
            assert!(!self.world.relay.is_closing(client.link.which));
        }
        assert_eq!(self.world.relay.streams.len(), 0, "streams");
        assert_eq!(checks::leases(&self.world.relay), 0);
        assert_eq!(self.world.exchanges().len() as u64, self.requests, "reports");
        for which in self.world.relay.clients.iter().map(|(id, _)| PeerId::Client(id)) {
            assert!(self.world.relay.is_idle(which));
        }
    }
}

// === helpers ===

fn run(seed: u64) -> usize {
    let guard = Seed(seed);
    let (mut model, manner) = Model::new(seed);
    (0..STEPS).for_each(|_| model.step(manner));
    model.finish();
    std::mem::forget(guard);
    STEPS
}

/// Says which model has failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("the seed is {}", self.0);
    }
}

#[test]
fn every_byte_arrives_in_order_and_once() {
    let first = fastrand::u64(..);
    (0..25).for_each(|number| {
        run(first.wrapping_add(number));
    });
}

/// A million steps: minutes.
#[test]
#[ignore = "takes minutes"]
fn every_byte_arrives_in_order_and_once_in_a_million_steps() {
    let first = fastrand::u64(..);
    eprintln!("seeds from {first}");
    let mut steps = 0;
    let mut seed = first;
    while steps < 1_000_000 {
        steps += run(seed);
        seed = seed.wrapping_add(1);
    }
}

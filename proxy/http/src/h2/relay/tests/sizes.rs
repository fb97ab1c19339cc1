//! What connections and streams take.

use super::*;

/// Room in tables that grow by doubling, and the slab's.
const DOUBLED: usize = 2;

#[test]
fn an_open_stream_takes_few_bytes_besides_what_it_holds() {
    let stream = size_of::<Stream<dyn ExchangeSink, Box<dyn Send>>>();
    assert!(stream <= 496, "{stream} bytes");
}

#[test]
fn an_idle_client_takes_few_bytes_also_when_it_was_busy() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(3, 1000)]);
    let before = of_client(&world, client);
    for number in (3..).step_by(2).take(999) {
        world.relay.read(client, &request(number, "/", true));
    }
    for number in (3..).step_by(2).take(999) {
        world.relay.read(endpoint, &response(number, "200", true));
    }
    world.see(client);
    world.see(endpoint);
    let after = of_client(&world, client);
    eprintln!("an idle client takes {before} bytes, and {after} after 999 streams");
    assert!(before <= 2 << 10, "{before} bytes");
    assert!(after <= (DOUBLED * 2) << 10, "{after} bytes");
}

fn of_client(world: &World, client: PeerId) -> usize {
    let PeerId::Client(id) = client else { unreachable!() };
    size_of::<Client<dyn ExchangeSink>>() + world.relay.clients[id].peer.memory()
}

//! CONNECT, and its extension by RFC 8441.

use super::wire::data;
use super::*;

fn assert_tunnel(world: &mut World, client: PeerId, endpoint: PeerId, fields: &[(&str, &str)]) {
    world.exchanges();
    world.send(client, &wire::headers(3, fields, false));
    assert_eq!(world.frames(endpoint), [Seen::headers(3, fields, false)]);
    world.send(endpoint, &response(3, "200", false));
    world.send(client, &data(3, b"to", false));
    world.send(endpoint, &data(3, b"fro", false));
    assert_eq!(world.frames(endpoint), [Seen::data(3, b"to", false)]);
    assert_eq!(world.frames(client)[1..], [Seen::data(3, b"fro", false)]);
    world.send(endpoint, &data(3, b"", true));
    assert_eq!(world.frames(client), [Seen::data(3, b"", true)]);
    assert_eq!(world.counts.in_flight.get(), 1);
    world.send(client, &data(3, b"last", true));
    assert_eq!(world.frames(endpoint), [Seen::data(3, b"last", true)]);
    let exchange = world.exchanges().remove(0);
    assert_eq!(exchange.end, ExchangeEnd::Tunnel);
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (6, 3));
    assert_eq!(world.counts.in_flight.get(), 0);
}

#[test]
fn connect_is_a_tunnel() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    let fields = [(":method", "CONNECT"), (":authority", "shop:443")];
    assert_tunnel(&mut world, client, endpoint, &fields);
}

#[test]
fn extended_connect_is_a_tunnel_where_it_was_offered() {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/chat"),
    ];
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(8, 1)]);
    assert_tunnel(&mut world, client, endpoint, &fields);
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &wire::headers(3, &fields, false));
    assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code: 1 }]);
    assert_eq!(world.frames(endpoint), []);
}

#[test]
fn a_connect_that_was_refused_is_an_exchange() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.exchanges();
    let fields = [(":method", "CONNECT"), (":authority", "shop:443")];
    world.send(client, &wire::headers(3, &fields, false));
    world.send(endpoint, &[response(3, "403", true), wire::reset(3, 0)].concat());
    let seen = world.frames(client);
    assert_eq!(seen[1], Seen::Reset { stream: 3, code: 0 });
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
}

//! What knowing services costs a connection, and what a change of their endpoints costs.

use std::{net::SocketAddr, sync::Arc};

use divan::{Bencher, black_box};
use weir::service::{
    Address, Delta, Origin, PortSpec, ServiceSpec, Services, SlicePort, SliceSpec,
    kubernetes::parse_json,
};

const FRONTEND: &str = "10.96.0.1:80";

fn main() {
    divan::main();
}

fn service(number: u32) -> Delta {
    let frontend = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a60_0001 + number), 80));
    let port = PortSpec { name: "".into(), frontends: vec![frontend], app_protocol: None };
    let spec = ServiceSpec { ports: vec![port], ..ServiceSpec::default() };
    Delta::Service(format!("bench/{number}").into(), spec)
}

fn slice(name: &str, first: u32, count: u32) -> Delta {
    let address = |number| Address::new(std::net::Ipv4Addr::from_bits(0x0a80_0000 + number).into());
    Delta::Slice(SliceSpec {
        name: name.into(),
        service: "bench/0".into(),
        ports: vec![SlicePort { name: "".into(), port: 8080 }],
        addresses: (first..first + count).map(address).collect(),
    })
}

fn services(count: u32, endpoints: u32) -> Services {
    let services = Services::default();
    services.apply(Origin::Cluster, (0..count).map(service)).expect("nothing is refused");
    let slices = (0..endpoints.div_ceil(100))
        .map(|at| slice(&format!("bench/{at}"), at * 100, (endpoints - at * 100).min(100)));
    services.apply(Origin::Cluster, slices).expect("nothing is refused");
    services
}

#[divan::bench(args = [0, 1, 10_000])]
fn a_destination_that_is_no_service(bencher: Bencher<'_, '_>, count: u32) {
    let services = services(count, 0);
    let destination = "10.1.2.3:80".parse().expect("an address");
    bencher.bench_local(|| services.find(black_box(destination)).is_some());
}

#[divan::bench(args = [2, 10, 16, 100, 1000])]
fn a_destination_and_the_choice_of_its_endpoint(bencher: Bencher<'_, '_>, endpoints: u32) {
    let services = services(1000, endpoints);
    let destination = FRONTEND.parse().expect("an address");
    bencher.bench_local(|| {
        let target = services.find(black_box(destination)).expect("a service");
        let endpoints = services.endpoints(&target);
        let choice = target.choose(&endpoints, &[]).expect("an endpoint");
        let stats = Arc::clone(&endpoints.all()[choice.member].stats);
        stats.begin()
    });
}

/// Divided by a thousand, the part of a core that a thousand of them a second take.
#[divan::bench(args = [100, 1000])]
fn a_change_of_a_slice_of_a_service_in_use(bencher: Bencher<'_, '_>, endpoints: u32) {
    let services = services(1000, endpoints);
    let target = services.find(FRONTEND.parse().expect("an address")).expect("a service");
    // From here on it is in use.
    let _ = services.endpoints(&target);
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = 1 - turn;
        let change = slice("bench/0", turn, 100 - turn);
        services.apply(Origin::Cluster, [change]).expect("nothing is refused");
    });
}

#[divan::bench]
fn a_slice_of_a_hundred_endpoints_is_read(bencher: Bencher<'_, '_>) {
    let endpoint = |number: u32| {
        format!(
            r#"{{"addresses":["10.1.0.{number}"],"conditions":{{"ready":true,"serving":true,
            "terminating":false}},"nodeName":"node-{number}","zone":"a","targetRef":{{"kind":"Pod",
            "name":"shop-{number}","namespace":"bench","uid":"{number:032x}"}}}}"#
        )
    };
    let endpoints: Vec<_> = (0..100).map(endpoint).collect();
    let text = format!(
        r#"{{"kind":"EndpointSlice","metadata":{{"name":"a","namespace":"bench","labels":
        {{"kubernetes.io/service-name":"shop"}}}},"addressType":"IPv4","ports":[{{"port":80}}],
        "endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    bencher.bench_local(|| parse_json(black_box(&text)).expect("it is right").len());
}

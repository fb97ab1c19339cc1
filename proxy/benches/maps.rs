//! What the kernel's maps cost the proxy: per accept, per change of the policy, per learned
//! destination. Needs root; the maps are of this process alone and vanish with it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use weir::capture::{AcceptedFrom, Heartbeat, Instance, InstanceOptions, Originals, WorkloadMaps};
use weir::decision::Source;
use weir::ports::{PolicyInput, PortPolicy, PortSet};
use weir_common::{Direction, PortState};

static INSTANCE: LazyLock<Arc<Instance>> = LazyLock::new(|| {
    Arc::new(Instance::open(&InstanceOptions::default()).expect("root, and a kernel with BPF"))
});
static ORIGINALS: LazyLock<Originals> =
    LazyLock::new(|| Originals::new(&INSTANCE).expect("the map is there"));

fn main() {
    divan::main();
}

/// A workload that captures nothing.
fn workload() -> WorkloadMaps {
    WorkloadMaps::new(Arc::clone(&INSTANCE), 1, false)
}

fn destination() -> SocketAddr {
    (Ipv4Addr::new(10, 1, 2, 3), 443).into()
}

/// Once per accept: the look-up of the original destination. Of a connection that was not
/// redirected, as nothing but a hook writes these maps: both look-ups, where a redirected one needs
/// the first only.
#[divan::bench]
fn original_destination(bencher: Bencher<'_, '_>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("it listens");
    let (accepted, peer) = listener.accept().expect("a client has connected");
    let from = AcceptedFrom { workload: 1, netns_cookie: 1 };
    bencher.bench_local(|| {
        ORIGINALS.take(&accepted, from, peer).expect("maps that can be read").is_none()
    });
    drop(client);
}

/// Once per heartbeat.
#[divan::bench(sample_size = 1000)]
fn heartbeat() {
    Heartbeat::beat(&INSTANCE).expect("a map that can be written");
}

/// `weir ports skip 443`.
#[divan::bench(sample_size = 1000)]
fn one_port() {
    workload()
        .ports
        .set(Direction::Outbound, 443, PortState::Skip, Source::Cli, false)
        .expect("a map that can be written");
}

/// A start with so many skipped ports, scattered.
#[divan::bench(args = [10, 1_000, 10_000], sample_count = 20, sample_size = 1)]
fn policy(bencher: Bencher<'_, '_>, ports: u16) {
    let skip = PortSet::from_ranges((0..ports).map(|n| (1024 + 3 * n, 1024 + 3 * n)));
    let policy = PortPolicy::new(
        PolicyInput { skip, ..PolicyInput::default() },
        PolicyInput::default(),
        Source::Config,
    );
    let kernel = workload();
    bencher
        .counter(ItemsCount::new(ports))
        .bench_local(|| kernel.ports.set_policy(&policy).expect("maps that can be written"));
}

/// A start with so many skipped prefixes.
#[divan::bench(args = [10, 1_000], sample_count = 20, sample_size = 1)]
fn prefixes(bencher: Bencher<'_, '_>, count: u16) {
    let prefixes: HashSet<(IpAddr, u8)> = (0..count)
        .map(u16::to_be_bytes)
        .map(|[high, low]| (Ipv4Addr::new(10, high, low, 0).into(), 24))
        .collect();
    let kernel = workload();
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| kernel.prefixes.set(&prefixes).expect("a map that can be written"));
}

/// A destination is learned, asked for by `weir explain`, and forgotten.
#[divan::bench(sample_size = 1000)]
fn bypass() {
    let (kernel, destination) = (workload(), destination());
    let way = Direction::Outbound;
    kernel
        .bypasses
        .add(way, destination, Duration::from_secs(60))
        .expect("a map that can be written");
    assert!(kernel.bypasses.remaining(way, destination).expect("a map that can be read").is_some());
    kernel.bypasses.remove(way, destination).expect("a map that can be written");
}

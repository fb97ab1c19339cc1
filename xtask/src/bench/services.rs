//! `cargo xtask bench services`: what a list of endpoints takes, and what the choice of an endpoint costs a
//! connection and a request. The bars are those of issues 15 and 16.

mod requests;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_tests::netns::ip;

use super::control::Weir;
use super::ground::Place;
use super::peer::Peer;
use super::report::median;
use super::usage::{Usage, cpu};

/// Numbers of endpoints, and what they may take in MiB.
const LISTS: [(usize, f64); 2] = [(10_000, 1.5), (100_000, 12.0)];
/// Endpoints of a service, as in a full EndpointSlice.
const SLICE: usize = 100;
/// Processor time that a first list of 10,000 may take.
const LIST_MS: f64 = 150.0;
/// A connection to a service by one without.
const CONNECT: f64 = 1.05;

/// A weir has taken everything in once it has rested for so long.
const REST: Duration = Duration::from_secs(1);
/// And it does within this time.
const LIMIT: Duration = Duration::from_secs(120);

const PORT: u16 = 8800;
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 88, 0, 11), Ipv4Addr::new(10, 88, 0, 12)];
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 13);

/// Flags of `cargo xtask bench services`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench services
  cargo xtask bench services --rounds 20 --connections 500")]
pub(crate) struct Args {
    /// Rounds of connections, with and without a service by turns
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Connections of each kind in a round
    #[arg(long, default_value_t = 200)]
    connections: usize,
}

pub(super) fn run(args: &Args, instance: &str) -> Result<()> {
    let mut text = String::new();
    for (count, bar) in LISTS {
        list(&mut text, instance, count, bar)?;
    }
    connections(&mut text, instance, args)?;
    requests::measure(&mut text, instance, args)?;
    print!("{text}");
    Ok(())
}

/// What so many endpoints take.
fn list(text: &mut String, instance: &str, count: usize, bar: f64) -> Result<()> {
    let files = tempfile::tempdir()?;
    let objects = files.path().join("objects");
    std::fs::create_dir(&objects)?;
    let flags = ["--objects-dir".to_owned(), objects.display().to_string()];
    let (weir, _) = Weir::start_with(instance, files.path(), 0, &flags)?;
    // Once before: the parser's own memory and code is there then.
    std::fs::write(objects.join("0.json"), objects_of(0..SLICE).to_string())?;
    rest(weir.pid())?;
    let (before, began) = (Usage::of(weir.pid())?, cpu(weir.pid())?);
    let file = objects_of(SLICE..SLICE + count).to_string();
    write_whole(&objects, "1.json", &file)?;
    let rested = rest(weir.pid())?;
    let after = Usage::of(weir.pid())?;
    let spent = cpu(weir.pid())?.saturating_sub(began).saturating_sub(rested);
    weir.stop()?;
    let mib = (after.private_kib as f64 - before.private_kib as f64) / 1024.0;
    writeln!(text, "{count} endpoints: {mib:.2} MiB (bar {bar})")?;
    let ms = spent.as_secs_f64() * 1e3;
    let bar = if count == 10_000 { format!(" (bar {LIST_MS})") } else { String::new() };
    writeln!(text, "{count} endpoints: {ms:.0} ms of processor time for the first list{bar}")?;
    Ok(())
}

/// Waits until nothing is done any more. Returns the processor time of the last rest, which has nothing
/// to do with what was done before.
fn rest(pid: u32) -> Result<Duration> {
    let (begin, mut busy) = (Instant::now(), true);
    sleep(REST);
    loop {
        let before = cpu(pid)?;
        sleep(REST);
        let spent = cpu(pid)?.saturating_sub(before);
        let is_resting = spent < Duration::from_millis(20);
        if is_resting && !busy {
            return Ok(spent);
        }
        busy = !is_resting;
        ensure!(begin.elapsed() < LIMIT, "weir does not come to rest");
    }
}

fn write_whole(dir: &Path, name: &str, text: &str) -> Result<()> {
    let new = dir.join(format!(".{name}"));
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, dir.join(name))?)
}

/// Services of [`SLICE`] endpoints each, as `kubectl get -o json` shows them.
fn objects_of(endpoints: std::ops::Range<usize>) -> Value {
    let address = |at: usize| Ipv4Addr::from_bits(0x0a80_0000 + u32::try_from(at).unwrap_or(0));
    let services = endpoints.step_by(SLICE).flat_map(|first| {
        let name = format!("service-{first}");
        let vip = Ipv4Addr::from_bits(0x0a60_0000 + u32::try_from(first / SLICE).unwrap_or(0));
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "bench", "labels": {"app": name}},
            "spec": {"clusterIP": vip.to_string(), "clusterIPs": [vip.to_string()],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
        });
        let endpoints: Vec<_> = (first..first + SLICE)
            .map(|at| {
                json!({
                    "addresses": [address(at).to_string()],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": format!("node-{}", at % 500), "zone": format!("zone-{}", at % 3),
                    "targetRef": {"kind": "Pod", "name": format!("{name}-{at:x}"),
                        "namespace": "bench", "uid": format!("{at:032x}")},
                })
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-abcde"), "namespace": "bench",
                "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        });
        [service, slice]
    });
    json!({"apiVersion": "v1", "kind": "List", "items": services.collect::<Vec<_>>()})
}

/// A captured connection to a service by one to a plain address, in one interleaved run.
fn connections(text: &mut String, instance: &str, args: &Args) -> Result<()> {
    let place = Place::new(0)?;
    for address in SERVERS {
        ip(&["-n", place.netns.name(), "addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    let peer = |serve: bool, address: Ipv4Addr| {
        let words = Peer::arguments(serve, SocketAddr::from((address, PORT)))?;
        let mut command = place.netns.command(&words[0]);
        command.args(&words[1..]);
        Peer::start(if serve { command } else { place.cgroup.wrap(&command) })
    };
    let _servers = [peer(true, SERVERS[0])?, peer(true, SERVERS[1])?];
    let files = tempfile::tempdir()?;
    let service = format!("{SERVICE}:{PORT}={}:{PORT},{}:{PORT}", SERVERS[0], SERVERS[1]);
    let (weir, _) =
        Weir::start_with(instance, files.path(), 0, &["--service".to_owned(), service])?;
    weir.add(&place)?;
    let mut plain = peer(false, SERVERS[0])?;
    let mut chosen = peer(false, SERVICE)?;
    let (mut took, mut spent) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=args.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let client = if which == 0 { &mut plain } else { &mut chosen };
            let before = cpu(weir.pid())?;
            let times = client.visit(args.connections)?;
            let cpu = cpu(weir.pid())?.saturating_sub(before);
            // The first round fills caches.
            if round > 0 {
                took[which].push(median(times));
                spent[which].push(cpu.as_secs_f64() * 1e6 / args.connections as f64);
            }
        }
    }
    let connections = weir.proxied(&place.name)?;
    let expected = (args.rounds + 1) * args.connections * 2;
    ensure!(connections >= expected as u64 - 2, "{connections} of {expected} were captured");
    weir.remove(&place)?;
    weir.stop()?;
    let ratio = |of: &[Vec<f64>; 2]| {
        let ratios = of[1].iter().zip(&of[0]).map(|(chosen, plain)| chosen / plain);
        median(ratios.collect())
    };
    let [plain_us, chosen_us] = took.clone().map(median);
    writeln!(
        text,
        "a connection to a service by one to an address: {:.3} of the time ({chosen_us:.0} by \
         {plain_us:.0} us), {:.3} of weir's processor time (bar {CONNECT})",
        ratio(&took),
        ratio(&spent)
    )?;
    Ok(())
}

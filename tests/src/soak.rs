//! Soak: one weir, hundreds of thousands of connections of all kinds, and a look at what it holds
//! whenever none is open: memory, descriptors, entries of its maps. Whatever a connection leaves
//! behind adds up.

pub mod holdings;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, Run};
use crate::left::nothing_left;
use crate::load::{Half, Kind, Plan, Trip};
use crate::netns::ip;
use crate::pods::{CLIENT, POD, Pods};
use crate::process::wait_until;

pub use holdings::Holdings;
pub use report::{Report, Sample};

/// Clients of each kind, in each direction.
const CLIENTS: [(Kind, usize); 12] = [
    (Kind::ClientFirst, 3),
    (Kind::ServerFirst, 3),
    (Kind::Steady, 3),
    (Kind::Silent, 3),
    (Kind::Http1, 3),
    (Kind::Http1Kept, 3),
    (Kind::Http2, 3),
    (Kind::Tls, 2),
    (Kind::Slow, 1),
    (Kind::ClientResets, 3),
    (Kind::ServerResets, 3),
    (Kind::Refused, 2),
];
/// Another address of the client host, which is exempted.
const SKIPPED: &str = "10.77.0.9";
/// Connections between two looks, if that makes a sensible number of looks.
const ROUND: usize = 1000;
/// Small bodies: it is the number of connections that matters.
const BITS: u32 = 12;
/// Longest that one round, or the rest after it, may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least so many.
    pub connections: usize,
    /// The program `weir-load`.
    pub load: PathBuf,
    /// More flags of weir.
    pub flags: Vec<String>,
}

/// Does it.
///
/// # Errors
///
/// Fails when a connection does, and when anything is left behind. Whether what was held stayed the
/// same is for the report to say.
pub fn run(settings: &Settings) -> Result<Report> {
    let pods = Pods::new()?;
    let (pod, host) = (&pods.pod_a, &pods.client_a);
    let address = format!("{SKIPPED}/24");
    ip(&["-n", host.netns.name(), "addr", "add", &address, "dev", "eth0"])?;
    let run = Run::new(&pods.node, pods.dir()).flags(&settings.flags);
    let run = run.flags(&["--skip-cidrs", SKIPPED]);
    let mut daemon = run.workload("pod-a", pod.cgroup(), Some(&pod.netns)).start()?;
    let serve = |netns, name| Half::serve(&settings.load, netns, name, pods.dir());
    let servers = [serve(&host.netns, "servers-host")?, serve(&pod.netns, "servers-pod")?];

    let rounds = settings.connections.div_ceil(ROUND).clamp(8, 40);
    let round = settings.connections.div_ceil(rounds);
    let mut samples = Vec::new();
    let (mut connections, mut proxied) = (0, 0);
    // What weir makes once, at the first connections, is no leak.
    visit(settings, &pods, 0, round)?;
    for number in 1..=rounds {
        let trips = visit(settings, &pods, number, round)?;
        connections += trips.len();
        proxied += trips.iter().filter(|trip| trip.proxied() == Some(true)).count();
        let holdings = at_rest(&daemon, &pods, samples.first().map(|it: &Sample| &it.holdings))?;
        eprintln!("{connections:>8} connections: {holdings}");
        samples.push(Sample { connections, holdings });
    }

    for half in servers {
        half.stop()?;
        drop(half.finish()?);
    }
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())?;
    Ok(Report { connections, proxied, samples })
}

/// So many connections and a few more, all of which must go well.
fn visit(settings: &Settings, pods: &Pods, round: usize, count: usize) -> Result<Vec<Trip>> {
    let (pod, host) = (&pods.pod_a.netns, &pods.client_a.netns);
    let plan = Plan {
        limit: PATIENCE,
        clients: CLIENTS.to_vec(),
        most: count,
        rest: 0,
        bits: BITS,
        stay: false,
        ..Plan::default()
    };
    let start = |name: &str, netns, to: &[&str]| {
        let name = format!("{name}-{round}");
        Half::visit(&settings.load, netns, (&name, pods.dir()), to, &plan)
    };
    let out = [&CLIENT[..], &[SKIPPED]].concat();
    let mut halves = [start("out", pod, &out)?, start("in", host, &POD)?];
    wait_until(&format!("{count} connections"), PATIENCE, || {
        let done = halves.iter_mut().map(Half::count).sum::<Result<usize>>()?;
        Ok(done >= count)
    })?;
    let mut trips = Vec::new();
    for half in &halves {
        half.stop()?;
    }
    for half in halves {
        trips.extend(half.finish_and_forget()?);
    }
    let lost = trips.iter().find(|trip| !trip.is_well());
    ensure!(lost.is_none(), "a connection was lost: {lost:#?}");
    Ok(trips)
}

/// What weir holds once no connection is open, and descriptors and entries are back to what they
/// were, if they ever are; the first time, once two looks see the same.
fn at_rest(daemon: &Daemon, pods: &Pods, first: Option<&Holdings>) -> Result<Holdings> {
    let mut holdings = None;
    // Whether it came back is judged later: here it only has the time.
    let _judged_later = wait_until("weir to be at rest", Duration::from_secs(60), || {
        let now = Holdings::of(daemon, &[&pods.node, &pods.pod_a.netns])?;
        let before = first.or(holdings.as_ref());
        let rests = now.is_idle() && before.is_some_and(|before| before.is_as_before(&now));
        holdings = Some(now);
        Ok(rests)
    });
    holdings.context("weir does not say what it holds")
}

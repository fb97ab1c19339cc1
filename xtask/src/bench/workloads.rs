//! `cargo xtask bench workloads`: one weir gets more and more workloads; on the way the price of each
//! is taken, of its connections, and of doing nothing.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::control::Weir;
use super::ground::{Inhabited, Place};
use super::lives::{self, Lives};
use super::report::{self, Spread, median};
use super::usage::{Usage, cpu};

/// Numbers of workloads at which is measured, besides the last.
const STAGES: [usize; 4] = [1, 10, 50, 100];

/// A workload's time to add is the median of it and this many on each side.
const NEIGHBOURS: usize = 4;

/// Workloads that are connected from in turn: enough that each connection needs another namespace
/// than the one before.
const INHABITED: usize = 8;

/// How long idleness is watched: some hundred ticks of the fastest timer.
const IDLE: Duration = Duration::from_secs(5);

/// Time for what a change has set going to end, such as the end of the last connections.
const SETTLE: Duration = Duration::from_millis(500);

/// Flags of `cargo xtask bench workloads`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench workloads
  cargo xtask bench workloads --count 50 --rounds 3 -o json")]
pub(crate) struct Args {
    /// How many workloads in the end: 1 to 1000
    #[arg(long, default_value_t = 250, value_parser = in_range(1, 1000))]
    count: usize,
    /// Rounds of connections at each number of workloads: 1 to 100
    #[arg(long, default_value_t = 5, value_parser = in_range(1, 100))]
    rounds: usize,
    /// Connections of each kind in a round: 8 to 1000
    #[arg(long, default_value_t = 200, value_parser = in_range(8, 1000))]
    connections: usize,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
}

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) machine: report::Machine,
    /// Without a workload.
    pub(super) empty: Usage,
    pub(super) stages: Vec<Stage>,
    pub(super) lives: Vec<Lives>,
}

/// With so many workloads.
#[derive(Serialize)]
pub(super) struct Stage {
    pub(super) workloads: usize,
    /// Milliseconds from connect(2) on the control socket to the answer, for the workloads about
    /// this one.
    pub(super) add_ms: Spread,
    /// Processor time of weir for each of these.
    pub(super) add_cpu_ms: f64,
    pub(super) usage: Usage,
    /// Microseconds of processor time per second without a connection.
    pub(super) idle_us_per_s: f64,
    /// From one workload.
    pub(super) one: Connections,
    /// From up to [`INHABITED`] of them in turn.
    pub(super) in_turn: Connections,
}

/// The price of connections: microseconds from connect(2) to the end of a 64-byte echo.
#[derive(Serialize)]
pub(super) struct Connections {
    pub(super) from: usize,
    pub(super) direct_us: Spread,
    pub(super) proxied_us: Spread,
    /// Processor time of weir per connection.
    pub(super) cpu_us: f64,
}

/// What adding one workload took.
struct Added {
    wall_ms: f64,
    cpu_ms: f64,
}

pub(super) fn run(args: &Args, instance: &str) -> Result<()> {
    let files = tempfile::tempdir()?;
    eprintln!("making {} network namespaces and cgroups …", args.count);
    let places = (0..args.count).map(Place::new).collect::<Result<Vec<_>>>()?;
    let mut inhabited =
        places.iter().take(INHABITED).map(Place::inhabit).collect::<Result<Vec<_>>>()?;
    let (weir, _) = Weir::start(instance, files.path(), 0)?;
    sleep(SETTLE);
    let empty = Usage::of(weir.pid())?;
    let mut added = Vec::new();
    let mut stages = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let before = cpu(weir.pid())?;
        let wall_ms = millis(weir.add(place)?);
        added.push(Added { wall_ms, cpu_ms: millis(cpu(weir.pid())?.saturating_sub(before)) });
        let count = index + 1;
        if STAGES.contains(&count) || count == args.count {
            eprintln!("measuring with {count} …");
            let live = inhabited.len().min(count);
            stages.push(stage(&weir, count, &mut inhabited[..live], args)?);
        }
    }
    for stage in &mut stages {
        let near = near(&added, stage.workloads);
        stage.add_ms = Spread::of(near.iter().map(|it| it.wall_ms).collect());
        stage.add_cpu_ms = median(near.iter().map(|it| it.cpu_ms).collect());
    }
    let few = (args.count / 5).max(1);
    let lives = lives::measure(weir, instance, files.path(), &places, few)?;
    let figures = Figures { machine: report::Machine::here(args.rounds)?, empty, stages, lives };
    match args.output {
        Form::Table => print!("{}", report::tables(&figures)),
        Form::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    Ok(())
}

fn stage(weir: &Weir, workloads: usize, live: &mut [Inhabited], args: &Args) -> Result<Stage> {
    sleep(SETTLE);
    let usage = Usage::of(weir.pid())?;
    let before = cpu(weir.pid())?;
    sleep(IDLE);
    let idle = cpu(weir.pid())?.saturating_sub(before);
    Ok(Stage {
        workloads,
        add_ms: Spread::default(),
        add_cpu_ms: 0.0,
        usage,
        idle_us_per_s: micros(idle) / IDLE.as_secs_f64(),
        one: connections(weir, &mut live[..1], args)?,
        in_turn: connections(weir, live, args)?,
    })
}

/// Rounds of direct and proxied connections by turns, from one workload after the other.
fn connections(weir: &Weir, live: &mut [Inhabited], args: &Args) -> Result<Connections> {
    // The first ones of a workload also fill caches.
    visit(live, true, live.len() * 4)?;
    visit(live, false, live.len() * 4)?;
    let seen = proxied(weir, live)?;
    let (mut direct, mut through, mut spent) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        for captured in [round % 2 == 0, round % 2 == 1] {
            let before = cpu(weir.pid())?;
            let took = visit(live, captured, args.connections)?;
            if captured {
                // Most of what a connection costs is in there, but for the end of the last one.
                let cpu = cpu(weir.pid())?.saturating_sub(before);
                spent.push(micros(cpu) / args.connections as f64);
                through.extend(took);
            } else {
                direct.extend(took);
            }
        }
    }
    sleep(SETTLE);
    let expected = args.rounds * args.connections;
    let seen = usize::try_from(proxied(weir, live)? - seen)?;
    ensure!(seen == expected, "{seen} connections went through weir instead of {expected}");
    Ok(Connections {
        from: live.len(),
        direct_us: Spread::of(direct),
        proxied_us: Spread::of(through),
        cpu_us: median(spent),
    })
}

fn visit(live: &mut [Inhabited], captured: bool, times: usize) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(times);
    let each = if live.len() == 1 { times } else { 1 };
    let mut next = 0;
    while took.len() < times {
        let at = &mut live[next];
        let peer = if captured { &mut at.captured } else { &mut at.direct };
        took.extend(peer.visit(each)?);
        next = (next + 1) % live.len();
    }
    Ok(took)
}

/// Connections that weir has proxied, after the last one was closed.
fn proxied(weir: &Weir, live: &[Inhabited]) -> Result<u64> {
    sleep(SETTLE);
    live.iter().map(|it| weir.proxied(&it.workload)).sum()
}

/// The workloads about the n-th.
fn near(added: &[Added], n: usize) -> &[Added] {
    let first = n.saturating_sub(1 + NEIGHBOURS);
    &added[first..(n + NEIGHBOURS).min(added.len())]
}

// === helpers ===

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn in_range(
    least: usize,
    most: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().map_err(|error| format!("{error}"))?;
        let allowed = least..=most;
        allowed.contains(&number).then_some(number).ok_or(format!("not in {least} to {most}"))
    }
}

//! `cargo xtask bench proxies`: weir against other proxies, in one run, by turns. In each round every
//! cell is measured over every way, and each round begins with another one; a proxy is started anew
//! for each measurement, and is the only one that runs.

mod arena;
mod bars;
mod cells;
pub(crate) mod client;
mod descriptors;
mod gauge;
mod machine;
mod paths;
mod peers;
mod plot;
mod proxy;
mod report;
mod results;
mod stats;
mod tools;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use arena::Arena;
use cells::Cell;
use descriptors::Descriptors;
use machine::Machine;
use paths::Way;
use proxy::{Cores, Proxy, Site};
use results::{Figures, Sample, Samples};

/// What a measurement takes beside the seconds of its load, for the estimate.
const OVERHEAD: f64 = 0.6;

/// Ways of `--quick`.
const QUICK: [&str; 7] =
    ["direct", "weir-skip", "weir-opaque", "weir-detect", "haproxy-http", "envoy-", "haproxy-tcp"];

/// Flags of `cargo xtask bench proxies`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench proxies --quick
  cargo xtask bench proxies --only weir-detect,haproxy-http --cells http1-50 --rounds 9
  cargo xtask bench proxies --write")]
pub(crate) struct Args {
    /// Only the ways whose names begin with one of these, such as weir-,envoy
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Only the cells whose names begin with one of these, such as http1,stream-1
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    cells: Vec<String>,
    /// How long the load of a cell lasts: 1 to 60
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Rounds [default: 5, of --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// One thread for each proxy, or as many as there are processors [default: both, of --quick one]
    #[arg(long, value_enum)]
    cores: Option<Cores>,
    /// A few cells and ways, in about five minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to docs/bench/ and not to target/bench/
    #[arg(long)]
    write: bool,
    /// Name the ways and cells that would be measured, and how long that takes
    #[arg(long)]
    list: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            cells: Vec::new(),
            seconds: 1,
            rounds: None,
            cores: None,
            quick: false,
            write: false,
            list: false,
        }
    }
}

/// What will be measured.
struct Plan {
    ways: Vec<Way>,
    cells: Vec<Cell>,
    cores: Vec<Cores>,
    rounds: usize,
    seconds: u64,
    notes: Vec<String>,
}

/// Both namespaces, and where files go.
struct Ground<'a> {
    plain: Arena,
    tracked: Option<Arena>,
    dir: &'a Path,
    instance: &'a str,
    descriptors: Descriptors,
}

/// What has to be there before the enclosed part.
///
/// # Errors
///
/// Fails when something cannot be installed.
pub(super) fn prepare() -> Result<()> {
    tools::install()
}

/// # Errors
///
/// Fails without root.
pub(super) fn run(root: &Path, args: &Args, instance: &str) -> Result<()> {
    let descriptors = Descriptors::raise()?;
    let mut plan = Plan::new(args)?;
    plan.notes.extend(descriptors.note());
    eprintln!("{}", plan.summary());
    if args.list {
        return Ok(());
    }
    let files = tempfile::tempdir()?;
    let tracked = plan.ways.iter().any(Way::is_redirected);
    let ground = Ground {
        plain: Arena::new("plain", files.path())?,
        tracked: tracked.then(|| Arena::new("tracked", files.path())).transpose()?,
        dir: files.path(),
        instance,
        descriptors,
    };
    let machine = Machine::here(root, plan.rounds)?;
    let samples = plan.measure(&ground)?;
    let folder = root.join(if args.write { "docs/bench" } else { "target/bench" });
    let text = report::write(&folder, &plan, &machine, &samples)?;
    print!("{text}");
    let failed = samples.iter().filter(|it| it.failure.is_some() && it.way.starts_with("weir"));
    match failed.count() {
        0 => Ok(()),
        count => bail!("weir failed in {count} measurements; the report says in which"),
    }
}

// === impl Plan ===

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let (mut ways, notes) = Way::all()?;
        let named = |list: &[String], name: String| {
            list.is_empty() || list.iter().any(|part| name.starts_with(part.as_str()))
        };
        let quick = |way: &Way| {
            let name = way.to_string();
            QUICK.iter().any(|part| name.starts_with(part))
                && !name.ends_with("skmsg")
                && !name.ends_with("ports")
        };
        ways.retain(|way| named(&args.only, way.to_string()) && (!args.quick || quick(way)));
        let mut cells = Cell::all();
        cells.retain(|cell| {
            named(&args.cells, cell.to_string()) && (!args.quick || cell.is_quick())
        });
        ensure!(!ways.is_empty(), "no way has such a name: {}", args.only.join(","));
        ensure!(!cells.is_empty(), "no cell has such a name: {}", args.cells.join(","));
        let cores = match args.cores {
            Some(cores) => vec![cores],
            None if args.quick => vec![Cores::One],
            None => vec![Cores::One, Cores::All],
        };
        let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
        Ok(Self { ways, cells, cores, rounds: rounds as usize, seconds: args.seconds, notes })
    }

    fn summary(&self) -> String {
        let names = |list: Vec<String>| list.join(" ");
        let minutes =
            self.measurements() as f64 * self.rounds as f64 * (self.seconds as f64 + OVERHEAD)
                / 60.0;
        format!(
            "ways: {}\ncells: {}\n{} rounds of {} measurements: about {minutes:.0} minutes\n{}",
            names(self.ways.iter().map(Way::to_string).collect()),
            names(self.cells.iter().map(Cell::to_string).collect()),
            self.rounds,
            self.measurements(),
            self.notes.join("\n"),
        )
    }

    /// In a round.
    fn measurements(&self) -> usize {
        let fitting = |cores| {
            let fits = |cell: &Cell| self.ways.iter().filter(|way| cell.fits(way, cores)).count();
            self.cells.iter().map(fits).sum::<usize>()
        };
        self.cores.iter().map(|cores| fitting(*cores)).sum()
    }

    fn measure(&self, ground: &Ground<'_>) -> Result<Samples> {
        let mut samples = Samples::default();
        for round in 0..self.rounds {
            for cores in &self.cores {
                let used = |cell: &&Cell| self.ways.iter().any(|way| cell.fits(way, *cores));
                for cell in self.cells.iter().filter(used) {
                    eprintln!("round {} of {}, {cores} core(s): {cell}", round + 1, self.rounds);
                    self.turns(ground, (round, *cores, *cell), &mut samples);
                }
            }
        }
        ensure!(samples.iter().next().is_some(), "none of these ways fits one of these cells");
        Ok(samples)
    }

    /// Every way once, beginning with another one in each round.
    fn turns(
        &self,
        ground: &Ground<'_>,
        (round, cores, cell): (usize, Cores, Cell),
        samples: &mut Samples,
    ) {
        let mut ways: Vec<_> = self.ways.iter().filter(|way| cell.fits(way, cores)).collect();
        // By more than one, so that neighbours change too where the number allows it.
        let first = (round * 3) % ways.len().max(1);
        ways.rotate_left(first);
        for (turn, way) in ways.into_iter().enumerate() {
            let result = ground.measure(way, cell, cores, self.seconds);
            let failure = result.as_ref().err().map(|error| format!("{error:#}"));
            if let Some(failure) = &failure {
                eprintln!("  {way} failed in {cell}: {failure}");
            }
            samples.push(Sample {
                cores: cores.name(),
                cell: cell.to_string(),
                way: way.to_string(),
                round,
                turn,
                figures: result.ok(),
                failure,
            });
        }
    }
}

// === impl Ground ===

impl Ground<'_> {
    fn measure(&self, way: &Way, cell: Cell, cores: Cores, seconds: u64) -> Result<Figures> {
        let tracked = self.tracked.as_ref().filter(|_| way.is_redirected());
        let arena = tracked.unwrap_or(&self.plain);
        let Self { dir, instance, descriptors, .. } = *self;
        let site = Site { arena, dir, cores, instance, descriptors };
        if cell == Cell::Exec {
            return cells::exec(way, site);
        }
        if cell == Cell::Start {
            let (proxy, figures) = cells::start(way, site)?;
            proxy.stop()?;
            return Ok(figures);
        }
        let proxy = Proxy::start(way, site)?;
        let figures = cell.measure(&proxy, seconds).with_context(|| proxy.log());
        let stopped = proxy.stop();
        let figures = figures?;
        stopped?;
        Ok(figures)
    }
}

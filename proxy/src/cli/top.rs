//! `weir top`: the busiest destinations, endpoints or services of a running weir, again and again: on a
//! terminal as a screen with keys, elsewhere as text or JSON.

mod shown;
mod terminal;
mod view;

use std::{
    io::{self, IsTerminal},
    num::NonZeroU64,
    sync::mpsc::{self, TryRecvError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, ensure};
use ratatui::crossterm::event::{self, Event};

use self::{
    shown::{First, Shown},
    terminal::Terminal,
    view::{Sample, View},
};
use super::{
    Exit,
    by::{By, used_services},
    control::WorkloadArgs,
    output::{Format, OutputArgs, write_stdout},
    with_exit,
};
use crate::{
    admin::protocol::SampleStat,
    json,
    service::Spread,
    table::Width,
    telemetry::stats::{self, Order, Rate},
    units::{human_duration, parse_duration, rfc3339},
};

/// How long a new sample waits at most until it is shown.
const TICK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  weir top
  weir top --sort failures --interval 5s
  weir top --by name
  weir top --by process
  weir top --by service
  weir top --count 1 -o json | jq '.rows[0]'

Values are per second, over the last interval; P50 and P99 are those of the requests that ended in
it, and of TLS connections those of handshakes. On a terminal all rows are on a screen: q quits, s changes the order, f filters, p pauses, h has
all keys. With --count, or elsewhere, each interval is printed, and without --count the command runs
until it is interrupted. By service, SKEW is the most connections that an endpoint got in the
interval, divided by the mean; REQ SKEW the same of requests, and BALANCED what it would be if each
request was balanced by itself.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What a row is about
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Length of an interval, such as 500ms or 5s; 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Sort order
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Number of rows where they are printed
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    rows: usize,
    /// Print this many intervals, and exit
    #[arg(short, long, value_name = "NUMBER")]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed of an interval as JSON.
#[derive(serde::Serialize)]
struct Top<'a> {
    time: String,
    interval_ms: u64,
    #[serde(flatten)]
    first: First<'a>,
}

/// Waits for an interval, and tells what has happened in it.
type Next = Box<dyn FnMut() -> anyhow::Result<Sample> + Send>;

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.by == By::Service && !matches!(args.sort, Order::Requests | Order::Connections) {
        let error = anyhow!("--by service has requests and connections only to sort by");
        return Err(with_exit(error, Exit::Usage));
    }
    let next = match args.by.rows() {
        Some(by) => rows(args, by)?,
        None => services(args)?,
    };
    let is_screen = args.count.is_none()
        && args.output.output == Format::Table
        && io::stdin().is_terminal()
        && io::stdout().is_terminal();
    if is_screen { screen(args, next) } else { print(args, next) }
}

fn rows(args: &Args, by: stats::By) -> anyhow::Result<Next> {
    let (weir, order) = (args.weir.clone(), args.sort);
    let look = move || weir.ask(SampleStat { by });
    watch(args.interval, look, move |before, after, took| {
        Shown::Rows(Rate::between(before, after, took, order))
    })
}

fn services(args: &Args) -> anyhow::Result<Next> {
    let (weir, order) = (args.weir.clone(), args.sort);
    let look = move || used_services(&weir);
    watch(args.interval, look, move |before, after, took| {
        let between = Spread::between(before, after);
        let rates = between.into_iter().map(|it| it.per_second(took)).collect();
        let mut shown = Shown::Services(rates);
        shown.sort(order, false);
        shown
    })
}

/// What has happened between two looks, again and again. Looks once before it returns.
fn watch<T: Send + 'static>(
    interval: Duration,
    look: impl Fn() -> anyhow::Result<T> + Send + 'static,
    between: impl Fn(&T, &T, Duration) -> Shown + Send + 'static,
) -> anyhow::Result<Next> {
    let (mut before, mut then) = (look()?, Instant::now());
    Ok(Box::new(move || {
        thread::sleep(interval);
        let (after, now) = (look()?, Instant::now());
        let took = now - then;
        let shown = between(&before, &after, took);
        (before, then) = (after, now);
        Ok(Sample { time: SystemTime::now(), took, shown })
    }))
}

/// Prints intervals, with an empty line between two of them.
fn print(args: &Args, mut next: Next) -> anyhow::Result<Exit> {
    let mut intervals = 0;
    loop {
        let sample = next()?;
        write_stdout(text(&sample, args)?.as_bytes())?;
        intervals += 1;
        if args.count.is_some_and(|count| intervals >= count.get()) {
            return Ok(Exit::Success);
        }
    }
}

fn text(sample: &Sample, args: &Args) -> anyhow::Result<String> {
    let Sample { time, took, shown } = sample;
    if args.output.output == Format::Json {
        let top = Top {
            time: rfc3339(*time),
            interval_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            first: shown.first(args.rows),
        };
        return Ok(json::to_string(&top)? + "\n");
    }
    let count = args.rows.min(shown.len());
    let (time, took) = (rfc3339(*time), human_duration(*took));
    let head = format!("{time}, {took}: {count} of {} {}", shown.len(), args.by.several());
    let table = shown.head(args.rows).table().print(Width::of_stdout());
    Ok(format!("{head}\n\n{table}\n"))
}

/// Shows intervals on a screen until a key ends that.
fn screen(args: &Args, mut next: Next) -> anyhow::Result<Exit> {
    // A look may take as long as weir does, and keys do not wait for it.
    let (sender, samples) = mpsc::sync_channel(1);
    let looks = thread::Builder::new().name("looks".to_owned());
    looks
        .spawn(move || {
            loop {
                let sample = next();
                let is_last = sample.is_err();
                if sender.send(sample).is_err() || is_last {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    let mut terminal = Terminal::take().context("cannot use this terminal; try --count 1")?;
    let mut view = View::new(args.by.name(), args.sort);
    loop {
        terminal.draw(|frame| view.render(frame))?;
        while event::poll(TICK)? {
            match event::read()? {
                Event::Key(key) if view.key(key) => return Ok(Exit::Success),
                _ => {}
            }
            terminal.draw(|frame| view.render(frame))?;
        }
        match samples.try_recv() {
            Ok(sample) => view.update(sample?),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(anyhow!("the reading thread has ended")),
        }
    }
}

fn interval(text: &str) -> anyhow::Result<Duration> {
    let interval = parse_duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    ensure!(range.contains(&interval), "an interval must be 100ms to 1h");
    Ok(interval)
}

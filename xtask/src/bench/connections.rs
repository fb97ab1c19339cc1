//! `cargo xtask bench connections`: what weir asks of the kernel for one captured short connection, by
//! system call, thread and BPF program. Counts, so that the load of the machine does not matter.

mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use nix::sys::signal::Signal;
use serde::Serialize;
use weir_tests::process::{Process, wait_until};

use self::trace::Calls;
use super::control::Weir;
use super::ground::{Inhabited, Place};
use super::report::Machine;

/// Time for what the last connections have set going to end.
const SETTLE: Duration = Duration::from_millis(500);
/// How long strace(1) may take to attach and to detach.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections before the first that counts: they fill stocks and caches.
const FIRST: usize = 32;

/// Flags of `cargo xtask bench connections`.
#[derive(clap::Args)]
#[command(after_help = "\
The weir that is looked at is WEIR_BIN, or the release build. Needs strace(1).

Examples:
  cargo xtask bench connections
  cargo xtask bench connections --workers 2 --connect immediate
  WEIR_BIN=target/debug/weir cargo xtask bench connections --count 200 -o json")]
pub(crate) struct Args {
    /// Connections, one after the other: 1 to 5000
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=5000))]
    count: u64,
    /// `--workers` of weir
    #[arg(long, default_value_t = 1)]
    workers: u64,
    /// `--connect` of weir
    #[arg(long, value_enum, default_value_t = Connect::Hold)]
    connect: Connect,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Connect {
    Hold,
    Immediate,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
}

/// Everything that was counted, for one connection.
#[derive(Serialize)]
struct Account {
    machine: Machine,
    connections: u64,
    workers: u64,
    connect: &'static str,
    /// System calls by name, and thread.
    calls: BTreeMap<String, BTreeMap<String, f64>>,
    /// Of all kinds.
    sum: f64,
    /// How often a thread has waited, and was put off its processor, without strace(1).
    switches: BTreeMap<String, Switches>,
    /// Runs of weir's BPF programs.
    programs: BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Switches {
    voluntary: f64,
    involuntary: f64,
}

pub(super) fn run(args: &Args, instance: &str) -> Result<()> {
    let files = tempfile::tempdir()?;
    let machine = Machine::here(1)?;
    let connect = args.connect.name();
    let flags = [format!("--workers={}", args.workers), format!("--connect={connect}")];
    let place = Place::new(0)?;
    let mut inhabited = place.inhabit()?;
    let (weir, _) = Weir::start_with(instance, files.path(), 0, &flags)?;
    weir.add(&place)?;
    visit(&weir, &mut inhabited, FIRST as u64)?;
    let (switches, programs) = beside(&weir, &mut inhabited, args.count)?;
    let calls = traced(&weir, &mut inhabited, args.count, files.path())?;
    weir.stop()?;
    super::control::detach(instance)?;
    let calls = calls.each(args.count);
    let sum = calls.values().flat_map(BTreeMap::values).sum();
    let account = Account {
        machine,
        connections: args.count,
        workers: args.workers,
        connect,
        calls,
        sum,
        switches,
        programs,
    };
    match args.output {
        Form::Table => print!("{}", account.tables()),
        Form::Json => println!("{}", serde_json::to_string_pretty(&account)?),
    }
    Ok(())
}

/// So many captured connections; fails where one was not.
fn visit(weir: &Weir, inhabited: &mut Inhabited, count: u64) -> Result<()> {
    let before = weir.proxied(&inhabited.workload)?;
    inhabited.captured.visit(usize::try_from(count)?)?;
    wait_until("the end of all connections", PATIENCE, || {
        Ok(weir.proxied(&inhabited.workload)? - before >= count)
    })
    .context("not all connections were captured")?;
    sleep(SETTLE);
    Ok(())
}

/// What is counted without slowing weir down: context switches and runs of programs.
fn beside(
    weir: &Weir,
    inhabited: &mut Inhabited,
    count: u64,
) -> Result<(BTreeMap<String, Switches>, BTreeMap<String, f64>)> {
    let _counting = enable_stats(Stats::RunTime).context("cannot count runs of BPF programs")?;
    let (switches, programs) = (switches(weir.pid())?, runs(weir.pid())?);
    visit(weir, inhabited, count)?;
    let (switches_after, programs_after) = (self::switches(weir.pid())?, runs(weir.pid())?);
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / count as f64;
    let mut by_name: BTreeMap<String, Switches> = BTreeMap::new();
    for (thread, (name, after)) in switches_after {
        let before = switches.get(&thread).map_or([0; 2], |(_, before)| *before);
        let sum = by_name.entry(name).or_default();
        sum.voluntary += each(after[0], before[0]);
        sum.involuntary += each(after[1], before[1]);
    }
    let mut programs_each: BTreeMap<String, f64> = BTreeMap::new();
    for (id, (name, after)) in programs_after {
        let before = programs.get(&id).map_or(0, |(_, before)| *before);
        *programs_each.entry(name).or_default() += each(after, before);
    }
    programs_each.retain(|_, runs| *runs >= 0.01);
    Ok((by_name, programs_each))
}

/// The system calls of weir during so many connections.
fn traced(weir: &Weir, inhabited: &mut Inhabited, count: u64, dir: &Path) -> Result<Calls> {
    let file: PathBuf = dir.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "0", "-o"]).arg(&file).arg("-p").arg(weir.pid().to_string());
    let mut strace = Process::start("strace", command, dir).context("strace(1) is needed")?;
    wait_until("strace to attach", PATIENCE, || {
        ensure!(strace.running()?, "strace ended: {}", strace.log());
        threads(weir.pid())?.iter().try_fold(true, |all, thread| {
            let status = fs::read_to_string(format!("/proc/{}/task/{thread}/status", weir.pid()))?;
            Ok(all && !status.lines().any(|line| line == "TracerPid:\t0"))
        })
    })?;
    let names = names(weir.pid())?;
    visit(weir, inhabited, count)?;
    strace.signal(Signal::SIGINT)?;
    strace.wait(PATIENCE)?;
    let text = fs::read_to_string(&file).context("strace has written nothing")?;
    Ok(Calls::read(&text, &names))
}

// === impl Connect ===

impl Connect {
    const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Immediate => "immediate",
        }
    }
}

// === impl Account ===

impl Account {
    fn tables(&self) -> String {
        let Self { machine, connections, workers, connect, sum, .. } = self;
        let mut threads: Vec<&String> =
            self.calls.values().flat_map(BTreeMap::keys).collect::<Vec<_>>();
        threads.sort();
        threads.dedup();
        let mut calls =
            table(["system call", "all"].into_iter().chain(threads.iter().map(|it| &***it)));
        for (name, by_thread) in &self.calls {
            let all: f64 = by_thread.values().sum();
            if all < 0.01 {
                continue;
            }
            let mut row = vec![name.clone(), number(all)];
            row.extend(
                threads.iter().map(|it| by_thread.get(*it).map_or(String::new(), |n| number(*n))),
            );
            calls.add_row(row);
        }
        let mut switches = table(["thread", "waits", "preemptions"].into_iter());
        for (name, Switches { voluntary, involuntary }) in &self.switches {
            switches.add_row([name.clone(), number(*voluntary), number(*involuntary)]);
        }
        let mut programs = table(["BPF program", "runs"].into_iter());
        for (name, runs) in &self.programs {
            programs.add_row([name.clone(), number(*runs)]);
        }
        format!(
            "{machine}\n{connections} connections, one after the other, --workers {workers} \
             --connect {connect}; for each of them:\n\n{} system calls\n\n{calls}\n\n{switches}\n\n\
             {programs}\n",
            number(*sum)
        )
    }
}

// === helpers ===

fn table<'a>(header: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn number(count: f64) -> String {
    format!("{count:.2}")
}

fn threads(pid: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).context("weir has ended")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// What each thread is called: workers alike.
fn names(pid: u32) -> Result<BTreeMap<u32, String>> {
    threads(pid)?
        .into_iter()
        .map(|thread| {
            let name = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"))?;
            let name = if thread == pid { "main" } else { name.trim() };
            let is_worker = name.starts_with("worker-");
            Ok((thread, if is_worker { "workers" } else { name }.to_owned()))
        })
        .collect()
}

/// Of each thread: how often it has waited, and how often it was put off its processor (proc(5)).
fn switches(pid: u32) -> Result<BTreeMap<u32, (String, [u64; 2])>> {
    names(pid)?
        .into_iter()
        .map(|(thread, name)| {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status"))?;
            let field = |name| super::usage::field(&status, name);
            let both = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"].map(field);
            Ok((thread, (name, both)))
        })
        .collect()
}

/// How often each of its programs has run.
fn runs(pid: u32) -> Result<BTreeMap<u32, (String, u64)>> {
    let own = super::usage::programs(pid)?;
    let programs = loaded_programs().filter_map(Result::ok);
    let own = programs.filter(|program| own.contains(&u64::from(program.id())));
    Ok(own
        .map(|program| {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            (program.id(), (name, program.run_count()))
        })
        .collect())
}

//! Request and response, short connections, and the start, with the clients of `client`.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::process::run;
use weir_tests::weir::binary;

use super::Load;
use crate::bench::proxies::arena::ECHO;
use crate::bench::proxies::client::{Started, Tally, now};
use crate::bench::proxies::gauge::Gauge;
use crate::bench::proxies::paths::Way;
use crate::bench::proxies::proxy::{Proxy, Site};
use crate::bench::proxies::results::{Figure, Figures};
use crate::bench::proxies::tools::load_command;
use crate::bench::report::median;
use crate::bench::usage;

/// A program that does nothing.
const TRUE: &str = "/bin/true";
/// How often it is started in a round.
const STARTS: usize = 9;
const LIMIT: Duration = Duration::from_secs(20);

/// # Errors
///
/// Fails when one connection does.
pub(super) fn exchange(
    proxy: &Proxy<'_>,
    bytes: usize,
    connections: usize,
    seconds: u64,
) -> Result<Load> {
    let tally = proxy.client(&mut |command| {
        command.args(["exchange", "--bytes", &bytes.to_string()]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.arg(proxy.way.address(ECHO).to_string());
    })?;
    load(&tally)
}

/// # Errors
///
/// Fails when one connection does.
pub(super) fn connect(proxy: &Proxy<'_>, at_once: usize, seconds: u64) -> Result<Load> {
    let tally = proxy.client(&mut |command| {
        command.args(["connect", "--at-once", &at_once.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.arg(proxy.way.address(ECHO).to_string());
    })?;
    load(&tally)
}

/// # Errors
///
/// Fails when no connection is proxied in time.
pub(super) fn start<'a>(way: &'a Way, site: Site<'a>) -> Result<(Proxy<'a>, Figures)> {
    let mut command = load_command(&site.arena.netns)?;
    command.arg("start").arg(way.address(ECHO).to_string());
    // It tries before there is a proxy, too: no connection that could be proxied is missed.
    let mut client = site.arena.client(&command).stdout(Stdio::piped()).spawn()?;
    let kernel = usage::kernel()?;
    let begin = now()?;
    let proxy = Proxy::start(way, site)?;
    let ended = client.wait()?;
    let mut line = String::new();
    client.stdout.take().context("stdout was asked for")?.read_to_string(&mut line)?;
    ensure!(ended.success(), "the client ended with {ended}; its message is above");
    let started: Started = serde_json::from_str(&line)?;
    let mut figures = Figures::default();
    figures.set(Figure::StartMs, (started.at - begin) * 1e3);
    figures.set(Figure::IdleMib, proxy.gauge.pss_kib() / 1024.0);
    figures.set(Figure::PeakMib, proxy.gauge.peak_kib() / 1024.0);
    figures.set(Figure::SlabMib, (usage::kernel()? as f64 - kernel as f64) / 1024.0);
    super::maps(&proxy, &mut figures);
    Ok((proxy, figures))
}

/// # Errors
///
/// Fails when it ends with another status than 0.
pub(super) fn exec(way: &Way, site: Site<'_>) -> Result<Figures> {
    let gauge = Gauge::new()?;
    let mut command = site.arena.netns.command(if way.is_weir() { binary()? } else { TRUE.into() });
    if way.is_weir() {
        command.args(["exec", "--summary"]).arg(site.dir.join("exec.txt")).args(["--", TRUE]);
    }
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let begin = now()?;
        run(&mut gauge.wrap(&command), LIMIT)?.ok()?;
        took.push((now()? - begin) * 1e3);
    }
    let mut figures = Figures::new([(Figure::StartMs, median(took))]);
    figures.set(Figure::CpuUs, gauge.cpu()?.as_secs_f64() * 1e6 / STARTS as f64);
    Ok(figures)
}

// === helpers ===

fn load(tally: &Tally) -> Result<Load> {
    ensure!(tally.count > 0, "nothing was answered");
    let mut figures = Figures::new([
        (Figure::Rate, tally.count as f64 / tally.seconds),
        (Figure::P50Us, tally.latency.p50),
        (Figure::P99Us, tally.latency.p99),
        (Figure::P999Us, tally.latency.p999),
    ]);
    if let Some(connect) = tally.connect {
        figures.set(Figure::Connect50Us, connect.p50);
        figures.set(Figure::Connect99Us, connect.p99);
    }
    Ok(Load { figures, units: tally.count as f64 })
}

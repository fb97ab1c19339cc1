//! Request and response, short connections, and the start, with the clients of `client`.

use std::io::Read;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::Load;
use crate::bench::proxies::arena::ECHO;
use crate::bench::proxies::client::{Started, Tally, now};
use crate::bench::proxies::paths::Way;
use crate::bench::proxies::proxy::{Proxy, Site};
use crate::bench::proxies::results::{Figure, Figures};
use crate::bench::proxies::tools::load_command;

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
    Ok((proxy, figures))
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

//! What is measured: one kind of traffic each.

pub(super) mod h2load;
mod idle;
mod iperf;
mod own;
mod wrk;

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::process::{Finished, run};

use super::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF};
use super::client::Probe;
use super::paths::{Way, Weir};
use super::proxy::{Cores, Proxy, Site};
use super::results::{Figure, Figures};

/// A client that takes so much longer than it was told to hangs.
const PATIENCE: Duration = Duration::from_secs(15);

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Http1 {
        connections: usize,
        kib: usize,
    },
    Http2 {
        connections: usize,
        streams: usize,
    },
    Grpc {
        connections: usize,
        streams: usize,
    },
    Stream {
        streams: usize,
        reverse: bool,
    },
    Exchange {
        bytes: usize,
        connections: usize,
    },
    Connect {
        at_once: usize,
    },
    Idle {
        http: bool,
    },
    Start,
    /// `weir exec` around a program that does nothing, and that program by itself.
    Exec,
}

/// What a client reports; and how to divide the processor time by it.
pub(super) struct Load {
    pub(super) figures: Figures,
    /// Requests, connections, or GB.
    pub(super) units: f64,
}

// === impl Cell ===

impl Cell {
    /// All, in the order of the report.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kib in [1, 64] {
            all.extend([1, 50, 500].map(|connections| Self::Http1 { connections, kib }));
        }
        all.extend(
            [(1, 1), (50, 10)].map(|(connections, streams)| Self::Http2 { connections, streams }),
        );
        all.extend(
            [(1, 1), (50, 10)].map(|(connections, streams)| Self::Grpc { connections, streams }),
        );
        for reverse in [false, true] {
            all.extend([1, 4].map(|streams| Self::Stream { streams, reverse }));
        }
        for bytes in [64, 1024, 16 * 1024] {
            all.extend([1, 50].map(|connections| Self::Exchange { bytes, connections }));
        }
        all.extend([1, 16].map(|at_once| Self::Connect { at_once }));
        all.extend([false, true].map(|http| Self::Idle { http }));
        all.extend([Self::Start, Self::Exec]);
        all
    }

    /// Of `--quick`.
    pub(super) fn is_quick(self) -> bool {
        match self {
            Self::Http1 { connections, kib } => kib == 1 && connections <= 50,
            Self::Http2 { connections, .. } | Self::Grpc { connections, .. } => connections > 1,
            Self::Stream { streams, reverse } => streams == 1 && !reverse,
            Self::Exchange { bytes, connections } => bytes == 1024 && connections == 1,
            Self::Connect { at_once } => at_once == 1,
            Self::Idle { http } => http,
            Self::Start | Self::Exec => true,
        }
    }

    /// Where more than one core can change anything; the rest is not measured twice.
    fn is_parallel(self) -> bool {
        match self {
            Self::Http1 { connections, kib } => connections == 50 && kib == 1,
            Self::Http2 { connections, .. } | Self::Grpc { connections, .. } => connections > 1,
            Self::Stream { streams, reverse } => streams > 1 && !reverse,
            Self::Exchange { bytes, connections } => bytes == 1024 && connections > 1,
            Self::Connect { at_once } => at_once > 1,
            Self::Idle { .. } | Self::Start | Self::Exec => false,
        }
    }

    fn is_raw(self) -> bool {
        !matches!(
            self,
            Self::Http1 { .. } | Self::Http2 { .. } | Self::Grpc { .. } | Self::Idle { http: true }
        )
    }

    fn is_main(self) -> bool {
        match self {
            Self::Exchange { bytes, .. } => bytes == 1024,
            Self::Connect { .. } => true,
            _ => self.is_quick(),
        }
    }

    /// Whether a way is worth its time in this cell.
    pub(super) fn fits(self, way: &Way, cores: Cores) -> bool {
        if cores == Cores::All && !(self.is_parallel() && *way != Way::Redirect && !way.is_skip()) {
            return false;
        }
        // What differs between engines is HTTP; and the classic set-up is there for scale.
        if way.is_second_engine() && self.is_raw() || way.is_redirected() && !self.is_main() {
            return false;
        }
        match self {
            // What costs nothing is compared where its bars are.
            Self::Http1 { connections, kib } if way.is_skip() => connections == 50 && kib == 1,
            Self::Http2 { .. } | Self::Grpc { .. } => !way.is_skip(),
            Self::Http1 { .. } => true,
            Self::Stream { streams, reverse } if way.is_skip() => streams == 1 && !reverse,
            Self::Exchange { .. } => way.takes_raw() && !way.is_skip(),
            Self::Stream { .. } | Self::Connect { .. } => way.takes_raw(),
            Self::Idle { http } => {
                way.is_proxied() && !way.is_redirected() && (http || way.takes_raw())
            }
            Self::Start => way.is_proxied() && !way.is_redirected() && way.takes_raw(),
            Self::Exec => matches!(way, Way::Direct | Way::Weir(Weir::Opaque)),
        }
    }

    /// The origin's port.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http1 { .. } | Self::Idle { http: true } => HTTP1,
            Self::Http2 { .. } => HTTP2,
            Self::Grpc { .. } => GRPC,
            Self::Stream { .. } => IPERF,
            Self::Exchange { .. }
            | Self::Connect { .. }
            | Self::Idle { .. }
            | Self::Start
            | Self::Exec => ECHO,
        }
    }

    /// How it is seen whether a way works: iperf3 itself tells.
    fn probe(self) -> Option<(Probe, u16)> {
        match self {
            Self::Http1 { .. } | Self::Idle { http: true } => Some((Probe::Http1, HTTP1)),
            Self::Http2 { .. } => Some((Probe::Http2, HTTP2)),
            Self::Grpc { .. } => Some((Probe::Grpc, GRPC)),
            Self::Stream { .. }
            | Self::Exchange { .. }
            | Self::Connect { .. }
            | Self::Idle { .. } => Some((Probe::Echo, ECHO)),
            Self::Start | Self::Exec => None,
        }
    }

    /// What the rate counts.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Stream { .. } => "Gbit/s",
            Self::Connect { .. } => "connections/s",
            _ => "requests/s",
        }
    }

    /// What the processor time is divided by.
    pub(super) fn per(self) -> &'static str {
        match self {
            Self::Stream { .. } => "GB",
            Self::Connect { .. } | Self::Idle { .. } => "connection",
            Self::Exec => "start",
            _ => "request",
        }
    }

    /// Verifies a way and measures it.
    ///
    /// # Errors
    ///
    /// Fails when one request does: then there is no figure.
    pub(super) fn measure(self, proxy: &Proxy<'_>, seconds: u64) -> Result<Figures> {
        if let Some((kind, port)) = self.probe() {
            proxy.verify(kind, port).context("the request before the measurement")?;
        }
        let before = proxy.gauge.cpu()?;
        let load = self.load(proxy, seconds)?;
        let spent = proxy.gauge.cpu()?.saturating_sub(before);
        let mut figures = load.figures;
        if proxy.way.has_process() {
            figures.set(Figure::CpuUs, spent.as_secs_f64() * 1e6 / load.units);
            figures.set(Figure::PeakMib, proxy.gauge.peak_kib() / 1024.0);
            maps(proxy, &mut figures);
        }
        anyhow::ensure!(
            !proxy.way.is_proxied() || !spent.is_zero(),
            "the proxy has not worked: connections went another way"
        );
        Ok(figures)
    }

    fn load(self, proxy: &Proxy<'_>, seconds: u64) -> Result<Load> {
        match self {
            Self::Http1 { connections, kib } => wrk::load(proxy, connections, kib, seconds),
            Self::Http2 { connections, streams } => {
                h2load::load(proxy, self, (connections, streams), seconds)
            }
            Self::Grpc { connections, streams } => {
                h2load::load(proxy, self, (connections, streams), seconds)
            }
            Self::Stream { streams, reverse } => iperf::load(proxy, streams, reverse, seconds),
            Self::Exchange { bytes, connections } => {
                own::exchange(proxy, bytes, connections, seconds)
            }
            Self::Connect { at_once } => own::connect(proxy, at_once, seconds),
            Self::Idle { http } => idle::load(proxy, http),
            Self::Start | Self::Exec => {
                anyhow::bail!("what starts is not measured while it runs")
            }
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1 { connections, kib } => write!(f, "http1-{connections}-{kib}k"),
            Self::Http2 { connections, streams } => write!(f, "http2-{connections}x{streams}"),
            Self::Grpc { connections, streams } => write!(f, "grpc-{connections}x{streams}"),
            Self::Stream { streams, reverse } => {
                write!(f, "stream-{streams}{}", if *reverse { "-reverse" } else { "" })
            }
            Self::Exchange { bytes, connections } => write!(f, "exchange-{connections}-{bytes}"),
            Self::Connect { at_once } => write!(f, "connect-{at_once}"),
            Self::Idle { http } => write!(f, "idle-{}", if *http { "http1" } else { "tcp" }),
            Self::Start => f.write_str("start"),
            Self::Exec => f.write_str("exec"),
        }
    }
}

/// From fork(2) of a proxy until a connection has gone through it; with the memory that the process
/// has afterwards.
///
/// # Errors
///
/// Fails when none does.
pub(super) fn start<'a>(way: &'a Way, site: Site<'a>) -> Result<(Proxy<'a>, Figures)> {
    own::start(way, site)
}

/// From fork(2) to the end of the process that waits for a program that does nothing.
///
/// # Errors
///
/// Fails when it does not end with success.
pub(super) fn exec(way: &Way, site: Site<'_>) -> Result<Figures> {
    own::exec(way, site)
}

// === helpers ===

/// A proxy without BPF has no figure.
fn maps(proxy: &Proxy<'_>, figures: &mut Figures) {
    if proxy.way.is_weir() {
        figures.set(Figure::MapsMib, proxy.gauge.maps_kib() / 1024.0);
    }
}

/// Runs a client program, for not much longer than it was told to run.
fn client(proxy: &Proxy<'_>, command: &Command, seconds: u64) -> Result<Finished> {
    let limit = Duration::from_secs(seconds) + PATIENCE;
    run(&mut proxy.site.arena.client(command), limit)?.ok()
}

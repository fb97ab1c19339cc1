//! One way, ready to be measured: the proxy runs with its own cgroup, and it has been proved that
//! connections go through it.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use weir_tests::process::{Process, run};

use super::arena::Arena;
use super::client::{Ports, Probe};
use super::descriptors::Descriptors;
use super::gauge::Gauge;
use super::paths::Way;
use super::peers::{envoy, haproxy, nginx, redirect, weir};
use super::tools::load_command;

/// For things that take milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Two connections of a proxied one can have the same port by chance.
const PROBES: usize = 3;

/// How many processors a proxy may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Cores {
    /// One thread, or one worker.
    One,
    /// As many as there are processors.
    All,
}

/// What a proxy needs to know to start.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) arena: &'a Arena,
    /// For its files.
    pub(super) dir: &'a Path,
    pub(super) cores: Cores,
    /// Of a weir.
    pub(super) instance: &'a str,
    pub(super) descriptors: Descriptors,
}

/// A way that works.
pub(super) struct Proxy<'a> {
    pub(super) way: &'a Way,
    pub(super) site: Site<'a>,
    pub(super) gauge: Gauge,
    process: Option<Process>,
    _redirect: Option<redirect::Rules<'a>>,
}

// === impl Cores ===

impl Cores {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Proxy ===

impl<'a> Proxy<'a> {
    /// Starts the process, and waits until it listens on all its ports.
    ///
    /// # Errors
    ///
    /// Fails with its log when it does not.
    pub(super) fn start(way: &'a Way, site: Site<'a>) -> Result<Self> {
        let gauge = Gauge::new()?;
        let command = command(way, &site)?;
        let process = command.map(|it| Process::start(&way.to_string(), gauge.wrap(&it), site.dir));
        let redirect = way.is_redirected().then(|| redirect::Rules::new(way, &site.arena.netns));
        let (process, redirect) = (process.transpose()?, redirect.transpose()?);
        let mut proxy = Self { way, site, gauge, process, _redirect: redirect };
        proxy.wait_ready().with_context(|| proxy.log())?;
        Ok(proxy)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        weir_tests::process::wait_until("the proxy to be ready", LIMIT, || {
            ensure!(process.running()?, "it ended");
            if self.way.is_weir() {
                return Ok(weir::is_ready(self.site.dir));
            }
            let open = self.site.arena.netns.listening_ports()?;
            Ok(self.way.ports().iter().all(|port| open.contains(&(port + super::arena::PROXIED))))
        })
    }

    /// Makes one request of a kind and looks at it closely.
    ///
    /// # Errors
    ///
    /// Fails when the answer is wrong, or went another way.
    pub(super) fn verify(&self, kind: Probe, port: u16) -> Result<()> {
        for _ in 0..PROBES {
            let ports: Ports = self.client(&mut |command| {
                let kind = kind.to_possible_value().map(|it| it.get_name().to_owned());
                command.args(["probe", "--kind"]).args(kind);
                command.arg(self.way.address(port).to_string());
            })?;
            match (self.way.is_proxied(), ports.proxied()) {
                (true, true) | (false, false) => return Ok(()),
                (true, false) => {}
                (false, true) if self.way.is_redirected() => return Ok(()),
                (false, true) => bail!("a connection was proxied that should go direct"),
            }
        }
        bail!("connections do not go through the proxy");
    }

    /// Runs an own client and reads its line.
    ///
    /// # Errors
    ///
    /// Fails with its message when it does.
    pub(super) fn client<T: serde::de::DeserializeOwned>(
        &self,
        arguments: &mut dyn FnMut(&mut Command),
    ) -> Result<T> {
        let mut command = load_command(&self.site.arena.netns)?;
        arguments(&mut command);
        let finished = run(&mut self.site.arena.client(&command), LIMIT * 2)?.ok()?;
        serde_json::from_str(&finished.stdout).context("a client's line is not understood")
    }

    /// What the proxy has said.
    pub(super) fn log(&self) -> String {
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{}: {}", self.way, lines[lines.len().saturating_sub(10)..].join("\n"))
    }

    /// Ends it. Nothing of it is left in the kernel.
    ///
    /// # Errors
    ///
    /// Fails when it has ended already: then what was measured is worth nothing.
    pub(super) fn stop(mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let running = process.running()?;
        let log = process.log();
        if running && self.way.is_weir() {
            process.signal(Signal::SIGTERM)?;
            let _killed_below = process.wait(LIMIT);
        }
        drop(process);
        ensure!(running, "the proxy ended by itself; its log:\n{log}");
        Ok(())
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        drop(self.process.take());
        if self.way.is_weir() {
            weir::detach(self.site.instance);
        }
    }
}

// === helpers ===

/// How it is started; nothing where there is no process.
fn command(way: &Way, site: &Site<'_>) -> Result<Option<Command>> {
    Ok(Some(match way {
        Way::Direct | Way::Redirect => return Ok(None),
        Way::Weir(weir) => weir::command(*weir, site)?,
        Way::Haproxy(layer) => haproxy::command(*layer, site)?,
        Way::RedirectHaproxy => haproxy::command(super::paths::Layer::Tcp, site)?,
        Way::Nginx(layer) => nginx::command(*layer, site)?,
        Way::Envoy(layer, binary) => envoy::command(*layer, binary, site)?,
    }))
}

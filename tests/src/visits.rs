//! A client that connects once or all the time, and what became of each of its connections: direct,
//! proxied or failed, and since when. The fixture `connect_loop.py` does the latter.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::cgroup::{Cgroup, within};
use crate::lab::{CLIENT_V4, SERVER_V4};
use crate::netns::Netns;
use crate::peer::is_loopback_segment;
use crate::process::{Process, run, wait_until};
use crate::{Lab, fixture};

/// The running client.
#[derive(Debug)]
pub struct Visitor {
    process: Process,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// When `connect` was called, nanoseconds of the monotonic clock.
    pub begin: u64,
    /// How it went.
    pub outcome: Outcome,
}

/// How a connection went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server saw the client's own address and port, and the client is not connected to loopback.
    Direct,
    /// Through weir; the server saw the same address.
    Proxied,
    /// The client got an error, or the server saw a foreign address.
    Failed(String),
}

/// All connections of a visitor, in order.
#[derive(Clone, Debug)]
pub struct Visits(Vec<Visit>);

/// Now, in nanoseconds of the clock that [`Visit::begin`] is of.
///
/// # Errors
///
/// Fails when there is no such clock.
pub fn now() -> Result<u64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(time.as_nanos()).context("the machine has been up for centuries")
}

/// One connection of a client in a namespace and a cgroup to a server that tells who connected
/// ([`crate::peer::Peer::whoami`]); getpeername(2) must say `peer`.
///
/// # Errors
///
/// Fails when getpeername(2) says something else, or the client does not end.
pub fn visit(netns: &Netns, cgroup: &Path, to: (&str, u16), peer: &str) -> Result<Outcome> {
    let (host, port) = to;
    let program = format!(
        "import socket\n\
         try:\n\
         \x20with socket.create_connection(('{host}', {port}), timeout=20) as c:\n\
         \x20\x20assert c.getpeername() == ('{peer}', {port}), c.getpeername()\n\
         \x20\x20seen = c.makefile().readline().split()\n\
         \x20\x20print(c.getsockname()[1], seen[1], c.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))\n\
         except OSError as error:\n\
         \x20print(type(error).__name__)"
    );
    let mut client = netns.command(fixture::PYTHON);
    client.args(["-c", &program]);
    let finished = run(&mut within(cgroup, &client), Duration::from_secs(60))?.ok()?;
    let said = finished.stdout.trim();
    Ok(match said.split(' ').collect::<Vec<_>>()[..] {
        [own, seen, segment] => outcome(own == seen, segment)?,
        _ => Outcome::Failed(said.to_owned()),
    })
}

// === impl Visitor ===

impl Visitor {
    /// Starts it in the lab's client namespace and the cgroup, for that long and until
    /// [`Visitor::finish`].
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start(lab: &Lab, cgroup: &Cgroup, port: u16, time: Duration) -> Result<Self> {
        let mut command = fixture::command(&lab.client, "connect_loop.py");
        command.args([SERVER_V4, &port.to_string(), &time.as_secs().to_string()]);
        let process = Process::start(&format!("visitor-{port}"), cgroup.wrap(&command), lab.dir())?;
        Ok(Self { process })
    }

    /// Waits until it has made so many connections.
    ///
    /// # Errors
    ///
    /// Fails when it does not.
    pub fn wait_for(&mut self, count: usize) -> Result<()> {
        let process = &self.process;
        wait_until(&format!("{count} connections"), Duration::from_secs(20), || {
            Ok(process.log().lines().count() >= count)
        })
        .with_context(|| format!("log of the visitor:\n{}", self.process.log()))
    }

    /// Waits until the last so many connections have all gone one way.
    ///
    /// # Errors
    ///
    /// Fails when they do not.
    pub fn wait_for_last(&mut self, count: usize, outcome: &Outcome) -> Result<()> {
        let process = &self.process;
        wait_until(&format!("{count} connections {outcome:?}"), Duration::from_secs(20), || {
            let log = process.log();
            // A line that is being written is not looked at.
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let last = whole.lines().rev().take(count).map(parse).collect::<Result<Vec<_>>>()?;
            Ok(last.len() == count && last.iter().all(|visit| visit.outcome == *outcome))
        })
        .with_context(|| format!("log of the visitor:\n{}", self.process.log()))
    }

    /// Lets it end, but not before it has begun a connection since: on a slow machine its time may
    /// be over.
    ///
    /// # Errors
    ///
    /// Fails when it did not end well, or wrote something else than visits.
    pub fn finish(mut self) -> Result<Visits> {
        // Of three one is under way and one may be written down already.
        self.wait_for(self.process.log().lines().count() + 3)?;
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(Duration::from_secs(60))?;
        let log = self.process.log();
        anyhow::ensure!(status.success(), "the visitor ended with {status}:\n{log}");
        log.lines().map(parse).collect::<Result<_>>().map(Visits)
    }
}

// === impl Visits ===

impl Visits {
    /// Connections begun in the span.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> Vec<&Visit> {
        self.0.iter().filter(|visit| (from..to).contains(&visit.begin)).collect()
    }

    /// When the last connection before a moment was begun: it may be under way at the moment, those
    /// before it are over, because one follows the other.
    #[must_use]
    pub fn settled_before(&self, moment: u64) -> u64 {
        self.between(0, moment).last().map_or(0, |visit| visit.begin)
    }

    /// No connection failed.
    #[track_caller]
    pub fn assert_no_error(&self) {
        let failed = self.0.iter().find(|visit| matches!(visit.outcome, Outcome::Failed(_)));
        assert_eq!(failed, None, "of {} connections", self.0.len());
    }

    /// Connections begun in the span went direct, and there were some.
    #[track_caller]
    pub fn assert_all_direct(&self, from: u64, to: u64) {
        let visits = self.between(from, to);
        assert!(!visits.is_empty(), "no connection in the span, of {}", self.0.len());
        let other = visits.iter().find(|visit| visit.outcome != Outcome::Direct);
        assert_eq!(other, None, "direct expected of {} connections", visits.len());
    }

    /// Connections begun in the span went through weir, and there were some; but for `stale`, which
    /// the kernel has let pass because weir stood still ([`crate::weir::Daemon::stale`]).
    #[track_caller]
    pub fn assert_all_proxied(&self, from: u64, to: u64, stale: u64) {
        let visits = self.between(from, to);
        let count = |outcome: &Outcome| visits.iter().filter(|it| it.outcome == *outcome).count();
        let (proxied, direct) = (count(&Outcome::Proxied), count(&Outcome::Direct));
        assert!(proxied > 0, "none of {} connections in the span was proxied", visits.len());
        let others = visits.iter().find(|visit| matches!(visit.outcome, Outcome::Failed(_)));
        assert_eq!(others, None, "of {} connections", visits.len());
        assert!(
            direct as u64 <= stale,
            "{direct} of {} connections went direct, {stale} of them because weir stood still: {:?}",
            visits.len(),
            visits.iter().filter(|visit| visit.outcome == Outcome::Direct).collect::<Vec<_>>()
        );
    }
}

fn parse(line: &str) -> Result<Visit> {
    let words: Vec<&str> = line.split(' ').collect();
    let begin = words[0].parse().with_context(|| format!("no visit: {line}"))?;
    let outcome = match words[1..] {
        ["ok", own_ip, own, seen_ip, seen, segment]
            if own_ip == CLIENT_V4 && seen_ip == CLIENT_V4 =>
        {
            outcome(own == seen, segment)?
        }
        _ => Outcome::Failed(line.to_owned()),
    };
    Ok(Visit { begin, outcome })
}

/// Of a connection that came about: the kernel may have given weir the port that the client has, but
/// then the client's segments (`TCP_MAXSEG`) are those of loopback.
fn outcome(same_port: bool, segment: &str) -> Result<Outcome> {
    let segment = segment.parse().with_context(|| format!("no length of segments: {segment}"))?;
    Ok(if same_port && !is_loopback_segment(segment) { Outcome::Direct } else { Outcome::Proxied })
}

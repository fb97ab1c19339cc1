//! The load generator `weir-load` as tests see it: how its two halves are started, and the log that
//! each of them writes. What it does is in `src/bin/weir-load`.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::netns::Netns;
use crate::process::{Process, patience};

/// After this long without a byte that is due, a client says that its connection hangs; multiplied by
/// [`patience`]. Longer than any test stops weir for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a connection is used for. Every kind has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One exchange of raw bytes; the client speaks first.
    ClientFirst,
    /// One exchange of raw bytes; the server speaks first.
    ServerFirst,
    /// Open all the time, with a numbered message every few milliseconds.
    Steady,
    /// Open all the time without a byte, then as [`Kind::ClientFirst`].
    Silent,
    /// HTTP/1.1, one request.
    Http1,
    /// HTTP/1.1, one request after the other.
    Http1Kept,
    /// HTTP/2, many streams at once, for as long as the other side lets it.
    Http2,
    /// A TLS ClientHello, then as [`Kind::ClientFirst`].
    Tls,
    /// As [`Kind::ClientFirst`] with large bodies, which both sides read slowly.
    Slow,
    /// An exchange that the client breaks off with a reset, which the server has to see as one.
    ClientResets,
    /// The other way round.
    ServerResets,
    /// To a port where no socket listens.
    Refused,
}

/// How a connection went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// To its end, and nothing was missing or changed.
    Good,
    /// The other side ended it in a way that the protocol has for this: between two HTTP/1 requests,
    /// or with a GOAWAY. What it did not answer was asked again on another connection.
    Left,
    /// It ended with an error of the socket or the protocol.
    Broken(String),
    /// Nothing came for [`PATIENCE`].
    Hung(String),
    /// It ended in order, but bytes are missing.
    Truncated(String),
    /// Bytes, or requests, are others than were sent.
    Changed(String),
}

/// One connection, as one end saw it. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// What it was for.
    pub kind: Kind,
    /// Before `connect`, or after `accept`.
    pub begin: u64,
    /// When the kernel said that it was connected.
    pub connected: Option<u64>,
    /// When all was over.
    pub end: u64,
    /// This end, once connected.
    pub local: Option<SocketAddr>,
    /// This end as the other one sees it.
    pub seen: Option<SocketAddr>,
    /// The other end of this socket is in the same namespace.
    pub loopback: bool,
    /// Exchanges, requests or messages that were completed.
    pub rounds: u64,
    /// Bytes that this end has received and compared.
    pub bytes: u64,
    /// How it went.
    pub outcome: Outcome,
}

/// What the clients of one half do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Of everything that is drawn by lot. The same seed draws the same, but the order in which
    /// connections draw is up to the kernel.
    pub seed: u64,
    /// After so long no client begins another connection.
    pub limit: Duration,
    /// Clients of each kind.
    pub clients: Vec<(Kind, usize)>,
    /// Connections of one client at most.
    pub most: usize,
    /// Longest rest of a client between two connections, milliseconds; 0 for none.
    pub rest: u64,
    /// No body is longer than two to the power of this; 20 at most.
    pub bits: u32,
    /// Whether connections that stay do so until the end, or for a short while.
    pub stay: bool,
}

/// A half of the load generator that runs.
#[derive(Debug)]
pub struct Half {
    process: Process,
    log: PathBuf,
    /// How far the log has been looked at, and the lines up to there.
    counted: (u64, usize),
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ClientFirst,
        Self::ServerFirst,
        Self::Steady,
        Self::Silent,
        Self::Http1,
        Self::Http1Kept,
        Self::Http2,
        Self::Tls,
        Self::Slow,
        Self::ClientResets,
        Self::ServerResets,
        Self::Refused,
    ];

    /// Those that end in order unless a process is killed.
    pub const ORDERLY: [Self; 7] = [
        Self::ClientFirst,
        Self::ServerFirst,
        Self::Steady,
        Self::Silent,
        Self::Http1,
        Self::Http1Kept,
        Self::Http2,
    ];

    /// The port of its server. No list of weir's names one of them.
    #[must_use]
    pub const fn port(self) -> u16 {
        9100 + self as u16
    }

    /// Whether such a connection stays for as long as it is let, and knows no end in between.
    #[must_use]
    pub const fn stays(self) -> bool {
        matches!(self, Self::Steady | Self::Silent)
    }

    /// Whether it is over after one exchange.
    #[must_use]
    pub const fn is_short(self) -> bool {
        !self.stays() && !matches!(self, Self::Http1Kept | Self::Http2 | Self::Slow)
    }

    /// Whether a socket listens on its port.
    #[must_use]
    pub const fn is_served(self) -> bool {
        !matches!(self, Self::Refused)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

// === impl Plan ===

impl Default for Plan {
    /// A few clients of the orderly kinds, which leave a busy two-core machine some time for weir.
    fn default() -> Self {
        let few = |kind| (kind, if matches!(kind, Kind::Silent | Kind::Http2) { 2 } else { 3 });
        Self {
            seed: fastrand::u64(..),
            limit: patience(Duration::from_secs(120)),
            clients: Kind::ORDERLY.map(few).to_vec(),
            most: 10_000,
            rest: 20,
            bits: 20,
            stay: true,
        }
    }
}

// === impl Trip ===

impl Trip {
    /// Whether weir was on the way: the other end saw another address, or the same only because the
    /// kernel gave weir the port that the client has too. `None` if the client was not told.
    #[must_use]
    pub fn proxied(&self) -> Option<bool> {
        Some(self.local? != self.seen? || self.loopback)
    }

    /// Whether it ended as it should.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self.outcome, Outcome::Good | Outcome::Left)
    }
}

// === impl Half ===

impl Half {
    /// Starts the servers of all kinds in a namespace, and waits until they listen.
    ///
    /// # Errors
    ///
    /// Fails with its log when it does not.
    pub fn serve(binary: &Path, netns: &Netns, name: &str, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.trips"));
        let mut command = netns.command(binary);
        command.arg("serve").arg(&log);
        // The last one that is opened.
        let at = (netns, Kind::ServerResets.port());
        Ok(Self { process: Process::serve(name, command, dir, at)?, log, counted: (0, 0) })
    }

    /// Starts clients, which connect to these addresses in turn until they are told to stop, or
    /// the plan is done.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn visit(
        binary: &Path,
        netns: &Netns,
        (name, dir): (&str, &Path),
        to: &[&str],
        plan: &Plan,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.trips"));
        let mut command = netns.command(binary);
        command.arg("visit").arg(&log).arg(serde_json::to_string(plan)?).args(to);
        Ok(Self { process: Process::start(name, command, dir)?, log, counted: (0, 0) })
    }

    /// Connections that are over so far.
    ///
    /// # Errors
    ///
    /// Fails when it has ended too early.
    pub fn count(&mut self) -> Result<usize> {
        ensure!(self.process.running()?, "it ended:\n{}", self.process.log());
        // It may not have made its log yet.
        if let Ok(mut file) = File::open(&self.log) {
            let (position, lines) = &mut self.counted;
            let mut more = Vec::new();
            file.seek(SeekFrom::Start(*position))?;
            *position += file.read_to_end(&mut more)? as u64;
            *lines += more.iter().filter(|byte| **byte == b'\n').count();
        }
        Ok(self.counted.1)
    }

    /// Lets the connections that there are come to an end, and begins no more.
    ///
    /// # Errors
    ///
    /// Fails when it is gone.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// As [`Half::finish`], and removes the log: where there are many, they are long.
    ///
    /// # Errors
    ///
    /// As [`Half::finish`].
    pub fn finish_and_forget(self) -> Result<Vec<Trip>> {
        let log = self.log.clone();
        let trips = self.finish()?;
        std::fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
        Ok(trips)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails when it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// `kill -9`; every connection that it had ended before.
    ///
    /// # Errors
    ///
    /// Fails when it was gone already.
    pub fn kill(mut self) -> Result<Vec<Trip>> {
        self.process.kill_hard()?;
        self.trips()
    }

    /// Whether it goes on.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not answer for this child.
    pub fn running(&mut self) -> Result<bool> {
        self.process.running()
    }

    /// Waits for its end, after [`Half::stop`] or at the limit; every connection that it had.
    ///
    /// # Errors
    ///
    /// Fails with its log when it did not end well.
    pub fn finish(mut self) -> Result<Vec<Trip>> {
        let status = self.process.wait(patience(PATIENCE * 4))?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.process.log());
        self.trips()
    }

    fn trips(&self) -> Result<Vec<Trip>> {
        let text = std::fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        let parse = |line| serde_json::from_str(line).with_context(|| format!("no trip: {line}"));
        // A half that was killed may have left a part of a line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }
}

//! The load on all ways, and the servers, which can be killed and stopped as well.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::ledger::{Ledger, Span, Way};
use super::schedule::{Schedule, Upstream};
use crate::load::{Half, Kind, Outcome, Plan, Trip};
use crate::pods::{CLIENT, POD, POD_B, Pods};
use crate::process::wait_until;
use crate::visits::now;

/// Clients of each kind, on each way.
const CLIENTS: [(Kind, usize); 12] = [
    (Kind::ClientFirst, 1),
    (Kind::ServerFirst, 1),
    (Kind::Steady, 2),
    (Kind::Silent, 2),
    (Kind::Http1, 1),
    (Kind::Http1Kept, 1),
    (Kind::Http2, 1),
    (Kind::Tls, 1),
    (Kind::Slow, 1),
    (Kind::ClientResets, 1),
    (Kind::ServerResets, 1),
    (Kind::Refused, 1),
];
/// Of a client between two connections, in milliseconds.
const REST: u64 = 60;
const BITS: u32 = 18;
/// Longer than anything takes at the end.
const LAST: Duration = Duration::from_secs(120);

/// Servers and clients.
pub(super) struct Traffic {
    clients: Vec<(Way, Half)>,
    servers: Vec<Server>,
    /// What servers that are gone have seen.
    served: Vec<Trip>,
    binary: PathBuf,
    starts: usize,
}

struct Server {
    of: Option<Upstream>,
    /// `None` while it is dead.
    half: Option<Half>,
    trouble: Option<u64>,
}

// === impl Upstream ===

impl Upstream {
    fn ways(self) -> Vec<Way> {
        match self {
            Self::Host => vec![Way::Out],
            Self::Pod => vec![Way::In, Way::Across],
        }
    }
}

// === impl Traffic ===

impl Traffic {
    /// Starts servers, then clients, which begin connections until the limit.
    pub(super) fn start(
        binary: &Path,
        pods: &Pods,
        schedule: &mut Schedule,
        limit: Duration,
    ) -> Result<Self> {
        let (clients, servers, served) = (Vec::new(), Vec::new(), Vec::new());
        let mut traffic = Self { clients, servers, served, binary: binary.to_owned(), starts: 0 };
        for of in [Some(Upstream::Host), Some(Upstream::Pod), None] {
            let half = Some(traffic.serve(pods, of)?);
            traffic.servers.push(Server { of, half, trouble: None });
        }
        for way in Way::ALL {
            let plan = Plan {
                seed: schedule.seed(),
                limit: limit + LAST,
                clients: CLIENTS.to_vec(),
                most: usize::MAX / 2,
                rest: REST,
                bits: BITS,
                stay: true,
            };
            let half = traffic.visit(pods, way, "clients", &plan)?;
            traffic.clients.push((way, half));
        }
        Ok(traffic)
    }

    fn visit(&mut self, pods: &Pods, way: Way, role: &str, plan: &Plan) -> Result<Half> {
        self.starts += 1;
        let name = format!("{role}-{way:?}-{}", self.starts).to_lowercase();
        let (from, to) = match way {
            Way::Out => (&pods.pod_a, CLIENT),
            Way::In => (&pods.client_b, POD),
            Way::Across => (&pods.pod_a, POD_B),
            Way::Skipped => (&pods.pod_b, CLIENT),
        };
        Half::visit(&self.binary, &from.netns, (&name, pods.dir()), &to, plan)
    }

    fn serve(&mut self, pods: &Pods, of: Option<Upstream>) -> Result<Half> {
        let netns = match of {
            Some(Upstream::Host) => &pods.client_a.netns,
            Some(Upstream::Pod) => &pods.pod_b.netns,
            None => &pods.client_b.netns,
        };
        self.starts += 1;
        Half::serve(&self.binary, netns, &format!("servers-{}", self.starts), pods.dir())
    }

    fn server(&mut self, of: Upstream) -> &mut Server {
        let mine = self.servers.iter_mut().find(|server| server.of == Some(of));
        mine.expect("there is one of each")
    }

    /// `kill -9`; false if it is dead already.
    pub(super) fn kill(&mut self, of: Upstream) -> Result<bool> {
        let begin = now()?;
        let server = self.server(of);
        let Some(half) = server.half.take() else { return Ok(false) };
        server.trouble = Some(begin);
        let served = half.kill()?;
        self.served.extend(served);
        Ok(true)
    }

    /// Starts the one that was killed.
    pub(super) fn revive(&mut self, pods: &Pods, of: Upstream, ledger: &mut Ledger) -> Result<()> {
        let half = self.serve(pods, Some(of))?;
        let server = self.server(of);
        server.half = Some(half);
        if let Some(begin) = server.trouble.take() {
            ledger.troubles.upstreams.push((of.ways(), Span { begin, end: now()? }));
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT; nothing for a dead one.
    pub(super) fn signal(&mut self, of: Upstream, signal: Signal) -> Result<()> {
        self.server(of).half.as_ref().map_or(Ok(()), |half| half.signal(signal))
    }

    /// Whether all that should run does.
    pub(super) fn check(&mut self) -> Result<()> {
        for (way, half) in &mut self.clients {
            ensure!(half.running()?, "clients {way:?} have ended: {}", half.log());
        }
        for half in self.servers.iter_mut().filter_map(|server| server.half.as_mut()) {
            ensure!(half.running()?, "a server has ended: {}", half.log());
        }
        Ok(())
    }

    /// A few connections on each captured way: those that did not go through weir, or not well.
    pub(super) fn probe(&mut self, pods: &Pods, learn: &str) -> Result<Vec<(Way, Trip)>> {
        let mut wrong = Vec::new();
        for way in Way::ALL.into_iter().filter(|way| way.is_captured()) {
            let kinds = [Kind::Http1, Kind::Tls, Kind::ServerFirst];
            // What speaks neither HTTP nor TLS is bypassed then.
            let kinds = if learn == "bypass" { &kinds[..2] } else { &kinds };
            let clients: Vec<_> = kinds.iter().map(|kind| (*kind, 1)).collect();
            let limit = Duration::from_secs(10);
            let plan = Plan { limit, clients, most: 3, bits: 10, ..Plan::default() };
            let trips = self.visit(pods, way, "probe", &plan)?.finish()?;
            let is_wrong =
                |trip: &Trip| trip.outcome != Outcome::Good || trip.proxied() != Some(true);
            wrong.extend(trips.into_iter().filter(is_wrong).map(|trip| (way, trip)));
        }
        Ok(wrong)
    }

    /// Ends clients, then servers, and tells what they saw.
    pub(super) fn finish(&mut self, ledger: &mut Ledger) -> Result<()> {
        for (_, half) in &self.clients {
            half.stop()?;
        }
        for (way, half) in self.clients.drain(..) {
            let trips = half.finish().with_context(|| format!("clients {way:?}"))?;
            ledger.trips.extend(trips.into_iter().map(|trip| (way, trip)));
        }
        for half in self.servers.drain(..).filter_map(|server| server.half) {
            half.stop()?;
            self.served.extend(half.finish().context("servers")?);
        }
        ledger.served = std::mem::take(&mut self.served);
        Ok(())
    }

    /// Waits until connections have come to their end on every way.
    pub(super) fn has_begun(&mut self) -> Result<()> {
        for (way, half) in &mut self.clients {
            let what = format!("connections {way:?}");
            wait_until(&what, super::stage::SOON, || Ok(half.count()? >= 20))?;
        }
        Ok(())
    }
}

//! The ways a connection can take: direct, captured where it is opened, captured where it is
//! accepted, and both in a row. A behaviour is written once and must hold on each.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, Run};
use crate::engine::Engine;
use crate::left::nothing_left;
use crate::metrics::{self, Metrics};
use crate::pods::{CLIENT, POD, POD_B, Pods};
use crate::process::wait_until;
use crate::record::Records;
use crate::site::{PATIENCE, Site, join};
use crate::wire::Wire;

/// Below the ephemeral range, on no list of weir's, and each used once: nothing that weir has
/// learned about one behaviour can play a part in the next.
const FIRST_PORT: u16 = 20_000;
/// Where the kernel begins to give out ports by itself.
const LAST_PORT: u16 = 32_768;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No weir: shows that the behaviour is what the kernel does too.
    Direct,
    /// From pod A to its client host.
    Outbound,
    /// From its client host to pod A.
    Inbound,
    /// From pod A to pod B.
    Both,
}

/// One way, with a weir that captures it and two families of addresses.
#[derive(Debug)]
pub struct Way {
    daemon: Option<Daemon>,
    /// The places.
    pub pods: Pods,
    kind: Kind,
    engine: Engine,
    family: usize,
    next: AtomicU16,
}

/// A server of a behaviour: a port that is not used otherwise.
#[derive(Debug)]
pub struct Server<'a> {
    way: &'a Way,
    listener: TcpListener,
    address: SocketAddr,
}

// === impl Way ===

impl Way {
    /// Makes the pods and starts weir.
    ///
    /// # Errors
    ///
    /// Fails when weir does not get ready.
    pub fn new(kind: Kind, engine: Engine) -> Result<Self> {
        let pods = Pods::new()?;
        let run = Run::new(&pods.node, pods.dir()).flags(&["--detect-timeout", "1h"]);
        let run = run.flags(&engine.flags()).flags(&metrics::FLAGS);
        let (a, b) = (&pods.pod_a, &pods.pod_b);
        let run = run.workload("pod-a", a.cgroup(), Some(&a.netns));
        let daemon = match kind {
            Kind::Direct => None,
            Kind::Outbound => Some(run.flags(&["--no-capture-inbound"]).start()?),
            Kind::Inbound => Some(run.start()?),
            Kind::Both => {
                let daemon = run.start()?;
                daemon.add("pod-b", b.cgroup(), &b.netns, &[])?;
                Some(daemon)
            }
        };
        Ok(Self { daemon, pods, kind, engine, family: 0, next: AtomicU16::new(FIRST_PORT) })
    }

    /// Takes IPv4 (0) or IPv6 (1) addresses from now on.
    pub fn use_family(&mut self, family: usize) {
        self.family = family;
    }

    /// Which way it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How weir carries HTTP there.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Where connections are opened.
    #[must_use]
    pub fn client(&self) -> &Site {
        match self.kind {
            Kind::Outbound | Kind::Both => &self.pods.pod_a,
            Kind::Direct | Kind::Inbound => &self.pods.client_a,
        }
    }

    /// Where connections are accepted.
    #[must_use]
    pub fn server(&self) -> &Site {
        match self.kind {
            Kind::Outbound => &self.pods.client_a,
            Kind::Both => &self.pods.pod_b,
            Kind::Direct | Kind::Inbound => &self.pods.pod_a,
        }
    }

    /// An address where no socket listens or has listened.
    ///
    /// # Panics
    ///
    /// Panics after thousands of behaviours.
    pub fn free_address(&self) -> SocketAddr {
        let port = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(port < LAST_PORT, "out of ports below the ephemeral range");
        let pair = match self.kind {
            Kind::Outbound => CLIENT,
            Kind::Both => POD_B,
            Kind::Direct | Kind::Inbound => POD,
        };
        let ip: IpAddr = pair[self.family].parse().expect("an address of this harness");
        SocketAddr::new(ip, port)
    }

    /// A server on a port of its own.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn listen(&self) -> Result<Server<'_>> {
        self.listen_at(self.free_address())
    }

    /// A server at an address.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn listen_at(&self, address: SocketAddr) -> Result<Server<'_>> {
        let listener = self.server().listen(address)?;
        Ok(Server { way: self, listener, address })
    }

    /// What weir has recorded; nothing on the direct way.
    ///
    /// # Errors
    ///
    /// Fails when there is no file.
    pub fn records(&self) -> Result<Records> {
        self.daemon.as_ref().map_or_else(|| Ok(Records::default()), Daemon::records)
    }

    /// The weir on the way, if there is one.
    #[must_use]
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// As [`Way::daemon`], to be ended by the caller.
    #[must_use]
    pub fn daemon_mut(&mut self) -> Option<&mut Daemon> {
        self.daemon.as_mut()
    }

    /// What weir says of itself at `/metrics`.
    ///
    /// # Errors
    ///
    /// Fails on the direct way, and when weir does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(&self.pods.node)
    }

    /// The pods that weir captures.
    #[must_use]
    pub fn captured_pods(&self) -> Vec<&Site> {
        match self.kind {
            Kind::Direct => Vec::new(),
            Kind::Outbound | Kind::Inbound => vec![&self.pods.pod_a],
            Kind::Both => vec![&self.pods.pod_a, &self.pods.pod_b],
        }
    }

    /// The host beside a captured pod.
    #[must_use]
    pub fn neighbour(&self, pod: &Site) -> &Site {
        let is_a = std::ptr::eq(pod, &self.pods.pod_a);
        if is_a { &self.pods.client_a } else { &self.pods.client_b }
    }

    /// The ports that weir listens on in a pod: those that no behaviour has taken.
    ///
    /// # Errors
    ///
    /// Fails when `/proc` cannot be read.
    pub fn own_ports(&self, pod: &Site) -> Result<Vec<u16>> {
        let ports = pod.netns.listening_ports()?;
        Ok(ports.into_iter().filter(|port| !(FIRST_PORT..LAST_PORT).contains(port)).collect())
    }

    /// The workload and direction of each record that a connection of this way leaves.
    #[must_use]
    pub fn captures(&self) -> &'static [(&'static str, &'static str)] {
        match self.kind {
            Kind::Direct => &[],
            Kind::Outbound => &[("pod-a", "outbound")],
            Kind::Inbound => &[("pod-a", "inbound")],
            Kind::Both => &[("pod-a", "outbound"), ("pod-b", "inbound")],
        }
    }

    /// Ends weir, takes away what it pinned, and looks.
    ///
    /// # Errors
    ///
    /// Fails with what is left.
    pub fn close(mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.stop()?;
        daemon.instance().detach(&[])?.ok()?;
        nothing_left(daemon.instance(), &self.pods.namespaces())
    }
}

// === impl Server ===

impl Server<'_> {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects a client to it.
    ///
    /// # Errors
    ///
    /// Fails when the client cannot connect or the server gets no connection.
    pub fn wire(&self) -> Result<Wire> {
        join(self.way.client(), self.address, &self.listener)
    }

    /// Every capture on the way has recorded the server's connections as so many of the treatment,
    /// with these answers, in order of their ends. Call it after both ends are closed.
    ///
    /// # Errors
    ///
    /// Fails with the records when it is otherwise.
    pub fn recorded(&self, connections: usize, treatment: &str, statuses: &[u64]) -> Result<()> {
        let port = self.address.port();
        // A record is written when the connection has ended on both sides.
        let mut records = Records::default();
        let expected = self.way.captures().len() * connections;
        let waited = wait_until("the records", PATIENCE, || {
            records = self.way.records()?;
            Ok(records.connections(port).len() >= expected)
        });
        waited.with_context(|| format!("of port {port}: {:#?}", records.connections(port)))?;
        ensure!(records.connections(port).len() == expected, "{:#?}", records.connections(port));
        for (workload, direction) in self.way.captures() {
            let of = |field: &str, name: &str, text: &str| format!("{name}: {field} is {text}");
            let mine: Vec<_> = records.connections(port);
            let mine = mine.iter().filter(|record| record.text("direction") == *direction);
            let mine: Vec<_> = mine.collect();
            ensure!(mine.len() == connections, "{direction}: {mine:#?}");
            for record in mine {
                for (field, wanted) in [("workload", *workload), ("treatment", treatment)] {
                    let text = record.text(field);
                    ensure!(text == wanted, "{}; {record:#?}", of(field, direction, &text));
                }
            }
            let requests = records.requests_to(port);
            let answers = requests.iter().filter(|record| record.text("direction") == *direction);
            let answers: Vec<u64> = answers.map(|record| record.number("status")).collect();
            ensure!(answers == statuses, "{direction}: {answers:?} instead of {statuses:?}");
        }
        Ok(())
    }
}

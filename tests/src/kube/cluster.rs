//! A node of a cluster: an API server and a weir in one network namespace, pods below one root of
//! cgroups, and a host that every pod with a cable can reach.
//!
//! ```text
//!            10.80.1.1 ── eth1 ── 10.80.1.2 pod          node: API server, weir
//! host ──────10.80.2.1 ── eth2 ── 10.80.2.2 pod          (loopback only)
//! ```

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::api::Api;
use super::object::{NODE, Owner, annotate, key, namespace, pod, set_host_network};
use super::pod::{Addresses, Beginning, Layout, Pod};
use crate::cgroup::Cgroup;
use crate::metrics::{self, Metrics};
use crate::netns::Netns;
use crate::process::wait_until;
use crate::site::{Site, is_captured, join};
use crate::weir::{Daemon, Run};
use crate::wire::Wire;

/// The namespace that there is from the start.
pub const SHOP: &str = "shop";

/// How long weir may take to do what the cluster wants, with a back-off or two in between (at most
/// 30 s each in kube's runtime).
pub const SOON: Duration = Duration::from_secs(60);

/// The node. Declare it before the pods: it must be dropped last.
#[derive(Debug)]
pub struct Cluster {
    /// The API server.
    pub api: Api,
    /// What connects to pods, and what they connect to.
    pub host: Site,
    /// Where weir runs.
    pub node: Netns,
    root: Cgroup,
    cables: AtomicU8,
    dir: TempDir,
}

/// In which network namespace a container runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// In weir's: it has the node's too.
    BesideWeir,
    /// In the machine's, and weir has one of its own.
    InTheMachines,
}

/// Servers on one port of a pod and of the host: connections into the pod and out of it.
#[derive(Debug)]
pub struct Ways<'a> {
    node: &'a Netns,
    host: &'a Site,
    pod: &'a Pod,
    port: u16,
    inside: TcpListener,
    outside: TcpListener,
}

// === impl Cluster ===

impl Cluster {
    /// An API server with the namespace [`SHOP`], and no pods.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weir-test-").tempdir()?;
        let node = Netns::new("node")?;
        let api = Api::start(node.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??)?;
        api.put(&namespace(SHOP));
        let (host, root) = (Site::host("host", dir.path())?, Cgroup::new("kube")?);
        Ok(Self { api, host, node, root, cables: AtomicU8::new(1), dir })
    }

    /// The directory for logs and files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root of the pods' cgroups.
    #[must_use]
    pub fn root(&self) -> &Cgroup {
        &self.root
    }

    /// Lets the API server serve again after it has gone away.
    ///
    /// # Errors
    ///
    /// Fails when its port is taken.
    pub fn api_comes_back(&self) -> Result<()> {
        let at = (Ipv4Addr::LOCALHOST, self.api.port());
        let mut listener = None;
        // The old one closes when its task is next run.
        wait_until("the API server's port to be free", SOON, || {
            listener = self.node.enter(|| TcpListener::bind(at))?.ok();
            Ok(listener.is_some())
        })?;
        self.api.come_back(listener.context("the wait ended without a listener")?);
        Ok(())
    }

    // --- Pods

    /// Runs a pod with a cable to the host; the API server is not told.
    ///
    /// # Errors
    ///
    /// Fails without root.
    ///
    /// # Panics
    ///
    /// Panics when there are too many: a cable needs a network of its own.
    pub fn run(&self, object: &Value, layout: Layout) -> Result<Pod> {
        let number = self.cables.fetch_add(1, Ordering::Relaxed);
        assert_ne!(number, 0, "there are 255 networks");
        let netns = Netns::new("pod")?;
        let ends =
            |end: u8| [format!("10.80.{number}.{end}/24"), format!("fd80:{number}::{end}/64")];
        let (host, pod) = (ends(1), ends(2));
        self.host.netns.cable_as(
            &format!("eth{number}"),
            host.each_ref().map(String::as_str),
            &netns,
            pod.each_ref().map(String::as_str),
        )?;
        let bare = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
        let addresses = Addresses { pod: bare(&pod[0]), host: bare(&host[0]) };
        Pod::run(object, layout, (netns, addresses), (&self.root, self.dir()))
    }

    /// What a container runtime has of a pod before the pod's namespaces are entered: a process in its
    /// cgroup and in weir's namespace, or in the machine's.
    ///
    /// # Errors
    ///
    /// Fails without root, and where the test itself is not in the machine's.
    pub fn begin(&self, object: &Value, layout: Layout, runtime: Runtime) -> Result<Beginning> {
        let netns = match runtime {
            Runtime::BesideWeir => Some(&self.node),
            Runtime::InTheMachines => None,
        };
        Pod::begin(object, layout, netns, (&self.root, self.dir()))
    }

    /// Runs a pod that does nothing and has no cable; the API server is not told.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn idle(&self, object: &Value, layout: Layout) -> Result<Pod> {
        let place = (Netns::new("pod")?, Addresses::default());
        Pod::idle(object, layout, place, (&self.root, self.dir()))
    }

    /// Runs a pod and tells the API server.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn start(&self, object: &Value, layout: Layout) -> Result<Pod> {
        let pod = self.run(object, layout)?;
        self.api.put(object);
        Ok(pod)
    }

    /// Servers in a pod and on the host.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn ways<'a>(&'a self, pod: &'a Pod, port: u16) -> Result<Ways<'a>> {
        let at = SocketAddr::new("::".parse()?, port);
        let inside = pod.site().listen(at)?;
        // The host has other pods' servers on the same port.
        let outside = self.host.listen(SocketAddr::new(pod.addresses().host.parse()?, port))?;
        Ok(Ways { node: &self.node, host: &self.host, pod, port, inside, outside })
    }

    // --- weir

    /// `weir node` for this node, with `/ready` and `/metrics`.
    ///
    /// # Errors
    ///
    /// Fails when the kubeconfig cannot be written.
    pub fn weir(&self) -> Result<Run<'_>> {
        let path = self.kubeconfig();
        self.api.write_kubeconfig(&path)?;
        let flags = [OsStr::new("--kubeconfig"), path.as_os_str(), OsStr::new("--node-name")];
        Ok(self.bare_weir().flags(&flags).flags(&[NODE]))
    }

    /// `weir node` that is to watch a directory.
    #[must_use]
    pub fn weir_on(&self, pods: &Path) -> Run<'_> {
        self.bare_weir().flags(&[OsStr::new("--pods-dir"), pods.as_os_str()])
    }

    fn bare_weir(&self) -> Run<'_> {
        let run = Run::node(&self.node, self.dir()).flags(&metrics::FLAGS);
        run.flags(&[OsStr::new("--cgroup-root"), self.root.path().as_os_str()])
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// Whether `/ready` says yes, and what it says.
    ///
    /// # Errors
    ///
    /// Fails when weir does not answer, or something else than 200 and 503.
    pub fn ready(&self) -> Result<(bool, String)> {
        let (status, body) = metrics::get(&self.node, "/ready")?;
        ensure!([200, 503].contains(&status), "{status}: {body}");
        Ok((status == 200, body))
    }

    /// Waits until weir captures just these pods, and says that it is ready.
    ///
    /// # Errors
    ///
    /// Fails with what it captures and its log when it does not.
    pub fn settle(&self, weir: &Daemon, pods: &[&Pod]) -> Result<()> {
        let wanted: BTreeSet<String> = pods.iter().map(|pod| pod.workload()).collect();
        let mut names = BTreeSet::new();
        let waited = wait_until("weir to capture the pods", SOON, || {
            names = captured(weir)?;
            Ok(names == wanted && self.ready()?.0)
        });
        waited.with_context(|| {
            let (ready, log) = (self.ready(), weir.process.log());
            format!("wanted {wanted:?}, captured {names:?}, ready {ready:?}; its log:\n{log}")
        })
    }

    /// Waits until weir has seen all changes of pods: until one that is made now has come through. It
    /// is a pod in the host's network, which is refused with an event.
    ///
    /// # Errors
    ///
    /// Fails when it does not see it.
    pub fn seen(&self, weir: &Daemon) -> Result<()> {
        let mut witness = pod(SHOP, "witness", Owner::None);
        annotate(&mut witness, "weir.dev/inject", Some("enabled"));
        set_host_network(&mut witness);
        self.api.put(&witness);
        let waited = wait_until("the last change to be seen", SOON, || {
            Ok(told(weir, "witness")?.is_some_and(|pod| pod["state"] == "refused"))
        });
        waited.with_context(|| format!("log of weir:\n{}", weir.process.log()))?;
        self.api.remove(&key(&witness));
        wait_until("the last change to be seen", SOON, || Ok(told(weir, "witness")?.is_none()))
    }
}

/// The names of what weir captures.
///
/// # Errors
///
/// Fails when it does not answer.
pub fn captured(weir: &Daemon) -> Result<BTreeSet<String>> {
    let report = weir.json(&["workload", "list"])?;
    let rows = report["workloads"].as_array().or_else(|| report.as_array());
    let rows = rows.with_context(|| format!("no list of workloads in {report:#}"))?;
    Ok(rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
}

/// What `weir status` says of a pod, by its name; `None` for one that it does not mention.
///
/// # Errors
///
/// Fails when weir does not answer.
pub fn told(weir: &Daemon, name: &str) -> Result<Option<Value>> {
    let report = weir.json(&["status"])?;
    // Without any, there is no such field.
    let pods = report["status"]["pods"].as_array();
    Ok(pods.and_then(|pods| pods.iter().find(|pod| pod["name"] == name)).cloned())
}

// === impl Ways ===

impl Ways<'_> {
    /// Whether new connections into the pod and out of it go through weir; either way they work.
    ///
    /// # Errors
    ///
    /// Fails when one does not.
    pub fn captured(&self) -> Result<[bool; 2]> {
        let inbound = is_captured(self.host, self.inbound()?, &self.inside).context("inbound")?;
        let outbound = is_captured(self.pod.site(), self.outbound()?, &self.outside);
        Ok([inbound, outbound.context("outbound")?])
    }

    /// Waits until new connections go so; each one before works too.
    ///
    /// # Errors
    ///
    /// Fails when they do not, or one fails.
    pub fn become_captured(&self, wanted: [bool; 2]) -> Result<()> {
        let what = format!("connections to become {wanted:?}, in and out");
        wait_until(&what, SOON, || Ok(self.captured()? == wanted))
    }

    /// New connections go so, in and out; those do not count that the kernel has let pass because
    /// weir stood still.
    #[track_caller]
    pub fn assert_captured(&self, wanted: [bool; 2]) {
        let mut stale = self.stale();
        let captured = loop {
            let captured = self.captured().expect("connections work, captured or not");
            let before = std::mem::replace(&mut stale, self.stale());
            if captured == wanted || stale <= before {
                break captured;
            }
        };
        assert_eq!(captured, wanted, "in and out of {}, port {}", self.pod.workload(), self.port);
    }

    /// How many connections of the pod were let pass because weir's heartbeat was too old, as weir
    /// has counted; none where there is no answer.
    fn stale(&self) -> u64 {
        let workload = format!("workload=\"{}\"", self.pod.workload());
        let sum = |metrics: Metrics| {
            metrics.sum("weir_kernel_decisions_total", &[&workload, "reason=\"stale\""]) as u64
        };
        Metrics::scrape(self.node).map_or(0, sum)
    }

    /// Opens a connection each way.
    ///
    /// # Errors
    ///
    /// Fails when one cannot be opened.
    pub fn open(&self) -> Result<[Wire; 2]> {
        let inbound = join(self.host, self.inbound()?, &self.inside)?;
        Ok([inbound, join(self.pod.site(), self.outbound()?, &self.outside)?])
    }

    /// Where the host connects to.
    ///
    /// # Errors
    ///
    /// Fails when the pod has no address.
    pub fn inbound(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.pod.addresses().pod.parse()?, self.port))
    }

    /// Where the pod connects to.
    ///
    /// # Errors
    ///
    /// Fails when the host has no address.
    pub fn outbound(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.pod.addresses().host.parse()?, self.port))
    }
}

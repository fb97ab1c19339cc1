//! Two pods with the same addresses, each behind a client host of its own, and a cable between the
//! two:
//!
//! ```text
//! client A ── 10.77.0.1 ── eth0 ── 10.77.0.2 ── pod A ── 10.78.0.1 ─┐ eth1
//! client B ── 10.77.0.1 ── eth0 ── 10.77.0.2 ── pod B ── 10.78.0.2 ─┘
//! ```
//!
//! weir runs in a namespace that has nothing but loopback, as on a node: what it dials in the wrong
//! namespace has no route.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use crate::lab::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6};
use crate::netns::Netns;
use crate::site::Site;

/// Address of a client host, both families, towards its pod.
pub const CLIENT: [&str; 2] = [CLIENT_V4, CLIENT_V6];
/// Address of a pod, both families, towards its client host.
pub const POD: [&str; 2] = [SERVER_V4, SERVER_V6];
/// Address of pod A on the cable to pod B.
pub const POD_A: [&str; 2] = ["10.78.0.1", "fd78::1"];
/// Address of pod B on the cable to pod A.
pub const POD_B: [&str; 2] = ["10.78.0.2", "fd78::2"];

/// The two pods, their clients and where weir runs. No namespace has a default route.
///
/// Declare it before the processes that live in it: it must be dropped last.
#[derive(Debug)]
pub struct Pods {
    /// What connects to pod A, and what pod A connects to.
    pub client_a: Site,
    /// The same for pod B.
    pub client_b: Site,
    /// The first pod.
    pub pod_a: Site,
    /// The second pod.
    pub pod_b: Site,
    /// Where weir runs.
    pub node: Netns,
    dir: TempDir,
}

// === impl Pods ===

impl Pods {
    /// Makes the namespaces, cgroups and cables.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weir-test-").tempdir()?;
        let (client_a, client_b) =
            (Site::host("client-a", dir.path())?, Site::host("client-b", dir.path())?);
        let (pod_a, pod_b) = (Site::pod("pod-a", dir.path())?, Site::pod("pod-b", dir.path())?);
        for (client, pod) in [(&client_a, &pod_a), (&client_b, &pod_b)] {
            let (left, right) = (with_prefix(CLIENT), with_prefix(POD));
            client.netns.cable(borrowed(&left), &pod.netns, borrowed(&right))?;
        }
        let (left, right) = (with_prefix(POD_A), with_prefix(POD_B));
        pod_a.netns.cable_as("eth1", borrowed(&left), &pod_b.netns, borrowed(&right))?;
        Ok(Self { client_a, client_b, pod_a, pod_b, node: Netns::new("node")?, dir })
    }

    /// The directory for logs and records; removed with the pods.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every namespace, for [`crate::left::nothing_left`].
    #[must_use]
    pub fn namespaces(&self) -> [&Netns; 5] {
        let [a, b] = [&self.client_a, &self.client_b].map(|site| &site.netns);
        [a, b, &self.pod_a.netns, &self.pod_b.netns, &self.node]
    }
}

fn with_prefix([v4, v6]: [&str; 2]) -> [String; 2] {
    [format!("{v4}/24"), format!("{v6}/64")]
}

fn borrowed(addresses: &[String; 2]) -> [&str; 2] {
    addresses.each_ref().map(String::as_str)
}

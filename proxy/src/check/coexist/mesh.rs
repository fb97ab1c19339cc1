//! Others that take a pod's connections, known by name: meshes by the chains that they make in a
//! pod's network namespace, Cilium's socket load balancer by its programs.

use std::{io, os::fd::BorrowedFd, path::Path};

use super::{nftables, packets, xtables};
use crate::capture::{
    AttachType,
    query::{self, Attached},
};

/// A mesh that redirects a pod's connections to a proxy of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mesh {
    /// With sidecars or ambient: chains `ISTIO_…`, or tables `istio-…`.
    Istio,
    /// Chains `PROXY_INIT_…`.
    Linkerd,
}

/// The meshes that have rules in a network namespace, of nftables or of old iptables.
///
/// # Errors
/// Where the namespace cannot be entered, or its rules not be read.
pub fn meshes(netns: BorrowedFd<'_>) -> io::Result<Vec<Mesh>> {
    let look = || io::Result::Ok((nftables::names()?, xtables::tables()?));
    let (names, old) = packets::inside(netns, look)??;
    let old = old.iter().flat_map(|table| table.chains.iter().map(|chain| (&table.name, chain)));
    let names = names.iter().map(|(table, chain)| (table, chain)).chain(old);
    let mut found: Vec<Mesh> = names.filter_map(|(table, chain)| mesh(table, chain)).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Programs of Cilium's socket load balancer that run for connections of a cgroup, on it or above.
///
/// # Errors
/// Where the cgroup cannot be asked.
pub fn cilium(cgroup: &Path) -> io::Result<Vec<Attached>> {
    let mut found = Vec::new();
    for hook in [AttachType::Connect4, AttachType::Connect6] {
        found.extend(query::cgroup_programs(cgroup, hook, true)?);
    }
    found.retain(|program| is_cilium(&program.name));
    Ok(found)
}

// === impl Mesh ===

impl Mesh {
    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Istio => "Istio",
            Self::Linkerd => "Linkerd",
        }
    }
}

// === helpers ===

/// istio/istio `tools/istio-iptables` and `tools/istio-nftables`, linkerd/linkerd2-proxy-init
/// `proxy-init/pkg/iptables`.
fn mesh(table: &str, chain: &str) -> Option<Mesh> {
    if chain.starts_with("ISTIO_") || table.starts_with("istio-") {
        return Some(Mesh::Istio);
    }
    chain.starts_with("PROXY_INIT_").then_some(Mesh::Linkerd)
}

/// cilium/cilium `bpf/bpf_sock.c`; before 1.12 without the prefix. The kernel keeps 15 bytes.
fn is_cilium(program: &str) -> bool {
    let name = program.strip_prefix("cil_").unwrap_or(program);
    ["sock4_connect", "sock6_connect"]
        .iter()
        .any(|of| !name.is_empty() && of.starts_with(name) && name.len() >= "sock4_conne".len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_known_by_name() {
        assert_eq!(mesh("nat", "ISTIO_OUTPUT"), Some(Mesh::Istio));
        assert_eq!(mesh("istio-proxy-nat", "prerouting"), Some(Mesh::Istio));
        assert_eq!(mesh("nat", "PROXY_INIT_REDIRECT"), Some(Mesh::Linkerd));
        assert_eq!(mesh("nat", "OUTPUT"), None);
        for (name, is) in [
            ("cil_sock4_conne", true),
            ("cil_sock6_conne", true),
            ("sock4_connect", true),
            ("sock4_connect_x", false),
            ("sock4", false),
            ("cil_sock4_sendm", false),
            ("weir_connect4", false),
            ("", false),
        ] {
            assert_eq!(is_cilium(name), is, "{name}");
        }
    }
}

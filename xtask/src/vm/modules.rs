//! Which kernel modules the guest needs, and in which order they are loaded.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result};

use super::output_of;

/// What weir, the tests and their servers use, where it is not built in. Nothing is loaded on
/// demand in the guest: what is missing here is missing there.
pub(super) const WANTED: [&str; 30] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_rng",
    "ext4",
    "veth",
    "dummy",
    "tls",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "af_packet",
    "nf_tables",
    "nft_chain_nat",
    "nft_redir",
    "nft_nat",
    "nft_ct",
    "nft_compat",
    "nft_masq",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nf_nat",
    "nf_conntrack",
    "xt_REDIRECT",
    "xt_tcpudp",
    "xt_owner",
    "iptable_nat",
    "ip6table_nat",
];

/// Paths of the wanted modules below their folder, each after those it depends on; and the wanted
/// that there are not: built in, or unknown to this kernel.
///
/// # Errors
///
/// Fails when depmod does.
pub(super) fn in_order(modules: &Path, release: &str) -> Result<(Vec<String>, Vec<&'static str>)> {
    // Debian makes this list when a kernel is installed.
    let base = modules.ancestors().nth(3).context("modules lie in lib/modules/RELEASE")?;
    output_of(std::process::Command::new("/sbin/depmod").arg("-b").arg(base).arg(release))?;
    let list = std::fs::read_to_string(modules.join("modules.dep"))
        .with_context(|| format!("no modules.dep in {}", modules.display()))?;
    Ok(order(&list))
}

/// Of the lines of `modules.dep`: `PATH: DEPENDENCY DEPENDENCY…` (modules.dep(5)).
fn order(list: &str) -> (Vec<String>, Vec<&'static str>) {
    let mut paths = HashMap::new();
    let mut needs = HashMap::new();
    for (path, dependencies) in list.lines().filter_map(|line| line.split_once(':')) {
        paths.insert(name(path), path);
        needs.insert(path, dependencies.split_whitespace().collect::<Vec<_>>());
    }
    let (mut ordered, mut seen) = (Vec::new(), BTreeSet::new());
    let missing = WANTED.into_iter().filter(|wanted| !paths.contains_key(*wanted)).collect();
    for path in WANTED.iter().filter_map(|wanted| paths.get(*wanted)) {
        visit(path, &needs, &mut seen, &mut ordered);
    }
    (ordered, missing)
}

fn visit<'a>(
    path: &'a str,
    needs: &HashMap<&'a str, Vec<&'a str>>,
    seen: &mut BTreeSet<&'a str>,
    ordered: &mut Vec<String>,
) {
    if seen.insert(path) {
        for dependency in needs.get(path).into_iter().flatten() {
            visit(dependency, needs, seen, ordered);
        }
        ordered.push(path.to_owned());
    }
}

/// `kernel/net/tls/tls.ko.xz` is `tls`.
pub(super) fn name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_those_they_need() {
        let (ordered, missing) = order(
            "kernel/net/nft_redir.ko.xz: kernel/net/nf_nat.ko.xz kernel/net/nf_tables.ko.xz\n\
             kernel/net/nf_nat.ko.xz: kernel/net/nf_conntrack.ko.xz\n\
             kernel/net/nf_conntrack.ko.xz: kernel/lib/crc.ko.xz\n\
             kernel/lib/crc.ko.xz:\n\
             kernel/net/nf_tables.ko.xz:\n\
             kernel/sound/snd.ko.xz:\n",
        );
        let names: Vec<_> = ordered.iter().map(|path| name(path)).collect();
        assert_eq!(names, ["nf_tables", "crc", "nf_conntrack", "nf_nat", "nft_redir"]);
        assert!(missing.contains(&"veth") && !missing.contains(&"nf_nat"));
    }
}

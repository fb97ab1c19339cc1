//! What weir must not leave behind, looked for where the kernel keeps it. Tests run side by side, so
//! everything is judged by the instance and the namespaces of one test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup;
use crate::daemon::Instance;
use crate::netns::{Netns, ip};
use crate::process::wait_until;

/// The mark of `--preserve-client-ip`, as `ip rule` prints it (`proxy-common`, `CLIENT_IP_MARK`).
const MARK: &str = "0x57450000";

/// What `--preserve-client-ip` switches on.
const SYSCTLS: [&str; 3] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];

/// The kernel frees programs after a grace period.
const GRACE: Duration = Duration::from_secs(60);

/// After weir has ended and was detached: none of the instance's programs is loaded, nothing is
/// pinned under its name, and the namespaces have no rule and no sysctl of it.
///
/// # Errors
///
/// Fails with what is left, and when the instance was never seen to hold a program: then the look
/// would prove nothing.
pub fn nothing_left(instance: &Instance, namespaces: &[&Netns]) -> Result<()> {
    ensure!(!instance.programs().is_empty(), "no program of {} was ever seen", instance.name());
    let mut left = Vec::new();
    let waited = wait_until("weir's leavings to go", GRACE, || {
        left = leavings(instance, namespaces)?;
        Ok(left.is_empty())
    });
    waited.with_context(|| format!("left behind by {}: {left:#?}", instance.name()))
}

/// What is there now, one line each.
///
/// # Errors
///
/// Fails when the kernel does not let us look.
pub fn leavings(instance: &Instance, namespaces: &[&Netns]) -> Result<Vec<String>> {
    let mut left = programs(instance)?;
    left.extend(pins(instance)?.into_iter().map(|path| format!("pin {}", path.display())));
    let group = cgroup::mount_point()?.join(instance.name());
    if group.exists() {
        left.push(format!("cgroup {}", group.display()));
    }
    for netns in namespaces {
        left.extend(in_namespace(netns)?);
    }
    Ok(left)
}

/// How many workloads of an instance that goes on have something pinned, links or their description
/// (`proxy/src/capture/pins.rs` has the layout).
///
/// # Errors
///
/// Fails when the pins cannot be listed.
pub fn pinned_workloads(instance: &Instance) -> Result<usize> {
    let names = |dir: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {dir:?}"))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let is_number = |path: &&PathBuf| {
        path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()).is_some()
    };
    let mut most = 0;
    for schema in
        pins(instance)?.iter().map(|root| names(root)).collect::<Result<Vec<_>>>()?.concat()
    {
        if !schema.is_dir() {
            continue;
        }
        most = most.max(names(&schema)?.iter().filter(is_number).count());
        let state = schema.join("state");
        if state.is_dir() {
            most = most.max(names(&state)?.len());
        }
    }
    Ok(most)
}

/// Where bpffs is mounted, wherever that is; nothing can be pinned where it is not.
///
/// # Errors
///
/// Fails when mountinfo cannot be read.
pub fn pins(instance: &Instance) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("bpf ").then(|| mount.split(' ').nth(4)).flatten()
    });
    let named = mounts.map(|mount| Path::new(mount).join("weir").join(instance.name()));
    Ok(named.filter(|path| path.exists()).collect())
}

fn programs(instance: &Instance) -> Result<Vec<String>> {
    let ours = instance.programs();
    let mut left = Vec::new();
    for program in aya::programs::loaded_programs() {
        // A program that goes while we look is no error.
        let Ok(program) = program else { continue };
        if ours.contains(&program.id()) {
            left.push(format!("program {} {}", program.id(), program.name_as_str().unwrap_or("?")));
        }
    }
    Ok(left)
}

/// What there is in a namespace: nothing in this harness makes a rule with a mark, or a table, or
/// touches these sysctls.
///
/// # Errors
///
/// Fails when the kernel does not let us look.
pub fn in_namespace(netns: &Netns) -> Result<Vec<String>> {
    let (name, mut left) = (netns.name(), Vec::new());
    for family in ["-4", "-6"] {
        let rules = ip(&["-n", name, family, "rule", "show"])?;
        let ours = rules.lines().filter(|rule| rule.contains(MARK));
        left.extend(ours.map(|rule| format!("rule in {name}: {rule}")));
        let routes = ip(&["-n", name, family, "route", "show", "table", "all"])?;
        // Those of the main table are shown without it.
        let ours = routes.lines().filter(|route| {
            route.split_once(" table ").is_some_and(|(_, rest)| !rest.starts_with("local"))
        });
        left.extend(ours.map(|route| format!("route in {name}: {route}")));
    }
    for sysctl in SYSCTLS {
        let path = Path::new("/proc/sys/net").join(sysctl);
        match netns.enter(|| std::fs::read_to_string(&path))?.as_deref().map(str::trim) {
            Ok("0") => {}
            Ok(value) => left.push(format!("{sysctl}={value} in {name}")),
            Err(error) => bail!("cannot read {} in {name}: {error}", path.display()),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that never finds anything would let every test pass.
    #[test]
    fn what_is_left_in_a_namespace_is_found() -> Result<()> {
        let netns = Netns::new("left")?;
        assert_eq!(in_namespace(&netns)?, [""; 0]);
        for family in ["-4", "-6"] {
            ip(&["-n", netns.name(), family, "rule", "add", "fwmark", MARK, "table", "100"])?;
            let route = ["route", "add", "local", "default", "dev", "lo", "table", "100"];
            ip(&[&["-n", netns.name(), family], &route[..]].concat())?;
        }
        for sysctl in SYSCTLS {
            netns.enter(|| std::fs::write(Path::new("/proc/sys/net").join(sysctl), "1"))??;
        }
        let left = in_namespace(&netns)?;
        let count = |begin: &str| left.iter().filter(|line| line.starts_with(begin)).count();
        assert_eq!((count("rule in"), count("route in"), count("ipv")), (2, 2, 3), "{left:#?}");
        Ok(())
    }
}

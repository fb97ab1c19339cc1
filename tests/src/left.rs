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

/// The kernel frees programs after a grace period.
const GRACE: Duration = Duration::from_secs(10);

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

fn in_namespace(netns: &Netns) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for family in ["-4", "-6"] {
        let rules = ip(&["-n", netns.name(), family, "rule", "show"])?;
        let ours = rules.lines().filter(|rule| rule.contains(MARK));
        left.extend(ours.map(|rule| format!("rule in {}: {rule}", netns.name())));
    }
    let accept = netns.enter(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept"))?;
    match accept.as_deref().map(str::trim) {
        Ok("0") => {}
        Ok(value) => left.push(format!("tcp_fwmark_accept={value} in {}", netns.name())),
        Err(error) => bail!("cannot read tcp_fwmark_accept in {}: {error}", netns.name()),
    }
    Ok(left)
}

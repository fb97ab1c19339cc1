//! How much memory this process may have: of that, how much may go into what peers have sent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::host::mounts;

/// What is taken at most, whatever the machine has.
const MOST: u64 = 256 << 20;
/// And at least.
const LEAST: u64 = 4 << 20;

/// Bytes of the memory budget where none is configured: a quarter of what the process may have, by
/// the machine's memory and by the memory controllers of its cgroups (`MemoryMax=` of systemd, the
/// limit of a container).
#[must_use]
pub(crate) fn usual_memory() -> u64 {
    let limits = machine().into_iter().chain(controllers());
    limits.min().map_or(MOST, |limit| (limit / 4).clamp(LEAST, MOST))
}

fn machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the process's cgroups and of those above, in both versions of the hierarchy.
fn controllers() -> Vec<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (mounts::first("cgroup2").ok().flatten(), "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                (Some(PathBuf::from("/sys/fs/cgroup/memory")), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let Some(root) = root else { continue };
        limits.extend(above(&root, path).filter_map(|directory| limit(&directory.join(file))));
    }
    limits
}

/// The directory of a cgroup and those above it, within the hierarchy.
fn above(root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let directory = root.join(path.trim_start_matches('/'));
    let all: Vec<_> = directory.ancestors().map(Path::to_owned).collect();
    let root = root.to_owned();
    all.into_iter().take_while(move |directory| directory.starts_with(&root))
}

/// `max`, and version 1's number for it, are none: the latter is larger than any machine.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_budget_is_within_its_bounds() {
        assert!((LEAST..=MOST).contains(&usual_memory()));
        let machine = machine().unwrap();
        assert!(usual_memory() <= machine.max(4 * LEAST) / 4, "of {machine}");
    }

    #[test]
    fn the_limit_of_every_cgroup_above_counts() {
        let all: Vec<_> = above(Path::new("/cg"), "/a/b.service").collect();
        assert_eq!(all, ["/cg/a/b.service", "/cg/a", "/cg"].map(PathBuf::from));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.max");
        for (text, expected) in [("67108864\n", Some(67_108_864)), ("max\n", None), ("", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(limit(&file), expected, "{text:?}");
        }
    }
}

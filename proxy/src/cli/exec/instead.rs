//! What there was where a command of `weir exec` has made no TCP connections that weir saw: decisions of the
//! kernel, processes that still run, and the sockets that these have.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use weir_common::Reason;

use crate::host::{cgroup::processes, socket_owners::socket_inode};

/// Processes that are looked at, and that are named.
const LOOKED_AT: usize = 256;
const NAMED: usize = 5;

/// What was found when the command had ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Instead {
    /// Processes of the command that still run: number and name.
    running: Vec<(u32, String)>,
    /// Their sockets by kind.
    sockets: BTreeMap<&'static str, usize>,
}

// === impl Instead ===

impl Instead {
    /// Looks at what is left in the command's cgroup.
    pub(super) fn look(cgroup: &Path) -> Self {
        let pids = processes(cgroup).unwrap_or_default().into_iter().take(LOOKED_AT);
        let mut found = Self::default();
        let mut inodes = HashSet::new();
        for pid in pids {
            let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
            found.running.push((pid, name.trim_end().to_owned()));
            // A socket that several of them share is one.
            let new: HashSet<u32> = sockets_of(pid).filter(|inode| inodes.insert(*inode)).collect();
            if new.is_empty() {
                continue;
            }
            for (kind, table, column) in [
                ("TCP", "tcp", 9),
                ("TCP", "tcp6", 9),
                ("UDP", "udp", 9),
                ("UDP", "udp6", 9),
                ("Unix", "unix", 6),
            ] {
                let table = fs::read_to_string(format!("/proc/{pid}/net/{table}"));
                let table = table.unwrap_or_default();
                let own = inodes_in(&table, column).filter(|inode| new.contains(inode));
                *found.sockets.entry(kind).or_default() += own.count();
            }
        }
        found.sockets.retain(|_, count| *count > 0);
        found
    }

    /// In words, for a command without a row in the table. `decisions` are those of the kernel.
    pub(super) fn text(&self, decisions: &[(Reason, u64)]) -> String {
        let mut parts = Vec::new();
        let mut of_reasons = String::new();
        for (reason, count) in decisions {
            let what = match reason {
                Reason::NotTcp => format!("{count} by UDP or another protocol than TCP"),
                Reason::OtherNetns => format!("{count} in another network namespace (--netns)"),
                Reason::Redirected | Reason::ReportLost | Reason::OptionLost => continue,
                reason => format!("{count} direct ({})", reason.name()),
            };
            let comma = if of_reasons.is_empty() { "" } else { ", " };
            write!(of_reasons, "{comma}{what}").expect("a string takes all");
        }
        if !of_reasons.is_empty() {
            parts.push(format!("connections: {of_reasons}"));
        }
        if !self.running.is_empty() {
            let named =
                self.running.iter().take(NAMED).map(|(pid, name)| format!("{name} ({pid})"));
            let mut text = format!("still running: {}", named.collect::<Vec<_>>().join(", "));
            if self.running.len() > NAMED {
                write!(text, " and {} more", self.running.len() - NAMED)
                    .expect("a string takes all");
            }
            let sockets = self.sockets.iter().map(|(kind, count)| format!("{count} {kind}"));
            let sockets = sockets.collect::<Vec<_>>().join(", ");
            if !sockets.is_empty() {
                write!(text, ", with sockets: {sockets}").expect("a string takes all");
            }
            parts.push(text);
        }
        if parts.is_empty() {
            parts.push("Unix sockets, and UDP without connect(2), are not seen".to_owned());
        }
        format!("no TCP connections; {}", parts.join("; "))
    }
}

// === helpers ===

/// The inodes of a process's sockets.
fn sockets_of(pid: u32) -> impl Iterator<Item = u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| socket_inode(&fs::read_link(entry.path()).ok()?))
}

/// The inodes in a table of `/proc/net`.
fn inodes_in(table: &str, column: usize) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| line.split_whitespace().nth(column)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::net::UnixDatagram};

    use super::*;

    #[test]
    fn what_there_was_is_said_in_one_line() {
        let none = Instead::default();
        assert_eq!(
            none.text(&[(Reason::Redirected, 1)]),
            "no TCP connections; Unix sockets, and UDP without connect(2), are not seen"
        );
        assert_eq!(
            none.text(&[(Reason::NotTcp, 2), (Reason::OtherNetns, 1), (Reason::NoRoute, 3)]),
            "no TCP connections; connections: 2 by UDP or another protocol than TCP, 1 in another \
             network namespace (--netns), 3 direct (no_route)"
        );
        let running = (1..=7).map(|pid| (pid, "sleep".to_owned())).collect();
        let sockets = [("UDP", 1), ("Unix", 2)].into();
        assert_eq!(
            Instead { running, sockets }.text(&[]),
            "no TCP connections; still running: sleep (1), sleep (2), sleep (3), sleep (4), sleep (5) \
             and 2 more, with sockets: 1 UDP, 2 Unix"
        );
    }

    #[test]
    fn processes_and_their_sockets_are_found() {
        let _sockets = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::unbound().unwrap());
        let cgroup = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        fs::write(cgroup.path().join("cgroup.procs"), format!("{pid}\n4194305\n")).unwrap();
        let found = Instead::look(cgroup.path());
        assert_eq!(found.running.len(), 1, "{found:?}");
        assert_eq!(found.running[0].0, pid);
        assert!(found.sockets["UDP"] >= 1 && found.sockets["Unix"] >= 1, "{found:?}");
        assert_eq!(Instead::look(Path::new("/nonexistent")), Instead::default());
    }
}

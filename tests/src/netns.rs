//! Network namespaces: making, entering and removing them. Commands run inside through `nsenter`,
//! not `ip netns exec`, because the latter mounts a new `/sys` and hides cgroup2 and bpffs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::cgroup::{self, Cgroup};

/// What every namespace of this harness is called at the beginning.
pub const PREFIX: &str = "weirt-";

/// Where iproute2 keeps the names.
const NETNS_DIR: &str = "/run/netns";

/// A network namespace with a unique name; removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    cgroup: Option<PathBuf>,
}

// === impl Netns ===

impl Netns {
    /// Makes a namespace with the loopback interface up. `role` ends up in the name.
    ///
    /// # Errors
    ///
    /// Fails without root, and when `ip` does.
    pub fn new(role: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and cgroups, which needs root; run it as root"
        );
        SWEEP.call_once(sweep_stale);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let netns = Self { name, cgroup: None };
        ip(&["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Name as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// From now on every command that runs inside belongs to the cgroup too, as in a pod.
    pub fn join(&mut self, cgroup: &Cgroup) {
        self.cgroup = Some(cgroup.path().to_owned());
    }

    /// The cgroup comes after the namespace: what is in a pod's cgroup is in its namespace too.
    fn nsenter(&self, cgroup: Option<&Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        // Under sudo `weir exec` would run its command as the caller; the tests are root's.
        command.env_remove("SUDO_UID");
        if let Some(cgroup) = cgroup {
            command.args(["sh", "-c", cgroup::JOIN]).arg(cgroup);
        }
        command
    }

    /// A command that will run inside and die with the thread that starts it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        mortal(self.nsenter(self.cgroup.as_deref()), program)
    }

    /// As [`Netns::command`], in a cgroup of its own; it is there only when it is inside.
    #[must_use]
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<OsStr>) -> Command {
        mortal(self.nsenter(Some(cgroup)), program)
    }

    /// As [`Netns::command`], with the privileges of another user.
    ///
    /// # Errors
    ///
    /// Fails when there is no such user.
    pub fn command_as(&self, user: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let user = user_named(user)?;
        let mut command = self.nsenter(self.cgroup.as_deref());
        command.arg("setpriv");
        command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        command.args(["--clear-groups", "--pdeathsig", "KILL", "--"]).arg(program);
        Ok(command)
    }

    /// Runs `f` on a thread inside: sockets that it opens belong to this namespace for good.
    /// Do not start processes there, they would die with the thread.
    ///
    /// # Errors
    ///
    /// Fails when the namespace cannot be entered; a panic of `f` goes on in the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("cannot open {self:?}"))?;
        let entered = thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                Ok(f())
            });
            inside.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Whether anything listens on the TCP port, of either family. Looks into `/proc` and does not
    /// connect, so that servers which speak first see no visitor.
    ///
    /// # Errors
    ///
    /// Fails when `/proc` cannot be read.
    pub fn listens(&self, port: u16) -> Result<bool> {
        Ok(self.tcp_tables()?.lines().any(|line| listener_port(line) == Some(port)))
    }

    fn tcp_tables(&self) -> Result<String> {
        let tables = self.enter(|| -> std::io::Result<String> {
            let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
            // Absent where IPv6 is switched off.
            let v6 = fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
            Ok(v4 + &v6)
        })??;
        Ok(tables)
    }

    /// The inodes of the sockets inside that the kernel lists: TCP ones that are bound or connected,
    /// Unix and netlink ones.
    ///
    /// # Errors
    ///
    /// Fails when `/proc` cannot be read.
    pub fn socket_inodes(&self) -> Result<BTreeSet<u64>> {
        // The column with the inode, by table (proc(5)).
        let tables = [("tcp", 9), ("tcp6", 9), ("unix", 6), ("netlink", 9)];
        let texts = self.enter(|| {
            let read = |(name, column)| {
                let text = fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok::<_, std::io::Error>((text?, column))
            };
            tables.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        })??;
        let inodes = texts.iter().flat_map(|(text, column)| {
            text.lines().filter_map(|line| line.split_whitespace().nth(*column)?.parse().ok())
        });
        Ok(inodes.collect())
    }

    /// The TCP ports that something inside listens on, of either family.
    ///
    /// # Errors
    ///
    /// Fails when `/proc` cannot be read.
    pub fn listening_ports(&self) -> Result<BTreeSet<u16>> {
        Ok(self.tcp_tables()?.lines().filter_map(listener_port).collect())
    }

    /// Connects two namespaces by a veth pair, each end named `eth0`, with one address of each family.
    ///
    /// # Errors
    ///
    /// Fails when `ip` does.
    pub fn cable(&self, addresses: [&str; 2], other: &Self, others: [&str; 2]) -> Result<()> {
        self.cable_as("eth0", addresses, other, others)
    }

    /// As [`Netns::cable`], with another name for both ends.
    ///
    /// # Errors
    ///
    /// Fails when `ip` does.
    pub fn cable_as(
        &self,
        device: &str,
        addresses: [&str; 2],
        other: &Self,
        others: [&str; 2],
    ) -> Result<()> {
        let (here, there) = (self.name.as_str(), other.name.as_str());
        ip(&[
            "link", "add", device, "netns", here, "type", "veth", "peer", "name", device, "netns",
            there,
        ])?;
        for (name, list) in [(here, addresses), (there, others)] {
            for address in list {
                // Duplicate address detection would hold IPv6 back for a second.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                let add = ["-n", name, "addr", "add", address, "dev", device];
                ip(&[&add, nodad].concat())?;
            }
            ip(&["-n", name, "link", "set", device, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("namespace left behind: {error:#}");
        }
    }
}

/// Whether the test itself is in the namespace of the machine's first process or of its kernel: not
/// in a sandbox that shows the machine's processes and has another network.
#[must_use]
pub fn is_the_machines() -> bool {
    let inode = |process: &str| {
        fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|found| found.ino())
    };
    let own = inode("self");
    own.is_some() && ["1", "2"].into_iter().any(|process| inode(process) == own)
}

fn mortal(mut command: Command, program: impl AsRef<OsStr>) -> Command {
    command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A user of this machine.
///
/// # Errors
///
/// Fails when there is no such user.
pub fn user_named(name: &str) -> Result<nix::unistd::User> {
    nix::unistd::User::from_name(name)?
        .with_context(|| format!("there is no user {name}; its Debian package makes it"))
}

/// Runs `ip` with its message as the error.
///
/// # Errors
///
/// Fails when `ip` is missing or unhappy.
pub fn ip(arguments: &[&str]) -> Result<String> {
    // Two `ip netns add` at once trip over each other while they make /run/netns.
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new("ip").args(arguments).output().context(
        "cannot run `ip`; install the Debian package iproute2 (`cargo xtask setup` does)",
    )?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The namespaces of this harness that exist, by name.
///
/// # Errors
///
/// Fails when the directory of names is there and cannot be read.
pub fn existing() -> Result<Vec<String>> {
    match fs::read_dir(NETNS_DIR) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(PREFIX))
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("cannot read {NETNS_DIR}")),
    }
}

/// Removes what a killed run left behind: namespaces whose maker no longer lives.
fn sweep_stale() {
    for name in existing().unwrap_or_default() {
        let maker = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if maker.parse::<u32>().is_ok() && !Path::new("/proc").join(maker).exists() {
            let _gone_already = ip(&["netns", "delete", &name]);
        }
    }
}

/// The port of a listener (state 0A) in a line of `/proc/net/tcp`.
fn listener_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next()?;
    let state = fields.nth(1)?;
    let (_address, port) = local.rsplit_once(':')?;
    (state == "0A").then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::listener_port;

    #[test]
    fn listeners_are_told_by_state_and_port() {
        let listener = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let open = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000";
        assert_eq!(listener_port(listener), Some(8080));
        assert_eq!(listener_port(open), None);
        assert_eq!(listener_port("  sl  local_address rem_address   st tx_queue"), None);
    }
}

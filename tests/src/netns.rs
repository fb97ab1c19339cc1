//! Network namespaces: making, entering and removing them. Commands run inside through `nsenter`,
//! not `ip netns exec`, because the latter mounts a new `/sys` and hides cgroup2 and bpffs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// What every namespace of this harness is called at the beginning.
pub const PREFIX: &str = "weirt-";

/// Where iproute2 keeps the names.
const NETNS_DIR: &str = "/run/netns";

/// A network namespace with a unique name; removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
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
        let netns = Self { name };
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

    /// A command that will run inside and die with the thread that starts it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// As [`Netns::command`], with the privileges of another user.
    ///
    /// # Errors
    ///
    /// Fails when there is no such user.
    pub fn command_as(&self, user: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let user = user_named(user)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("setpriv");
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
        let tables = self.enter(|| -> std::io::Result<String> {
            let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
            // Absent where IPv6 is switched off.
            let v6 = fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
            Ok(v4 + &v6)
        })??;
        Ok(tables.lines().any(|line| is_listener(line, port)))
    }

    /// Connects two namespaces by a veth pair, each end named `eth0`, with one address of each family.
    ///
    /// # Errors
    ///
    /// Fails when `ip` does.
    pub fn cable(&self, addresses: [&str; 2], other: &Self, others: [&str; 2]) -> Result<()> {
        let (here, there) = (self.name.as_str(), other.name.as_str());
        ip(&[
            "link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", "eth0", "netns",
            there,
        ])?;
        for (name, list) in [(here, addresses), (there, others)] {
            for address in list {
                // Duplicate address detection would hold IPv6 back for a second.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                let add = ["-n", name, "addr", "add", address, "dev", "eth0"];
                ip(&[&add, nodad].concat())?;
            }
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
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

/// Whether a line of `/proc/net/tcp` is a listener (state 0A) on the port.
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().unwrap_or_default();
    let state = fields.nth(1).unwrap_or_default();
    state == "0A" && local.ends_with(&format!(":{port:04X}"))
}

#[cfg(test)]
mod tests {
    use super::is_listener;

    #[test]
    fn listeners_are_told_by_state_and_port() {
        let listener = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let open = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000";
        assert!(is_listener(listener, 8080));
        assert!(!is_listener(listener, 8081));
        assert!(!is_listener(open, 8080));
    }
}

//! Namespaces for tests, which need root. Nothing has a name, so nothing is left behind.

use std::{
    process::{Child, Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::Netns;
use crate::capture::cgroup::Transient;

/// A new, empty namespace: its loopback interface is down.
pub(crate) fn fresh() -> Netns {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of namespaces need root");
        Netns::own().unwrap()
    })
    .join()
    .unwrap()
}

/// Runs `ip` in a namespace; returns what it prints.
pub(crate) fn ip(netns: &Netns, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    // A child starts in the namespace of the thread that starts it.
    let output = netns.enter(move || command.output()).unwrap().expect("tests need iproute2");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", text(output.stderr));
    text(output.stdout)
}

/// Two new namespaces with a link between them: `eth0` on both sides, with the addresses
/// 10.77.0.1 and fd77::1 in the first, 10.77.0.2 and fd77::2 in the second.
pub(crate) fn pair() -> (Netns, Netns) {
    let (first, second) = (fresh(), fresh());
    // The second namespace as seen from /proc: by a descriptor of this process.
    let target = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&second.as_fd())
    );
    ip(&first, &format!("link add eth0 type veth peer name eth0 netns {target}"));
    for (netns, host) in [(&first, 1), (&second, 2)] {
        ip(netns, "link set lo up");
        ip(netns, &format!("addr add 10.77.0.{host}/24 dev eth0"));
        // Without duplicate address detection the address is usable at once.
        ip(netns, &format!("addr add fd77::{host}/64 dev eth0 nodad"));
        ip(netns, "link set eth0 up");
    }
    (first, second)
}

/// A process that sleeps, in a cgroup and a namespace; ended when dropped.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start(cgroup: &Transient, netns: &Netns) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        cgroup.enter(&mut command).unwrap();
        Self(netns.enter(move || command.spawn()).unwrap().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

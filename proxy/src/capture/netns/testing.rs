//! Namespaces for tests, which need root. Nothing has a name, so nothing is left behind.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

use super::Netns;
use crate::host::cgroup::Transient;

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
        // A link-local address would join the routes a second later, in the midst of a test.
        ip(netns, "link set eth0 addrgenmode none");
        ip(netns, "link set eth0 up");
    }
    for (netns, host) in [(&first, 1), (&second, 2)] {
        settle(netns, &format!("local fd77::{host} dev eth0"));
    }
    (first, second)
}

/// Waits until the kernel has done what it puts off: the route of an IPv6 address, and noticing
/// that the link is up.
fn settle(netns: &Netns, route: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let [v4, v6] = ["-4", "-6"].map(|v| ip(netns, &format!("{v} route show table all")));
        if v6.contains(route) && !v4.contains("linkdown") && !v6.contains("linkdown") {
            return;
        }
        assert!(Instant::now() < deadline, "the link is not ready:\n{v4}{v6}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A process that sleeps, in a cgroup and a namespace; ended when dropped.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start(cgroup: &Transient, netns: &Netns) -> Self {
        let mut command = Command::new("sleep");
        cgroup.enter(&mut command).unwrap();
        Self::spawn(command, netns)
    }

    /// `command` is a `sleep`, prepared in whatever way.
    pub(crate) fn spawn(mut command: Command, netns: &Netns) -> Self {
        command.arg("1000").stdin(Stdio::null());
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

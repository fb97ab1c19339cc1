//! Requirements on the workload's network namespace, looked at from inside.

use std::{fs, io, os::fd::BorrowedFd};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::Finding;
use crate::check::coexist::inside;

/// What is seen inside.
struct Seen {
    /// Whether the loopback interface is up; none where there is none.
    loopback: io::Result<Option<bool>>,
    /// Whether accepted sockets can take over marks.
    fwmark_accept: bool,
}

pub(super) fn findings(netns: BorrowedFd<'_>) -> Vec<Finding> {
    match inside(netns, look) {
        Ok(seen) => vec![loopback(seen.loopback), fwmark_accept(seen.fwmark_accept)],
        Err(error) => vec![Finding::fail(
            "network namespace",
            format!("cannot be entered: {error}"),
            "run as root; --netns takes a file such as /run/netns/NAME or /proc/PID/ns/net",
        )],
    }
}

fn look() -> Seen {
    let loopback = getifaddrs().map_err(io::Error::from).map(|mut interfaces| {
        interfaces
            .find(|interface| interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
            .map(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
    });
    // /proc/sys/net shows the namespace of the thread that looks.
    let fwmark_accept = fs::exists("/proc/sys/net/ipv4/tcp_fwmark_accept").unwrap_or(false);
    Seen { loopback, fwmark_accept }
}

/// Captured connections are redirected to a listener on loopback.
fn loopback(up: io::Result<Option<bool>>) -> Finding {
    let name = "loopback";
    match up {
        Ok(Some(true)) => Finding::ok(name, "up"),
        Ok(Some(false)) => Finding::fail(name, "down", "ip link set lo up"),
        Ok(None) => Finding::fail(name, "missing", "ip link show lo"),
        Err(error) => Finding::warn(name, format!("unknown: {error}"), "ip link show lo"),
    }
}

fn fwmark_accept(there: bool) -> Finding {
    let name = "tcp_fwmark_accept";
    if there {
        Finding::ok(name, "there, for --preserve-client-ip")
    } else {
        Finding::warn(
            name,
            "no such sysctl: --preserve-client-ip does not work",
            "leave --preserve-client-ip off, or check that /proc/sys is mounted",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn loopback_must_be_up() {
        for (up, level) in [
            (Ok(Some(true)), Level::Ok),
            (Ok(Some(false)), Level::Fail),
            (Ok(None), Level::Fail),
            (Err(io::ErrorKind::PermissionDenied.into()), Level::Warn),
        ] {
            assert_eq!(loopback(up).level, level);
        }
        assert_eq!(fwmark_accept(false).level, Level::Warn);
    }
}

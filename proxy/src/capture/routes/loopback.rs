//! Whether the loopback interface carries a family: redirected connections go through it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use weir_common::spread;

use crate::capture::{
    listener::{Aside, listen_aside},
    original::{to_ip, to_words},
};

use super::prefixes::probe;

/// How long a handshake on loopback is waited for, and looked for each time.
const LIMIT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(1);

nix::ioctl_readwrite_bad!(
    /// netdevice(7).
    get_flags,
    libc::SIOCGIFFLAGS,
    libc::ifreq
);

/// Whether connections to an address of loopback get there, in the calling thread's namespace. Of
/// IPv4, the address and its routes stay while the interface is down, and what is sent is lost.
///
/// # Errors
/// Where the kernel could not be asked.
pub(super) fn works(address: IpAddr) -> io::Result<bool> {
    if !is_up()? {
        return Ok(false);
    }
    let route = probe(match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    })?;
    Ok(route.reachable != 0 && route.source == to_words(address))
}

/// Whether connections get to the addresses that destinations are spread over ([`weir_common::spread`]),
/// in the calling thread's namespace: its loopback interface has all of 127.0.0.0/8, unless an operator
/// has changed that, and rules of a packet filter may know 127.0.0.1 alone. One connection is tried.
///
/// # Errors
/// Where the kernel could not be asked.
pub(super) fn spreads() -> io::Result<bool> {
    let address = Ipv4Addr::from(spread::NETWORK);
    let route = probe(address.to_ipv6_mapped())?;
    if !is_up()? || route.reachable == 0 || route.source != to_words(Ipv4Addr::LOCALHOST.into()) {
        return Ok(false);
    }
    // The first and the last: the prefix of the interface may have been made smaller.
    let last = to_ip(spread::address(u32::MAX));
    // What cannot be tried, for want of a port or a descriptor, says nothing about the address.
    Ok([address.into(), last].into_iter().all(|it| connects(it).unwrap_or(true)))
}

/// Whether a handshake with an address of the namespace is over within the time that loopback takes,
/// and a busy machine.
fn connects(address: IpAddr) -> io::Result<bool> {
    let listener = listen_aside(Aside::At(address), None)?;
    let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    // No port is left in TIME_WAIT.
    client.set_linger(Some(Duration::ZERO))?;
    match client.connect(&listener.local_addr()?.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < LIMIT => {
                thread::sleep(PAUSE);
            }
            accepted => return Ok(accepted.is_ok()),
        }
    }
}

fn is_up() -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: integers and bytes only, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (byte, of_name) in request.ifr_name.iter_mut().zip(*b"lo") {
        *byte = of_name.cast_signed();
    }
    // SAFETY: the request is whole and lives through the call, which writes its flags.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::netns::testing::{fresh, ip};

    #[test]
    fn loopback_works_while_it_is_up_and_has_the_address() {
        let netns = fresh();
        let ask = |address: &str| {
            let address = address.parse().unwrap();
            netns.enter(move || works(address)).unwrap().unwrap()
        };
        let both = || (ask("127.0.0.1"), ask("::1"));
        assert_eq!(both(), (false, false));
        ip(&netns, "link set lo up");
        assert_eq!(both(), (true, true));
        assert!(!ask("192.0.2.1"));
        ip(&netns, "addr del ::1/128 dev lo");
        assert_eq!(both(), (true, false));
        ip(&netns, "link set lo down");
        assert_eq!(both(), (false, false));
    }

    #[test]
    fn destinations_are_spread_where_loopback_has_all_the_addresses() {
        let netns = fresh();
        let ask = || netns.enter(spreads).unwrap().unwrap();
        assert!(!ask());
        ip(&netns, "link set lo up");
        assert!(ask());
        ip(&netns, "addr add 127.0.0.1/10 dev lo");
        ip(&netns, "addr del 127.0.0.1/8 dev lo");
        assert!(!ask());
        ip(&netns, "addr add 127.64.0.0/11 dev lo");
        assert!(!ask());
    }
}

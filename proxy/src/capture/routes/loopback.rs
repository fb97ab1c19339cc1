//! Whether the loopback interface carries a family: redirected connections go through it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use crate::capture::original::to_words;

use super::prefixes::probe;

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
}

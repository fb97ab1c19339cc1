//! A connection to the application, from the client's own address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};

use super::MARK;
use crate::capture::Netns;

/// How many source ports of a range are tried. With nine of ten in use, one in thirty finds none.
const ATTEMPTS: usize = 32;
/// The first port that is not privileged.
const FIRST: u16 = 1024;
/// Where clients choose from in one way or another: NAT gateways, load balancers and kube-proxy below,
/// Linux above (its default ends at 60999).
const CLIENTS: (u16, u16) = (10_000, 60_999);

/// Connects to the application from the client's address, in a namespace that
/// [`ClientIp`](super::ClientIp) has prepared. The source port is none that the client has or is likely
/// to get: the kernel would take the client's connection from there for weir's. `is_free` knows those
/// that it has; see [`source_ports`] for the others.
///
/// `from_inside` is told the address that is connected from before that happens, and again when it
/// has: in between, the inbound program must take it for what it is. Where it cannot be told, there
/// is no connection: it would come back to weir.
///
/// There is no time limit but the kernel's.
///
/// # Errors
/// What connect(2) and `from_inside` say. `EADDRNOTAVAIL` where no source port was found; `Unsupported` for
/// link-local clients, whose connections are bound to an interface. An address of the host's own
/// can be used for either.
pub async fn connect_as(
    netns: &Netns,
    client: SocketAddr,
    destination: SocketAddr,
    is_free: &(dyn Fn(SocketAddr) -> bool + Send + Sync),
    from_inside: &Tell<'_>,
) -> io::Result<TcpStream> {
    let (source, destination) = (client.ip().to_canonical(), canonical(destination));
    check(source, destination)?;
    let ranges = source_ports(netns.local_ports().await?);
    let ports = ranges.into_iter().flat_map(|range| {
        std::iter::repeat_with(move || fastrand::u16(range.clone())).take(ATTEMPTS)
    });
    for port in ports {
        let from = SocketAddr::new(source, port);
        if port == client.port() || !is_free(from) {
            continue;
        }
        let socket = netns.tcp_socket(destination.is_ipv6()).await?;
        let _told = Told::new(from_inside, from)?;
        let connected = match bind(&socket, from) {
            Ok(()) => TcpSocket::from_std_stream(socket.into()).connect(destination).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_taken(&error) => {}
            connected => return connected,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
}

/// Is told of an address, and whether it is connected from.
pub(super) type Tell<'a> = dyn Fn(SocketAddr, bool) -> io::Result<()> + Send + Sync + 'a;

/// Tells when it begins and when it ends.
struct Told<'a> {
    tell: &'a Tell<'a>,
    from: SocketAddr,
}

// === impl Told ===

impl<'a> Told<'a> {
    fn new(tell: &'a Tell<'a>, from: SocketAddr) -> io::Result<Self> {
        tell(from, true)?;
        Ok(Self { tell, from })
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        // Too much said of an unused address is no loop.
        let _ = (self.tell)(self.from, false);
    }
}

// === helpers ===

fn check(source: IpAddr, destination: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "client and destination have different address families",
        ));
    }
    if matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "link-local client addresses cannot be used",
        ));
    }
    Ok(())
}

/// An IPv4 address that a dual-stack listener has shown as IPv6 is IPv4 again.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The source ports in the order of preference, given where the kernel's own choice begins and ends:
/// those above what clients choose from; those below, where well-known ports are (an
/// application that wants to listen on one in use, without `SO_REUSEADDR`, cannot); then any that the
/// kernel does not choose from; any at all where it chooses from all.
fn source_ports((first, last): (u16, u16)) -> Vec<RangeInclusive<u16>> {
    let above = last.saturating_add(1).max(CLIENTS.1 + 1)..=u16::MAX;
    let below = FIRST..=first.saturating_sub(1).min(CLIENTS.0 - 1);
    let others = [last.saturating_add(1)..=CLIENTS.1, CLIENTS.0..=first.saturating_sub(1)];
    let is_chosen_from = |range: &RangeInclusive<u16>| {
        range.contains(&last) || range.is_empty() || *range.start() == *range.end()
    };
    let mut ranges: Vec<_> = [above, below].into_iter().chain(others).collect();
    ranges.retain(|range| !is_chosen_from(range));
    if ranges.is_empty() { vec![FIRST..=u16::MAX] } else { ranges }
}

fn bind(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    match source {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_mark(MARK)?;
    // Several destinations may share a source port, and what is left of one in TIME-WAIT does not
    // keep others from it.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())
}

/// True where another source port may do.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_are_outside_of_the_kernels_range_and_where_clients_have_none() {
        for (range, expected) in [
            ((32_768, 60_999), "[61000..=65535, 1024..=9999, 10000..=32767]"),
            ((40_000, 40_999), "[61000..=65535, 1024..=9999, 41000..=60999, 10000..=39999]"),
            ((14_096, 65_535), "[1024..=9999, 10000..=14095]"),
            ((1027, 65_535), "[1024..=1026]"),
            ((1024, 60_999), "[61000..=65535]"),
            ((1024, 65_535), "[1024..=65535]"),
        ] {
            assert_eq!(format!("{:?}", source_ports(range)), expected, "{range:?}");
        }
    }
}

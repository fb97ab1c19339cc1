//! A connection to the application, from the client's own address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};

use super::MARK;
use crate::capture::Netns;

/// How many source ports are tried. With nine of ten in use, one in thirty finds none.
const ATTEMPTS: usize = 32;
/// Where most well-known ports end; an application that wants to listen on a port that is in use
/// as a source port, and has not set `SO_REUSEADDR`, cannot.
const PREFERRED: u16 = 10_000;
/// The first port that is not privileged.
const FIRST: u16 = 1024;
/// A range smaller than this is not worth keeping away from well-known ports.
const ENOUGH: u16 = 4096;

/// Connects to the application from the client's address, in a namespace that
/// [`ClientIp`](super::ClientIp) has prepared. The source port is not the client's, whose
/// connection to the same destination weir itself holds, and is below `ip_local_port_range`: what
/// clients choose from is the same range or IANA's, which begins at 49152 (RFC 6335 section 6).
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
    from_inside: &Tell<'_>,
) -> io::Result<TcpStream> {
    let (source, destination) = (client.ip().to_canonical(), canonical(destination));
    check(source, destination)?;
    let ports = below(netns.local_ports().await?);
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(ports.clone());
        if port == client.port() {
            continue;
        }
        let socket = netns.tcp_socket(destination.is_ipv6()).await?;
        let from = SocketAddr::new(source, port);
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

/// Who is told of an address, and whether it is connected from.
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
        // Too much said of an address that nobody uses is no loop.
        let _ = (self.tell)(self.from, false);
    }
}

// === helpers ===

fn check(source: IpAddr, destination: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "client and destination are of different families",
        ));
    }
    if matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a link-local client's address cannot be used",
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

/// The source ports, given where the kernel's own choice begins and ends.
fn below((first, last): (u16, u16)) -> Range<u16> {
    if first >= PREFERRED + ENOUGH {
        PREFERRED..first
    } else if first > FIRST {
        FIRST..first
    } else if last < u16::MAX {
        last + 1..u16::MAX
    } else {
        // Everything is the kernel's to choose from.
        FIRST..u16::MAX
    }
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
    fn source_ports_are_outside_of_the_kernels_range() {
        for (range, expected) in [
            ((32_768, 60_999), 10_000..32_768),
            ((14_096, 60_999), 10_000..14_096),
            ((14_095, 60_999), 1024..14_095),
            ((1026, 65_535), 1024..1026),
            ((1024, 60_999), 61_000..65_535),
            ((1024, 65_535), 1024..65_535),
        ] {
            assert_eq!(below(range), expected, "{range:?}");
        }
    }
}

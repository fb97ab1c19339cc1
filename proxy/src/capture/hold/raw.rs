//! Raw sockets that packets are sent through as they are (raw(7), `IPPROTO_RAW`). They receive
//! nothing. A socket sends into the network namespace that it was made in, from whichever thread.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::packet::Packet;

/// One for each family that the kernel has.
#[derive(Debug)]
pub struct RawSockets {
    v4: Socket,
    v6: Option<Socket>,
}

// === impl RawSockets ===

impl RawSockets {
    /// Opens them in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let v6 = match raw(Domain::IPV6) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4: raw(Domain::IPV4)?, v6 })
    }

    /// Sends a packet. On loopback what it leads to has happened when this returns.
    ///
    /// # Errors
    /// What sendto(2) says: `EPERM` where a rule of a firewall is in the way.
    pub fn send(&self, packet: &Packet) -> io::Result<()> {
        let no_family = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let (socket, to) = match packet.destination() {
            SocketAddr::V4(v4) => (&self.v4, SocketAddr::from((*v4.ip(), 0))),
            SocketAddr::V6(v6) => {
                let socket = self.v6.as_ref().ok_or_else(no_family)?;
                // A port would have to be the protocol (`rawv6_sendmsg` in net/ipv6/raw.c).
                (socket, SocketAddr::from((*v6.ip(), 0)))
            }
        };
        socket.send_to(packet.bytes(), &SockAddr::from(to)).map(drop)
    }
}

// === helpers ===

fn raw(domain: Domain) -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    Socket::new(domain, kind, Some(Protocol::from(libc::IPPROTO_RAW)))
}

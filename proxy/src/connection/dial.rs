//! Opens the upstream connection: to the original destination, from where the application itself
//! would have connected.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};
use weir_common::Properties;

use super::{Context, Feedback, dials::OwnDial, options::Following, properties};
use crate::{
    budget::Taken,
    capture::{Captured, Netns, connect_as},
    decision::Direction,
};

/// How often, and how long each time, is waited for a descriptor: about as long as connections in
/// the queue wait for theirs (`accept.rs`).
const DESCRIPTOR_PAUSES: u32 = 50;
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// How many source addresses of loopback are tried where the first has no port left.
const SOURCES: usize = 8;

/// What the upstream connection has to share with the application's socket.
pub(crate) struct Dial<'a> {
    netns: &'a Netns,
    feedback: &'a dyn Feedback,
    destination: SocketAddr,
    /// The client whose address the application is to see.
    client: Option<SocketAddr>,
    /// Inbound: who connected, and what weir has open to the workload.
    inbound: Option<(SocketAddr, &'a OwnDial)>,
    bound: Option<IpAddr>,
    mark: u32,
    /// What else the application has set on its socket.
    properties: Properties,
    /// What it sets later.
    following: Option<&'a Following>,
    /// Zero leaves the patience to the kernel (tcp(7), `tcp_syn_retries`).
    timeout: Duration,
    /// How often descriptors are waited for.
    pauses: u32,
    /// Given back when the dial is over.
    _dialling: Taken,
}

impl<'a> Dial<'a> {
    pub(crate) fn new(
        context: &'a Context,
        captured: &Captured,
        peer: SocketAddr,
        own: &'a OwnDial,
        dialling: Taken,
    ) -> Self {
        let inbound = captured.direction == Direction::Inbound;
        Self {
            netns: &context.netns,
            feedback: context.feedback.as_ref(),
            destination: captured.destination,
            client: (inbound && context.preserve_client_ip).then_some(peer),
            inbound: inbound.then_some((peer, own)),
            bound: captured.bound,
            mark: captured.mark,
            properties: captured.properties,
            following: None,
            timeout: context.config.forward.connect_timeout,
            pauses: DESCRIPTOR_PAUSES,
            _dialling: dialling,
        }
    }

    /// The same with what the application sets while it waits.
    pub(crate) fn followed(self, following: Option<&'a Following>) -> Self {
        Self { following, ..self }
    }

    /// The same without waiting for descriptors: the client has not been accepted, and asks again.
    pub(crate) fn at_once(self) -> Self {
        Self { pauses: 0, ..self }
    }

    /// Connects. The socket is armed, see `reset.rs`.
    ///
    /// # Errors
    /// What the kernel says, or `ETIMEDOUT` after the configured time; `ELOOP`, which the kernel has
    /// for file names only, where the client is weir itself.
    pub(crate) async fn connect(self) -> io::Result<TcpStream> {
        let connecting = self.connect_when_possible();
        let stream = if self.timeout.is_zero() {
            connecting.await?
        } else {
            tokio::time::timeout(self.timeout, connecting)
                .await
                .map_err(|_| io::Error::from_raw_os_error(libc::ETIMEDOUT))??
        };
        if let Some((peer, own)) = self.inbound {
            own.opens(stream.local_addr()?, self.destination);
            // It may not have been known yet when the connection came.
            if own.is_anothers(peer, self.destination) {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Waits a moment for descriptors where there are none: the client has been accepted already.
    async fn connect_when_possible(&self) -> io::Result<TcpStream> {
        let mut pauses = self.pauses;
        loop {
            match self.connect_from().await {
                Err(error) if pauses > 0 && self.feedback.is_exhaustion(&error) => {
                    pauses -= 1;
                    tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                }
                connected => return connected,
            }
        }
    }

    async fn connect_from(&self) -> io::Result<TcpStream> {
        if let Some(client) = self.client {
            let tell = |source, connecting| {
                if let (true, Some((_, own))) = (connecting, self.inbound) {
                    own.opens(source, self.destination);
                }
                self.feedback.dialling_as(source, connecting)
            };
            let is_free =
                |source| self.inbound.is_none_or(|(_, own)| !own.is_held(source, self.destination));
            match connect_as(self.netns, client, self.destination, &is_free, &tell).await {
                // Link-local clients: better from a local address than not at all.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                connected => return connected,
            }
        }
        let connected = self.socket(None).await?.connect(self.destination).await;
        match (connected, self.destination.ip()) {
            (Err(error), IpAddr::V4(_))
                if self.inbound.is_some() && error.kind() == io::ErrorKind::AddrNotAvailable =>
            {
                self.connect_from_loopback().await
            }
            (connected, _) => connected,
        }
    }

    /// To the application from one of the addresses of 127.0.0.0/8, each of which has as many ports
    /// as the namespace's own address, from which none is left.
    async fn connect_from_loopback(&self) -> io::Result<TcpStream> {
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for _ in 0..SOURCES {
            let source =
                Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
            result = self.socket(Some(source.into())).await?.connect(self.destination).await;
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                _ => break,
            }
        }
        result
    }

    /// `from`: the source address, unless the application has chosen one.
    async fn socket(&self, from: Option<IpAddr>) -> io::Result<TcpSocket> {
        let owner = properties::owner(&self.properties);
        let socket = self.netns.tcp_socket_of(self.destination.is_ipv6(), owner).await?;
        properties::set(&socket, self.destination, &self.properties);
        if let Some(following) = self.following {
            following.goes_to(&socket, self.destination);
        }
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        if let Some(bound) = self.bound.or(from) {
            // The port is chosen at connect, so that it need only be unique per destination.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(bound, 0).into())?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

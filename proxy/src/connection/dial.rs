//! Opens the upstream connection as the application itself would have: from the same network
//! namespace, with the same properties. `attempts.rs` knows to which addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, Socket};
use weir_common::Properties;

use super::{
    Context, Feedback,
    dials::OwnDial,
    options::Following,
    properties,
    stream::{Form, Stream},
};
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
    /// `None` leaves it to the kernel (tcp(7), `tcp_syn_retries`).
    timeout: Option<Duration>,
    /// How often descriptors are waited for.
    pauses: u32,
    form: Form,
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
            client: (inbound && context.preserve_client_ip).then_some(peer),
            inbound: inbound.then_some((peer, own)),
            bound: captured.bound,
            mark: captured.mark,
            properties: captured.properties,
            following: None,
            timeout: Some(context.config.now().forward.connect_timeout)
                .filter(|limit| !limit.is_zero()),
            pauses: DESCRIPTOR_PAUSES,
            form: Form::Owned,
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

    /// The same for an engine that takes another form.
    pub(crate) fn to(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Connects to an address, within `limit` if that is shorter than the configured time. The socket
    /// is armed, see `forward/transport/abort.rs`.
    ///
    /// # Errors
    /// What the kernel says, or `ETIMEDOUT` after that time; `ELOOP`, which the kernel has for file
    /// names only, where the client is weir itself.
    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        limit: Option<Duration>,
    ) -> io::Result<Stream> {
        let connecting = self.connect_when_possible(to);
        let stream = match self.timeout.into_iter().chain(limit).min() {
            None => connecting.await?,
            Some(limit) => tokio::time::timeout(limit, connecting)
                .await
                .map_err(|_| io::Error::from_raw_os_error(libc::ETIMEDOUT))??,
        };
        if let Some((peer, own)) = self.inbound {
            own.opens(local_address(&stream)?, to);
            // It may not have been known yet when the connection came.
            if own.is_anothers(peer, to) {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
        }
        Ok(stream)
    }

    /// Waits a moment for descriptors where there are none: the client has been accepted already.
    async fn connect_when_possible(&self, to: SocketAddr) -> io::Result<Stream> {
        let mut pauses = self.pauses;
        loop {
            match self.connect_from(to).await {
                Err(error) if pauses > 0 && self.feedback.is_exhaustion(&error) => {
                    pauses -= 1;
                    tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                }
                connected => return connected,
            }
        }
    }

    async fn connect_from(&self, to: SocketAddr) -> io::Result<Stream> {
        if let Some(client) = self.client {
            let tell = |source, connecting| {
                if let (true, Some((_, own))) = (connecting, self.inbound) {
                    own.opens(source, to);
                }
                self.feedback.dialling_as(source, connecting)
            };
            let is_free = |source| self.inbound.is_none_or(|(_, own)| !own.is_held(source, to));
            match connect_as(self.netns, client, to, &is_free, &tell).await {
                // Link-local clients: better from a local address than not at all.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                connected => {
                    let connected = connected?;
                    connected.set_nodelay(true)?;
                    return Ok(connected.into());
                }
            }
        }
        let connected = Stream::connect(self.socket(to, None).await?, to, self.form).await;
        match (connected, to.ip()) {
            (Err(error), IpAddr::V4(_))
                if self.inbound.is_some() && error.kind() == io::ErrorKind::AddrNotAvailable =>
            {
                self.connect_from_loopback(to).await
            }
            (connected, _) => connected,
        }
    }

    /// To the application from one of the addresses of 127.0.0.0/8, each of which has as many ports
    /// as the namespace's own address, from which none is left.
    async fn connect_from_loopback(&self, to: SocketAddr) -> io::Result<Stream> {
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for _ in 0..SOURCES {
            let source =
                Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
            let socket = self.socket(to, Some(source.into())).await?;
            result = Stream::connect(socket, to, self.form).await;
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                _ => break,
            }
        }
        result
    }

    /// `from`: the source address, unless the application has chosen one.
    async fn socket(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
        let owner = properties::owner(&self.properties);
        let socket = self.netns.tcp_socket_of(to.is_ipv6(), owner).await?;
        properties::set(&socket, to, &self.properties);
        if let Some(following) = self.following {
            following.goes_to(&socket, to);
        }
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        if let Some(bound) = self.bound.or(from) {
            // The port is chosen at connect, so that it need only be unique per destination.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(bound, 0).into())?;
        }
        Ok(socket)
    }
}

// === helpers ===

/// getsockname(2).
pub(super) fn local_address(stream: &Stream) -> io::Result<SocketAddr> {
    let address = SockRef::from(stream).local_addr()?;
    address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

//! A connection whose SYN is held while its upstream is dialled: the application's connect(2) succeeds
//! when the dial has, and fails as it does. From then on it is a connection like any other.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use super::{
    Context,
    attempts::Attempts,
    dial::{Dial, local_address},
    dials::OwnDial,
    form,
    options::Following,
    stream::{Form, Stream},
    waiting,
};
use crate::{
    budget::Taken,
    capture::Captured,
    forward::tcp,
    telemetry::{CloseReason, ConnectionGuard},
    upstream::Target,
};

/// An application that waits in connect(2). Dropping it has the kernel ask again.
pub trait Held: Send + Sync + Sized {
    /// Completes when the application has given up.
    fn gone(&self) -> impl Future<Output = ()> + Send;

    /// Lets its handshake come to its end; the accepted socket, or `None` where the application has
    /// given up meanwhile. The socket is armed (`transport/abort.rs`). `source` is what getsockname(2) is to say.
    fn admit(
        self,
        source: Option<IpAddr>,
    ) -> impl Future<Output = Option<std::net::TcpStream>> + Send;

    /// Has connect(2) fail with this `errno`, or with the nearest that there is a packet for.
    fn refuse(self, errno: i32);
}

/// Why a held connection has no upstream connection.
enum NotConnected {
    Dial(std::io::Error),
    /// By the application.
    GivenUp,
    /// The drain's deadline has passed.
    Aborted,
}

impl Context {
    /// Dials for an application that waits in connect(2), and serves the connection that comes of it.
    /// `dialling` is given back when the upstream has been dialled. `peer` is the application's end.
    pub async fn serve_held(
        self: &Arc<Self>,
        held: impl Held,
        peer: SocketAddr,
        captured: Captured,
        dialling: Taken,
    ) {
        let begun = Instant::now();
        let Captured { direction, destination, .. } = captured;
        let guard = self.open(direction, peer, destination, captured.process);
        if self.own.leads_back(destination) {
            held.refuse(libc::ECONNREFUSED);
            return guard.close(CloseReason::Loop);
        }
        let own = OwnDial::new(&self.dials, None);
        let mut following = Following::new(&self.options, &captured, peer);
        let policy = self.policy(&captured, &guard, begun);
        let mut attempts = Attempts::new(self, Target { direction, destination });
        let form = form(&policy, &attempts);
        let dial = Dial::new(self, &captured, peer, &own, dialling)
            .followed(following.as_ref())
            .at_once()
            .to(form);
        let reason = match self.connect_held(&held, &mut attempts, dial).await {
            Ok(upstream) => {
                attempts.tell(&guard);
                guard.upstream_connected();
                Following::settle(&mut following);
                match self.admit(held, &upstream, destination, form).await {
                    Ok(client) => {
                        let carrier = self.carrier(policy, &attempts, captured);
                        self.forward(client, upstream, carrier, &guard, Instant::now()).await
                    }
                    Err(reason) => reason,
                }
            }
            Err(NotConnected::Dial(error)) => self.fail(held, &guard, &error).await,
            Err(NotConnected::GivenUp) => CloseReason::ClientClosed,
            Err(NotConnected::Aborted) => {
                held.refuse(libc::ECONNREFUSED);
                CloseReason::DrainDeadline
            }
        };
        attempts.close(reason, guard);
    }

    async fn connect_held(
        &self,
        held: &impl Held,
        attempts: &mut Attempts<'_>,
        dial: Dial<'_>,
    ) -> Result<Stream, NotConnected> {
        tokio::select! {
            dialled = attempts.connect(dial) => dialled.map_err(NotConnected::Dial),
            () = held.gone() => Err(NotConnected::GivenUp),
            () = self.abort.cancelled() => Err(NotConnected::Aborted),
        }
    }

    /// Lets the application's connect(2) succeed. An error is why the connection ends.
    async fn admit(
        &self,
        held: impl Held,
        upstream: &Stream,
        destination: SocketAddr,
        form: Form,
    ) -> Result<Stream, CloseReason> {
        let source = local_address(upstream).ok().map(|own| own.ip());
        // The application's socket has one family; an endpoint can have the other.
        let source = source.filter(|source| source.is_ipv6() == destination.is_ipv6());
        let admitted = tokio::select! {
            admitted = held.admit(source) => admitted,
            () = self.abort.cancelled() => return Err(CloseReason::DrainDeadline),
        };
        let client = admitted.ok_or(CloseReason::ClientClosed)?;
        Stream::accepted(client, form).map_err(|error| {
            tracing::error!(%error, "cannot register the connection");
            CloseReason::from_io(&error)
        })
    }

    /// A dial has failed: why the connection ends.
    async fn fail(
        &self,
        held: impl Held,
        guard: &ConnectionGuard,
        error: &std::io::Error,
    ) -> CloseReason {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if waiting::was_reached(error) {
            // connect(2) would have succeeded.
            guard.upstream_connected();
            if let Some(client) = held.admit(None).await {
                tcp::arm(&client);
            }
            return CloseReason::UpstreamReset;
        }
        // Of its own a direct connection would be told that there is no source port; no packet says so.
        // Others go direct, and are told; this one is dialled for again when it sends its SYN again.
        if error.kind() == std::io::ErrorKind::AddrNotAvailable {
            self.feedback.unreachable(guard.direction(), guard.destination());
            return CloseReason::ConnectFailed(errno);
        }
        // Without descriptors the application's next SYN finds some, or is asked about again.
        if !self.feedback.is_exhaustion(error) {
            held.refuse(errno);
            self.feedback.refused(guard.destination());
        }
        CloseReason::ConnectFailed(errno)
    }
}

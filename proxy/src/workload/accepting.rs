//! From the listeners to the workers: which connection it is, and who serves it.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use weir_common::Properties;

use super::{Workload, lock};
use crate::{
    accept::{Accept, AcceptOptions, accept_loop, is_readable},
    budget::{PER_CONNECTION, Resource},
    capture::{AcceptedFrom, Captured},
    decision::Direction,
};

/// A listener whose connections are served on another thread: they have no owner yet.
pub(super) struct Incoming(AsyncFd<TcpListener>);

// === impl Incoming ===

impl Incoming {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: a TcpListener owns its descriptor, and gives the same one until it is dropped.
        let registered = unsafe { AsyncFd::register(listener) };
        Ok(Self(registered.map_err(|error| error.into_parts().1)?))
    }
}

impl Accept for Incoming {
    type Stream = TcpStream;
    type Address = SocketAddr;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                return Poll::Ready(accepted);
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        is_readable(self.0.get_ref())
    }

    /// The listener's connections are armed (`capture/listener.rs`): a close is a reset.
    fn reset(stream: TcpStream) {
        drop(stream);
    }

    /// A reset leaves a socket that has no peer any more: `inet_getname` in net/ipv4/af_inet.c.
    fn is_dead(stream: &TcpStream) -> bool {
        stream.peer_addr().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
    }
}

// === impl Workload ===

impl Workload {
    /// Accepts until `stop` is cancelled and nothing has come for `linger`.
    pub(super) async fn accept(
        self: Arc<Self>,
        listener: Incoming,
        stop: CancellationToken,
        linger: Duration,
    ) {
        let options = AcceptOptions {
            exhaustion: self.shared.exhaustion.clone(),
            linger,
            ..AcceptOptions::captured()
        };
        let slots = Arc::clone(&self.slots);
        accept_loop(&listener, slots.as_ref(), &stop, options, |client, peer| {
            self.admit(client, peer);
        })
        .await;
    }

    pub(super) fn admit(&self, client: TcpStream, peer: SocketAddr) {
        let local = client.local_addr().ok();
        let captured = local.and_then(|local| self.captured(&client, local, peer));
        let client = match (&self.holding, local, &captured) {
            (Some(holding), Some(local), Some(captured)) => {
                match holding.deliver(client, (local, peer), captured) {
                    Ok(()) => return,
                    Err(client) => client,
                }
            }
            _ => client,
        };
        let share = &self.slots.share;
        let taken = [(Resource::Connections, 1), (Resource::Descriptors, PER_CONNECTION)]
            .map(|(resource, count)| share.occupy(resource, count));
        let dialling = share.occupy(Resource::Dialling, 1);
        let context = Arc::clone(&self.context);
        let connection = async move {
            let _taken = taken;
            context.serve(client, peer, captured, dialling).await;
        };
        self.shared.workers.serve(&self.connections, connection);
    }

    /// Which way a connection came, and where it was going.
    fn captured(
        &self,
        client: &TcpStream,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<Captured> {
        if !self.context.own.accepted(local) {
            let status = lock(&self.policy).get(Direction::Inbound, local.port());
            return Some(Captured {
                workload: self.kernel.workload(),
                direction: Direction::Inbound,
                destination: local,
                bound: None,
                source: Some(peer.ip()),
                mark: 0,
                properties: Properties::default(),
                connected_ns: 0,
                state: status.state,
                state_source: status.source,
            });
        }
        let from = AcceptedFrom {
            workload: self.kernel.workload(),
            netns_cookie: self.netns.cookie(),
            local,
        };
        self.shared.originals.take(client, from, peer).unwrap_or_else(|error| {
            tracing::error!(%error, client.addr = %peer, "cannot read the original destination");
            None
        })
    }
}

// === helpers ===

pub(super) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, peer): (OwnedFd, _) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((stream.into(), peer.ok_or(io::ErrorKind::AddrNotAvailable)?))
}

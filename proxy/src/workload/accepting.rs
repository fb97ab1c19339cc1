//! From the listeners to the workers: which connection it is, and who serves it.

mod incoming;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio_util::sync::CancellationToken;
use weir_common::Properties;

pub(super) use self::incoming::{Elsewhere, Incoming};
use super::{Workload, lock};
use crate::{
    accept::{AcceptOptions, accept_loop},
    budget::{PER_CONNECTION, Resource},
    capture::{AcceptedFrom, Captured},
    decision::Direction,
};

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
            self.admit(client, peer, listener.is_outbound);
        })
        .await;
    }

    /// Has a connection served. `is_outbound`: its listener has no others.
    fn admit(&self, client: TcpStream, peer: SocketAddr, is_outbound: bool) {
        let captured = if is_outbound {
            self.redirected(&client, peer)
        } else {
            client.local_addr().ok().and_then(|local| self.captured(&client, local, peer))
        };
        self.serve(client, peer, captured);
    }

    /// Has a connection served of which is known where it was going, if it was going anywhere.
    pub(super) fn serve(&self, client: TcpStream, peer: SocketAddr, captured: Option<Captured>) {
        let client = match (&self.holding, &captured) {
            (Some(holding), Some(captured)) if captured.direction == Direction::Outbound => {
                match holding.deliver(client, peer, captured) {
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
                process: None,
            });
        }
        self.redirected(client, peer)
    }

    /// Where a connection was going that has come to a listener's own address.
    pub(super) fn redirected(&self, client: &TcpStream, peer: SocketAddr) -> Option<Captured> {
        let from =
            AcceptedFrom { workload: self.kernel.workload(), netns_cookie: self.netns.cookie() };
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

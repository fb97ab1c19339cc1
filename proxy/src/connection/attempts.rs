//! Dials the endpoints of one connection until one answers, at last the original destination, and
//! tells the upstream's selection (`upstream.rs`) what has come of each.

use std::{io, net::SocketAddr, time::Instant};

use super::{Context, dial::Dial, stream::Stream};
use crate::{
    tcp_info::TcpInfo,
    telemetry::{CloseReason, ConnectionGuard},
    upstream::{Attempt, ByRequest, Endpoint, Outcome, Selection, Target},
};

/// The dials of one connection, for as long as it lasts.
pub(super) struct Attempts<'a> {
    context: &'a Context,
    target: Target,
    /// `None` if there is only the original destination.
    selection: Option<Box<dyn Selection>>,
    begun: Instant,
    connected: Option<SocketAddr>,
}

// === impl Attempts ===

impl<'a> Attempts<'a> {
    pub(super) fn new(context: &'a Context, target: Target) -> Self {
        let selection = context.upstream.select(&target);
        Self { context, target, selection, begun: Instant::now(), connected: None }
    }

    /// Connects to the first that answers.
    ///
    /// # Errors
    /// That of the original destination, or that there are no descriptors.
    pub(super) async fn connect(&mut self, dial: Dial<'_>) -> io::Result<Stream> {
        while let Some(Endpoint { address, connect_timeout }) = self.next() {
            if self.context.own.leads_back(address) {
                let error = io::Error::from_raw_os_error(libc::ELOOP);
                self.note(address, Err(&error), Instant::now());
                continue;
            }
            let begun = Instant::now();
            match dial.connect(address, connect_timeout).await {
                Err(error) if self.context.feedback.is_exhaustion(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, upstream.addr = %address, "cannot reach an endpoint");
                    self.note(address, Err(&error), begun);
                }
                Ok(upstream) => {
                    self.note(address, Ok(&upstream), begun);
                    return Ok(upstream);
                }
            }
        }
        let (address, begun) = (self.target.destination, Instant::now());
        let dialled = dial.connect(address, None).await;
        let is_of_the_address = match (&self.selection, &dialled) {
            (None, Err(_)) => return dialled,
            (Some(_), Err(error)) => !self.context.feedback.is_exhaustion(error),
            (_, Ok(_)) => true,
        };
        if is_of_the_address {
            self.note(address, dialled.as_ref(), begun);
        }
        dialled
    }

    /// Has exchanges told to the endpoint that was connected to.
    pub(super) fn tell(&self, guard: &ConnectionGuard) {
        if let Some(chosen) = self.selection.as_ref().and_then(|selection| selection.chosen()) {
            guard.chosen(chosen);
        }
    }

    /// How requests are balanced, if they are.
    pub(super) fn requests(&self) -> Option<ByRequest> {
        self.selection.as_ref()?.requests()
    }

    fn next(&mut self) -> Option<Endpoint> {
        self.selection.as_mut()?.next()
    }

    fn note(&mut self, address: SocketAddr, result: Result<&Stream, &io::Error>, begun: Instant) {
        if result.is_ok() {
            self.connected = Some(address);
        }
        if let Some(selection) = &mut self.selection {
            let took = begun.elapsed();
            let numbers = result.ok().and_then(|upstream| TcpInfo::of(upstream).ok());
            let round_trip = numbers.map(|numbers| numbers.round_trip);
            let result = result.map(|_| ());
            selection.attempted(&Attempt { address, result, took, round_trip });
        }
    }

    /// The connection is over.
    pub(super) fn close(mut self, reason: CloseReason, guard: ConnectionGuard) {
        if let Some(selection) = &mut self.selection {
            let counters = guard.counters();
            selection.closed(&Outcome {
                upstream: self.connected,
                reason: &reason,
                bytes_sent: counters.client_to_upstream(),
                bytes_received: counters.upstream_to_client(),
                duration: self.begun.elapsed(),
            });
        }
        guard.close(reason);
    }
}

#[cfg(test)]
mod tests;

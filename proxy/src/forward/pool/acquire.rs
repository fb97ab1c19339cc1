//! How a request gets an upstream connection: an idle one to the endpoint that is chosen, or a new one;
//! where none can be made, the next endpoint (level 0 of the retries in docs/SERVICES.md).

use std::{io, net::SocketAddr};

use tokio::io::Interest;
use weir_http::{Choice, Endpoints as _};

use super::super::requests::BoxedLease;
use super::super::retries::{Repeat, Retry, RetryOutcome};
use super::End;
use super::client::Client;
use super::member::Member;
use crate::budget::is_exhaustion;
use crate::forward::http::ExchangeSink as _;

/// Whether the connection has to be a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    Yes,
    No,
}

// === impl Client ===

impl Client {
    /// # Errors
    /// How the client's connection has to end: no endpoint can be reached, or not in time, or the client is
    /// gone.
    pub(super) async fn acquire(&mut self, fresh: Fresh) -> Result<Member, End> {
        let mut tried = Vec::new();
        let (mut errno, mut shrunk) = (libc::EIO, false);
        while let Some(Choice { address, connect_timeout, lease }) = self.choose(&tried) {
            self.report.goes_to(address, lease);
            let idle = match fresh {
                Fresh::No => self.pool.take(address),
                Fresh::Yes => None,
            };
            if let Some(member) = idle {
                self.count_connect(&tried, RetryOutcome::Success);
                return Ok(member);
            }
            // Boxed by the trait: a client that sends requests does not pay for the few that dial.
            let connected = tokio::select! {
                connected = self.pool.connect.connect(address, connect_timeout) => connected,
                _ = self.stream.ready(Interest::ERROR) => return Err(End::ClientReset),
                limit = self.timer.limit(self.to.as_deref_mut(), &self.counters) => {
                    self.report.timed_out(limit);
                    self.report.is_late(false, true);
                    return Err(End::TimedOut);
                }
            };
            match connected {
                Ok(connected) => {
                    self.count_connect(&tried, RetryOutcome::Success);
                    let counted = self.requests.connected(address);
                    return Ok(Member::new(address, connected, counted));
                }
                // No endpoint is to blame.
                Err(error) if is_exhaustion(&error) => {
                    if shrunk || !self.pool.shrink() {
                        return Err(End::Unreachable(number(&error)));
                    }
                    shrunk = true;
                }
                Err(error) => {
                    tracing::debug!(%error, upstream.addr = %address, "cannot reach an endpoint");
                    errno = number(&error);
                    tried.push(address);
                }
            }
        }
        self.count_connect(&tried, RetryOutcome::Failure);
        Err(End::Unreachable(errno))
    }

    /// An endpoint of where the request goes.
    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        match &self.to {
            Some(to) if !self.again.tried.is_empty() => {
                let all = [&self.again.tried, tried].concat();
                to.endpoints.choose_again(&all, tried)
            }
            Some(to) => to.endpoints.choose(tried),
            None => self.requests.choose(tried),
        }
    }

    fn count_connect<T>(&self, tried: &[T], outcome: RetryOutcome) {
        if !tried.is_empty() {
            self.report.retried(Retry { why: Repeat::NotConnected, outcome });
        }
    }
}

// === helpers ===

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

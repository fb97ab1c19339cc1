//! How a request gets an upstream connection: an idle one to the endpoint that is chosen, or a new one;
//! where none can be made, the next endpoint (level 0 of the retries in docs/SERVICES.md).

use std::io;

use tokio::io::Interest;

use super::super::requests::Picked;
use super::super::retries::{Retry, RetryLevel, RetryOutcome};
use super::End;
use super::client::Client;
use super::member::Member;
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
    /// How the client's connection has to end: no endpoint can be reached, or the client is gone.
    pub(super) async fn acquire(&mut self, fresh: Fresh) -> Result<Member, End> {
        let mut tried = Vec::new();
        let (mut errno, mut shrunk) = (libc::EIO, false);
        while let Some(Picked { address, connect_timeout, lease }) = self.requests.choose(&tried) {
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
            };
            match connected {
                Ok(connected) => {
                    self.count_connect(&tried, RetryOutcome::Success);
                    return Ok(Member::new(address, connected));
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

    fn count_connect<T>(&self, tried: &[T], outcome: RetryOutcome) {
        if !tried.is_empty() {
            self.report.retried(Retry { level: RetryLevel::Connect, outcome });
        }
    }
}

// === helpers ===

/// The process or the workload has no more descriptors, or the kernel no memory for sockets.
fn is_exhaustion(error: &io::Error) -> bool {
    let errnos = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| errnos.contains(&errno))
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

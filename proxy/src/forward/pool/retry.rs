//! Whether a request may be sent once more (level 2 of the retries in docs/SERVICES.md): only if the
//! upstream has taken none of it, whatever its method. `tcp_info.rs` has the reason why that can be known.

use super::super::http::ExchangeSink as _;
use super::super::retries::{Repeat, Retry, RetryOutcome};
use super::client::Client;
use super::member::Member;

/// How a connection has ended on which nothing of the response had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// In order.
    Closed,
    /// By a reset, from which nothing follows.
    Reset,
    /// Before the kernel took a byte of the request.
    Unsent,
}

// === impl Client ===

impl Client {
    /// Whether the request may be sent once more; counts where it could not be.
    pub(super) async fn may_retry(&self, member: &Member, ended: Ended) -> bool {
        // A new connection has not ended because it had been idle.
        if !member.is_reused() {
            return false;
        }
        let outcome = match ended {
            _ if !self.up.is_kept() => RetryOutcome::TooLarge,
            Ended::Unsent => return true,
            Ended::Closed if member.is_untaken().await => return true,
            Ended::Closed | Ended::Reset => RetryOutcome::Unproven,
        };
        self.count_retry(outcome);
        false
    }

    pub(super) fn count_retry(&self, outcome: RetryOutcome) {
        self.report.retried(Retry { why: Repeat::Unacknowledged, outcome });
    }
}

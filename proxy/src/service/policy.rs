//! How a service wants its connections balanced.

use std::time::Duration;

use crate::balance::{Breaker, Mode};

/// What a service says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What its owner has asked for.
    pub mode: Option<Mode>,
    /// Clients are to stay with one endpoint (`sessionAffinity: ClientIP`), which only the original
    /// destination does.
    pub sticky: bool,
    /// Only endpoints on the client's node (`internalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Endpoints that are not ready are used too (`publishNotReadyAddresses`).
    pub not_ready_too: bool,
    /// When endpoints are taken out.
    pub breaker: Breaker,
    /// How long a new endpoint takes to get its whole share; zero for at once.
    pub slow_start: Duration,
}

// === impl Policy ===

impl Policy {
    /// The mode in effect: the service's word over the workload's, and that over the configured
    /// default. A workload can always switch it off for itself.
    #[must_use]
    pub fn mode(&self, workload: Option<Mode>, default: Mode) -> Mode {
        match (self.sticky, workload) {
            (true, _) | (_, Some(Mode::Off)) => Mode::Off,
            (false, workload) => self.mode.or(workload).unwrap_or(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_the_last_word_unless_the_workload_says_off() {
        use Mode::{Connections, Off};
        for (service, workload, default, expected) in [
            (None, None, Connections, Connections),
            (None, None, Off, Off),
            (None, Some(Connections), Off, Connections),
            (Some(Off), Some(Connections), Connections, Off),
            (Some(Connections), None, Off, Connections),
            (Some(Connections), Some(Off), Connections, Off),
        ] {
            let policy = Policy { mode: service, ..Policy::default() };
            assert_eq!(policy.mode(workload, default), expected, "{service:?} {workload:?}");
            assert_eq!(Policy { sticky: true, ..policy }.mode(workload, default), Off);
        }
    }
}

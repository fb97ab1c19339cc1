//! Whether `sk_msg` is on, decided once at the start.

use crate::capture::{self, Instance};

/// Whether `sk_msg` moves the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// Not asked for.
    Off,
    /// On: the self-test passed.
    On,
    /// Asked for, and refused by the self-test, for this reason.
    Refused(String),
}

// === helpers ===

/// Switches `sk_msg` on if it is wanted and the self-test passes; says so where it does not.
pub(super) fn accelerate(instance: &Instance, wanted: bool) -> Acceleration {
    if !wanted {
        return Acceleration::Off;
    }
    match capture::sk_msg_self_test().and_then(|()| instance.accelerate()) {
        Ok(()) => Acceleration::On,
        Err(error) => {
            tracing::warn!(%error, "continuing without sk_msg");
            Acceleration::Refused(error.to_string())
        }
    }
}

//! Tapped connections among those that went direct.

use weir_common::Reason;

use crate::capture::{DirectClose, End};

/// Whether the tap tells of a direct connection itself: those that were established.
pub(super) const fn tells(event: &DirectClose) -> bool {
    matches!(event.reason, Reason::Tapped) && !matches!(event.end, End::NotEstablished(_))
}

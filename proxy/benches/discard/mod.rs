//! Whoever takes the reports of an observer that is measured.

use std::hint::black_box;

use weir::forward::http::{Exchange, ExchangeSink, Untracked};

/// Looks at them and forgets them; an observer that loses track is measured wrongly.
pub(crate) struct Discard;

impl ExchangeSink for Discard {
    fn request_started(&self) {}
    fn exchange(&self, exchange: Exchange) {
        black_box(&exchange);
    }
    fn downgraded(&self, untracked: Untracked) {
        panic!("{untracked:?}");
    }
}

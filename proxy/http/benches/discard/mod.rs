//! Takes the reports of a connection that is measured.

use std::hint::black_box;

use weir_http::{Exchange, ExchangeSink, Untracked};

/// Looks at them and forgets them; a connection that is not followed is measured wrongly.
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

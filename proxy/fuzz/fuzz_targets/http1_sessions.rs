//! Both directions of an HTTP/1 connection, any bytes: the observer forgets no exchange, and reports the
//! same when they come in other pieces. Bodies, pipelining, tunnels and upgrades are reached here.
//!
//! The first byte is the size of the pieces; then come pieces that begin with their length.

#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use weir::forward::http::{Exchange, ExchangeSink, HttpVersion, Untracked};
use weir::forward::{Probe, Side};

#[derive(Default)]
struct Seen(Mutex<(usize, Vec<String>, Vec<Untracked>)>);

impl ExchangeSink for Seen {
    fn request_started(&self) {
        self.0.lock().expect("no panics").0 += 1;
    }

    fn exchange(&self, exchange: Exchange) {
        let Exchange { version, method, authority, path, status, end, .. } = &exchange;
        let Exchange { request_bytes, response_bytes, .. } = &exchange;
        self.0.lock().expect("no panics").1.push(format!(
            "{version} {method} {authority:?} {path} {status:?} {request_bytes}/{response_bytes} {end:?}"
        ));
    }

    fn downgraded(&self, untracked: Untracked) {
        self.0.lock().expect("no panics").2.push(untracked);
    }
}

fn session(script: &[(Side, &[u8])], step: usize) -> (Vec<String>, Vec<Untracked>) {
    let seen = Arc::new(Seen::default());
    let mut observer = Probe::new(HttpVersion::Http1, Arc::clone(&seen) as Arc<_>);
    for (from, bytes) in script {
        for piece in bytes.chunks(step) {
            observer.bytes(*from, piece);
        }
    }
    observer.finish();
    let (started, lines, downgrades) = std::mem::take(&mut *seen.0.lock().expect("no panics"));
    assert_eq!(started, lines.len());
    assert!(downgrades.len() <= 1);
    (lines, downgrades)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, mut rest)) = data.split_first() else { return };
    let mut script = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(usize::from(first & 0x7f).min(behind.len()));
        script.push((if first & 0x80 != 0 { Side::Upstream } else { Side::Client }, piece));
        rest = behind;
    }
    let whole = session(&script, usize::MAX);
    assert_eq!(whole, session(&script, 1), "byte by byte");
    assert_eq!(whole, session(&script, usize::from(*step).max(1)), "in steps");
});

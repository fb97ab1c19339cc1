//! Both directions of an HTTP/1 connection, any bytes: no exchange is forgotten, and the same is reported
//! when they come in other pieces. Bodies, pipelining, tunnels and upgrades are reached here. When it
//! drains, one response says `connection: close`, and its reader understands what is left as before.
//!
//! The first byte is the size of the pieces; then come pieces that begin with their length.

#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use weir_http::{Connection, Exchange, ExchangeEnd, ExchangeSink, Side, Untracked};

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

type Reports = (Vec<String>, Vec<Untracked>);

fn session(script: &[(Side, &[u8])], step: usize) -> Reports {
    draining(script, step, usize::MAX, &mut Vec::new())
}

/// A session that drains from the piece `from` on, and what passes on of it.
fn draining(
    script: &[(Side, &[u8])],
    step: usize,
    drain: usize,
    passed: &mut Vec<(Side, Vec<u8>)>,
) -> Reports {
    let seen = Arc::new(Seen::default());
    let mut connection = Connection::http1(Arc::clone(&seen));
    let mut said = 0;
    for (at, (from, bytes)) in script.iter().enumerate() {
        for piece in bytes.chunks(step) {
            connection.bytes(*from, piece, &mut |_| true);
            let edit = if at >= drain { connection.edit(*from) } else { None };
            let Some(edit) = edit else {
                passed.push((*from, piece.to_vec()));
                continue;
            };
            said += usize::from(*from == Side::Upstream);
            assert_eq!(said, 1, "close is said once, and requests are dropped behind it");
            passed.push((*from, [&piece[..edit.start], edit.text, &piece[edit.end..]].concat()));
        }
    }
    connection.finish(ExchangeEnd::Cancelled);
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
    let step = usize::from(*step).max(1);
    assert_eq!(whole, session(&script, step), "in steps");
    let mut passed = Vec::new();
    let reports = draining(&script, step, script.len() / 2, &mut passed);
    let passed: Vec<_> = passed.iter().map(|(from, bytes)| (*from, &bytes[..])).collect();
    assert_eq!(session(&passed, usize::MAX), reports, "as the client understands it");
});

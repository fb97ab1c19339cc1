//! The HTTP/2 connection preface (RFC 9113 §3.4), all 24 bytes of it. Frames are not looked at.

use weir_http::h2::frames::PREFACE;

use super::Step;

/// The beginning of the preface that can begin an HTTP/1 request line too.
const LIKE_HTTP1: &[u8] = b"PRI * HTTP/";

/// How much of the preface has been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    matched: usize,
}

// === impl Scan ===

impl Scan {
    /// Idempotent after [`Step::Reject`].
    pub(super) fn update(&mut self, seen: &[u8]) -> Step<()> {
        let pairs = seen.iter().zip(PREFACE).skip(self.matched);
        self.matched += pairs.take_while(|(byte, expected)| byte == expected).count();
        if self.matched == PREFACE.len() {
            Step::Done(())
        } else if self.matched < seen.len() {
            Step::Reject("HTTP/2 preface broken off")
        } else {
            Step::Continue
        }
    }

    /// The bytes have followed the preface beyond what it has in common with HTTP/1.
    pub(super) fn outlasts_http1(&self) -> bool {
        self.matched > LIKE_HTTP1.len()
    }
}

/// True as long as these can be the first bytes of a client of HTTP/2.
pub(super) fn may_be_preface(seen: &[u8]) -> bool {
    seen.iter().zip(PREFACE).all(|(byte, expected)| byte == expected)
}

/// True as long as these can be the first bytes of a server of HTTP/2: the header of a SETTINGS
/// frame without flags on stream 0, whose length is a multiple of six (RFC 9113 §4.1, §6.5).
pub(super) fn may_be_server_preface(seen: &[u8]) -> bool {
    let length = |b: &[u8]| u32::from_be_bytes([0, b[0], b[1], b[2]]);
    let rest = seen.iter().skip(3).zip(&[4, 0, 0, 0, 0, 0]);
    rest.into_iter().all(|(byte, expected)| byte == expected)
        && match seen {
            [] => true,
            [first] | [first, _] => *first == 0,
            seen => length(seen) <= 16_384 && length(seen).is_multiple_of(6),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_frame_is_told_from_other_greetings() {
        let settings = [0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        for length in 0..settings.len() {
            assert!(may_be_server_preface(&settings[..length]), "{length}");
        }
        for other in [
            &[0x4a, 0, 0, 0][..],
            b"220 mail",
            &[0, 0, 5, 4, 0, 0, 0, 0, 0],
            &[0, 0, 6, 4, 1, 0, 0, 0, 0],
            &[0, 0, 6, 4, 0, 0, 0, 0, 1],
        ] {
            assert!(!may_be_server_preface(other), "{other:?}");
        }
    }
}

//! Which protocol a client speaks, from its first bytes: pure, incremental and exact. As long as
//! the bytes are a prefix of something known, the answer is [`Verdict::NeedMore`]; with the first
//! byte that rules everything out, it is raw TCP. What the other side says meanwhile is
//! [`dialogue`]'s; waiting, timers and sockets are [`race`]'s.

pub mod dialogue;
mod http1;
mod http2;
pub mod race;
mod tls;

#[cfg(test)]
mod corpus;

pub use tls::TlsInfo;

use crate::decision::Why;

/// How many of a client's bytes are looked at before detection ends in raw TCP. Large enough for
/// a `ClientHello` with post-quantum key shares (about 1.8 KiB) and for nearly every request line
/// (servers commonly stop at 8 KiB).
pub const DEFAULT_PEEK_LIMIT: usize = 8192;

/// The reason for raw TCP when the bytes outgrew the limit.
pub const PEEK_LIMIT_REACHED: &str = Why::PeekLimit.text();

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A proper prefix of at least one known protocol.
    NeedMore,
    /// An HTTP/1.0 or HTTP/1.1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS `ClientHello`.
    Tls(TlsInfo),
    /// None of these, and why.
    Tcp(&'static str),
}

/// What one protocol's scanner says. The scanners stay where they stopped, so that a byte is
/// looked at once, whatever the segmentation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step<T> {
    /// More bytes are needed.
    Continue,
    /// The protocol is this one.
    Done(T),
    /// It is not, and why.
    Reject(&'static str),
}

/// Detection for one connection. The caller keeps the bytes; the detector keeps its place.
#[derive(Debug)]
pub struct Detector {
    limit: usize,
    http1: http1::Scan,
    http2: http2::Scan,
    tls: tls::Scan,
    gave_up: bool,
}

// === impl Verdict ===

impl Verdict {
    /// True once more bytes cannot change the verdict.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::NeedMore)
    }
}

// === impl Detector ===

impl Default for Detector {
    fn default() -> Self {
        Self::new(DEFAULT_PEEK_LIMIT)
    }
}

impl Detector {
    /// A detector that looks at no more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            http1: http1::Scan::default(),
            http2: http2::Scan::default(),
            tls: tls::Scan::new(limit),
            gave_up: false,
        }
    }

    /// Continues with `seen`: *all* bytes received so far, of which earlier calls saw a prefix.
    /// To be called until the verdict is final.
    pub fn update(&mut self, seen: &[u8]) -> Verdict {
        let window = &seen[..seen.len().min(self.limit)];
        let verdict = match window.first() {
            None => Verdict::NeedMore,
            // No HTTP begins with this byte.
            Some(&tls::HANDSHAKE) => match self.tls.update(window) {
                Step::Done(info) => Verdict::Tls(info),
                Step::Continue => Verdict::NeedMore,
                Step::Reject(why) => Verdict::Tcp(why),
            },
            Some(_) => self.update_http(window),
        };
        if !verdict.is_final() && seen.len() >= self.limit {
            self.gave_up = true;
            return self.give_up(PEEK_LIMIT_REACHED);
        }
        verdict
    }

    fn update_http(&mut self, window: &[u8]) -> Verdict {
        match (self.http1.update(window), self.http2.update(window)) {
            (Step::Done(()), _) => Verdict::Http1,
            (_, Step::Done(())) => Verdict::Http2,
            (Step::Continue, _) | (_, Step::Continue) => Verdict::NeedMore,
            // The one that held out longer has the more telling reason.
            (Step::Reject(_), Step::Reject(why)) if self.http2.outlasts_http1() => {
                Verdict::Tcp(why)
            }
            (Step::Reject(why), Step::Reject(_)) => Verdict::Tcp(why),
        }
    }

    /// True if the verdict is one because of the limit: more bytes could have changed it.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// The verdict if no further byte is waited for: raw TCP because of `why`, or TLS without
    /// labels if a `ClientHello` has begun beyond doubt.
    #[must_use]
    pub fn give_up(&self, why: &'static str) -> Verdict {
        if self.tls.is_client_hello() {
            Verdict::Tls(TlsInfo::default())
        } else {
            Verdict::Tcp(why)
        }
    }
}

/// The verdict on `bytes`, with the default limit.
#[must_use]
pub fn detect(bytes: &[u8]) -> Verdict {
    Detector::default().update(bytes)
}

#[cfg(test)]
mod tests;

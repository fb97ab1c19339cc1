//! What both sides of a connection say until it is decided, and what that teaches about the
//! destination. Pure: the same for bytes that are held (`race.rs`) and for bytes that pass by
//! (`connection/detecting.rs`).

use bytes::BytesMut;

use super::{Detector, TlsInfo, Verdict, http2, tls};
use crate::decision::{Detection, Why};

/// What was found, with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// HTTP/1, HTTP/2, TLS or raw TCP, and why.
    pub detection: Detection,
    /// The labels of a `ClientHello`, if it was one.
    pub tls: Option<TlsInfo>,
}

/// What a connection teaches about its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// It speaks something that is looked for.
    Known,
    /// The server said, before it was sent anything, what is nothing that is looked for.
    RawUnasked,
    /// The same in answer to a client. What strangers are answered they may have chosen.
    RawAnswer,
}

/// The first bytes of both sides, up to the decision.
#[derive(Debug)]
pub struct Dialogue {
    limit: usize,
    detector: Detector,
    client: BytesMut,
    server: BytesMut,
    /// The server has sent what may be the beginning of HTTP/2.
    server_preface: bool,
}

// === impl Conclusion ===

impl Conclusion {
    /// What the destination is known to speak now. What is raw so far is not known to be before the
    /// server has said something: see [`Dialogue::lesson`].
    #[must_use]
    pub fn lesson(&self) -> Option<Lesson> {
        match self.detection {
            Detection::Http1 | Detection::Http2 | Detection::Tls { settled: true } => {
                Some(Lesson::Known)
            }
            Detection::Tls { settled: false }
            | Detection::Tcp(_)
            | Detection::Opaque(_)
            | Detection::Direct { .. } => None,
        }
    }
}

impl From<Detection> for Conclusion {
    fn from(detection: Detection) -> Self {
        Self { detection, tls: None }
    }
}

impl From<Why> for Conclusion {
    fn from(why: Why) -> Self {
        Detection::Tcp(why).into()
    }
}

// === impl Dialogue ===

impl Dialogue {
    /// Looks at no more than `limit` bytes of the client.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            detector: Detector::new(limit),
            client: BytesMut::new(),
            server: BytesMut::new(),
            server_preface: false,
        }
    }

    /// What the client has said before the bytes that decided: all of it until then.
    #[must_use]
    pub fn client(&self) -> &[u8] {
        &self.client
    }

    /// What the server has said before the client's bytes decided, or its own did.
    #[must_use]
    pub fn server(&self) -> &[u8] {
        &self.server
    }

    /// The next bytes of the client; not to be called once there is a conclusion.
    pub fn client_said(&mut self, bytes: &[u8]) -> Option<Conclusion> {
        // Nearly always the first ones decide, and need not be kept.
        let before = self.client.len();
        let verdict = if before == 0 {
            self.detector.update(bytes)
        } else {
            self.client.extend_from_slice(bytes);
            let verdict = self.detector.update(&self.client);
            self.client.truncate(before);
            verdict
        };
        if verdict.is_final() {
            return Some(self.conclude(verdict));
        }
        self.client.extend_from_slice(bytes);
        let not_http2 = self.server_preface && !http2::may_be_preface(&self.client);
        not_http2.then(|| Why::ServerFirst.into())
    }

    /// The next bytes of the server; not to be called once there is a conclusion. Servers of one
    /// protocol that is looked for may speak before they were sent something: an HTTP/2 server's
    /// SETTINGS need not wait for the client's preface (RFC 9113 §3.4). Everything else is raw TCP
    /// at once.
    pub fn server_said(&mut self, bytes: &[u8]) -> Option<Conclusion> {
        self.server.extend_from_slice(bytes);
        let http2 = self.server.len() <= self.limit
            && http2::may_be_server_preface(&self.server)
            && http2::may_be_preface(&self.client);
        if http2 {
            self.server_preface = true;
            return None;
        }
        Some(match self.client.is_empty() {
            true => Why::ServerFirst.into(),
            false => Why::ServerBeforeTheRest.into(),
        })
    }

    /// The client says nothing more, and there is no conclusion.
    pub fn client_ended(&self) -> Conclusion {
        self.give_up(true)
    }

    /// The server says nothing more, and there is no conclusion.
    pub fn server_ended(&self) -> Conclusion {
        self.give_up(false)
    }

    /// What the first bytes of the server teach about a destination whose connection is raw TCP.
    /// `asked`: the client had said something before. HTTP and TLS are known by their answers too:
    /// to what they do not understand, and unasked where a server is tired of waiting (408).
    #[must_use]
    pub fn lesson(server: &[u8], asked: bool) -> Option<Lesson> {
        let http1 = server.iter().zip(b"HTTP/").all(|(byte, expected)| byte == expected);
        let known = http1 || http2::may_be_server_preface(server) || tls::may_be_server(server);
        (!known).then_some(match asked {
            true => Lesson::RawAnswer,
            false => Lesson::RawUnasked,
        })
    }

    fn give_up(&self, by_client: bool) -> Conclusion {
        let why = Why::Ended { by_client, said: !self.client.is_empty() };
        match self.detector.give_up(why.text()) {
            Verdict::Tls(info) => self.tls(info, false),
            _ => why.into(),
        }
    }

    /// Of what the client's bytes say.
    fn conclude(&self, verdict: Verdict) -> Conclusion {
        let gave_up = self.detector.gave_up();
        match verdict {
            Verdict::Http1 if self.server_preface => Why::ServerFirst.into(),
            Verdict::Http1 => Detection::Http1.into(),
            Verdict::Http2 => Detection::Http2.into(),
            Verdict::Tls(info) => self.tls(info, !gave_up),
            Verdict::Tcp(why) if !gave_up => Why::Bytes(why).into(),
            Verdict::Tcp(_) | Verdict::NeedMore => Why::PeekLimit.into(),
        }
    }

    fn tls(&self, info: TlsInfo, settled: bool) -> Conclusion {
        if self.server_preface {
            return Why::ServerFirst.into();
        }
        Conclusion { detection: Detection::Tls { settled }, tls: Some(info) }
    }
}

#[cfg(test)]
mod tests;

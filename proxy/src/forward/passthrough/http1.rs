//! Follows HTTP/1 messages (RFC 9112) beside bytes that pass as they came. Heads may have any size
//! and any number of fields: of what is not reported, nothing is kept.
//!
//! The grammar of heads is that of httparse as the terminating engine uses it (`http1/head.rs`), in an
//! incremental form: httparse needs a head in one piece. For heads that come so it would save about
//! a tenth of what an exchange costs, by a profile of `benches/http1.rs`: not worth a second grammar.
//! What the parts mean is shared (`http1/fields.rs`, `http1/body.rs`, `http1/exchanges.rs`).

mod request;
mod response;
mod section;
#[cfg(test)]
mod tests;
mod token;
mod version;

use std::sync::Arc;

use self::request::RequestReader;
use self::response::{ResponseHead, ResponseReader};
use super::http2::Http2Observer;
use super::{OVER_BUDGET, Observer};
use crate::budget::Charge;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpVersion, Untracked};
use crate::forward::http1::body::{Body, Framing};
use crate::forward::http1::exchanges::{Answer, Exchanges};
use crate::forward::http1::fields::RequestHead;

/// The client's bytes behind a request that may take the connection over, kept for reading until
/// the response decides what they are. Clients wait for it, or say little.
const MAX_HELD: usize = 16 << 10;

/// What the records of requests that wait may take together, in bytes of their words.
const MAX_WORDS: usize = 1 << 20;

const TOO_MANY: &str = "too many pipelined requests";

/// Follows both directions of an HTTP/1 connection.
pub(crate) struct Http1Observer {
    exchanges: Exchanges,
    requests: Requests,
    responses: Responses,
    request: RequestReader,
    response: ResponseReader,
    /// Bytes of the request head that is being read.
    partial: u64,
    /// See [`MAX_HELD`].
    held: Vec<u8>,
    client_ended: bool,
    /// The upstream ended while nothing was under way, and the client has said nothing since.
    over: bool,
    /// For what is kept here.
    charge: Charge,
    /// Set once the connection has become HTTP/2.
    http2: Option<Box<Http2Observer>>,
}

enum Requests {
    Head,
    Body(Body),
    /// The response decides what the next bytes are.
    Held,
    /// A tunnel, or nothing that is read.
    Raw,
}

enum Responses {
    Head,
    Body(Body),
    Raw,
}

// === impl Http1Observer ===

impl Http1Observer {
    /// Starts at the first byte of both streams.
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        let charge = Charge::to(sink.share());
        Self {
            exchanges: Exchanges::new(sink),
            requests: Requests::Head,
            responses: Responses::Head,
            request: RequestReader::new(),
            response: ResponseReader::new(),
            partial: 0,
            held: Vec::new(),
            client_ended: false,
            over: false,
            charge,
            http2: None,
        }
    }

    fn requests(&mut self, input: &[u8]) {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            match &mut self.requests {
                Requests::Head => match self.request.read(rest) {
                    Ok(Some((head, length))) => {
                        at += length;
                        self.request_started(head);
                    }
                    Ok(None) => {
                        self.partial += rest.len() as u64;
                        return;
                    }
                    Err(reason) => return self.lose_track(Side::Client, reason),
                },
                Requests::Body(body) => match body.advance(rest) {
                    Ok(progress) => {
                        at += progress.consumed;
                        self.exchanges.request_bytes(progress.content);
                        if progress.done {
                            self.request_done();
                        }
                    }
                    Err(_) => return self.lose_track(Side::Client, "invalid chunk"),
                },
                Requests::Held => return self.hold(rest),
                Requests::Raw => return self.exchanges.request_bytes(rest.len() as u64),
            }
        }
    }

    fn responses(&mut self, input: &[u8]) {
        let mut at = 0;
        let mut began = false;
        while at < input.len() {
            let rest = &input[at..];
            match &mut self.responses {
                Responses::Head => {
                    let Some(request) = self.exchanges.waiting() else {
                        return self.lose_track(Side::Upstream, "response without a request");
                    };
                    match self.response.read(rest, request.kind) {
                        Ok(Some((head, length))) if request.h2c && self.switches(&head) => {
                            return self.switch(&rest[length..]);
                        }
                        Ok(Some((head, length))) => {
                            at += length;
                            began = true;
                            self.response_started(head);
                        }
                        Ok(None) => return,
                        Err(reason) => return self.lose_track(Side::Upstream, reason),
                    }
                }
                Responses::Body(body) => match body.advance(rest) {
                    Ok(progress) => {
                        at += progress.consumed;
                        self.exchanges.response_bytes(progress.content);
                        if progress.done {
                            self.response_done(began);
                        }
                    }
                    Err(_) => return self.lose_track(Side::Upstream, "invalid chunk"),
                },
                Responses::Raw => return self.exchanges.response_bytes(rest.len() as u64),
            }
        }
    }

    fn request_started(&mut self, head: RequestHead) {
        self.partial = 0;
        if self.exchanges.is_full() || self.exchanges.words() > MAX_WORDS {
            return self.lose_track(Side::Client, TOO_MANY);
        }
        let body = Body::new(head.framing);
        self.exchanges.start(head);
        if body.is_done() {
            self.request_done();
        } else {
            self.requests = Requests::Body(body);
        }
    }

    fn request_done(&mut self) {
        let held = self.exchanges.request_done();
        self.requests = if held { Requests::Held } else { Requests::Head };
    }

    fn response_started(&mut self, head: ResponseHead) {
        match self.exchanges.response_head(head.status, head.grpc) {
            Answer::Interim => {}
            Answer::Tunnel => self.become_tunnel(),
            Answer::Final => {
                let releases = self.exchanges.len() == 1 && matches!(self.requests, Requests::Held);
                let body = Body::new(head.framing);
                if body.is_done() && head.framing != Framing::UntilEof {
                    self.response_done(true);
                } else {
                    self.responses = Responses::Body(body);
                }
                if releases {
                    self.release();
                }
            }
        }
    }

    /// `at_once`: in the segment in which its head ended.
    fn response_done(&mut self, at_once: bool) {
        self.responses = Responses::Head;
        self.exchanges.response_done(at_once);
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.len() + bytes.len() > MAX_HELD {
            return self.lose_track(Side::Client, "too many bytes behind an upgrade");
        }
        self.held.extend_from_slice(bytes);
    }

    /// The request did not take the connection over: what came behind it is HTTP.
    fn release(&mut self) {
        self.requests = Requests::Head;
        let held = std::mem::take(&mut self.held);
        self.requests(&held);
        if self.client_ended {
            self.client_ended();
        }
    }

    fn become_tunnel(&mut self) {
        self.exchanges.request_bytes(self.partial + self.held.len() as u64);
        self.pass_everything();
    }

    /// Only the request that the switch is about is in flight, and it is complete.
    fn switches(&self, head: &ResponseHead) -> bool {
        head.status == 101
            && head.h2c
            && self.exchanges.len() == 1
            && matches!(self.requests, Requests::Held)
    }

    fn switch(&mut self, rest: &[u8]) {
        let Some(tracker) = self.exchanges.switch() else { return };
        let mut http2 = Http2Observer::after_upgrade(Arc::clone(self.exchanges.sink()), tracker);
        http2.bytes(Side::Client, &self.held);
        if self.client_ended {
            http2.ended(Side::Client);
        }
        http2.bytes(Side::Upstream, rest);
        self.http2 = Some(Box::new(http2));
        self.pass_everything();
    }

    fn client_ended(&mut self) {
        if matches!(self.requests, Requests::Head) && !self.request.is_between() {
            self.lose_track(Side::Client, "the client closed inside a head");
        }
    }

    /// What the upstream has not answered it never will; a tunnel's other direction goes on.
    fn upstream_ended(&mut self) {
        match &self.responses {
            Responses::Raw => return,
            Responses::Body(body) if body.is_until_eof() => self.response_done(false),
            Responses::Head | Responses::Body(_) => {}
        }
        self.exchanges.settle_early_answer();
        self.over = self.is_between_messages();
        let end = match self.client_ended {
            true => ExchangeEnd::ClientReset(None),
            false => ExchangeEnd::UpstreamClosed,
        };
        self.exchanges.abandon(end.clone(), end);
        self.pass_everything();
    }

    fn is_between_messages(&self) -> bool {
        self.exchanges.is_empty()
            && matches!(self.requests, Requests::Head)
            && matches!(self.responses, Responses::Head)
            && self.request.is_between()
            && self.response.is_between()
    }

    fn lose_track(&mut self, side: Side, reason: &'static str) {
        self.exchanges.lose_track(side, reason);
        self.pass_everything();
    }

    /// Nothing is read any more, and nothing kept.
    fn pass_everything(&mut self) {
        self.requests = Requests::Raw;
        self.responses = Responses::Raw;
        self.request = RequestReader::new();
        self.response = ResponseReader::new();
        self.held = Vec::new();
        self.partial = 0;
    }

    fn settle(&mut self, from: Side) {
        if !self.charge.keep(self.memory()) {
            self.lose_track(from, OVER_BUDGET);
            // Nothing is kept any more.
            let _ = self.charge.keep(0);
        }
    }

    /// Bytes of the heap that are held for this connection: bounded, whatever the peers send.
    fn memory(&self) -> usize {
        self.held.capacity() + self.request.held() + self.response.held() + self.exchanges.memory()
    }
}

impl Observer for Http1Observer {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        match (&mut self.http2, from) {
            (Some(http2), _) => return http2.bytes(from, bytes),
            (None, Side::Client) => {
                self.over &= bytes.is_empty();
                self.requests(bytes);
            }
            (None, Side::Upstream) => self.responses(bytes),
        }
        self.settle(from);
    }

    fn ended(&mut self, from: Side) {
        match (&mut self.http2, from) {
            (Some(http2), _) => http2.ended(from),
            (None, Side::Client) => {
                self.client_ended = true;
                self.client_ended();
            }
            (None, Side::Upstream) => self.upstream_ended(),
        }
    }

    fn is_idle(&self) -> bool {
        match &self.http2 {
            Some(http2) => http2.is_idle(),
            None => self.over || self.is_between_messages(),
        }
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        self.http2.as_ref()?.farewell()
    }

    fn version(&self) -> HttpVersion {
        match &self.http2 {
            Some(http2) => http2.version(),
            None => HttpVersion::Http1,
        }
    }

    fn untracked(&self) -> Option<Untracked> {
        match &self.http2 {
            Some(http2) => http2.untracked(),
            None => self.exchanges.untracked(),
        }
    }

    fn finish(&mut self, end: ExchangeEnd) {
        if let Some(http2) = &mut self.http2 {
            return http2.finish(end);
        }
        // weir answers the first; nobody does the others.
        let rest = match end {
            ExchangeEnd::Answered(_) => ExchangeEnd::UpstreamReset(None),
            _ => end.clone(),
        };
        self.exchanges.abandon(end, rest);
        self.pass_everything();
    }
}

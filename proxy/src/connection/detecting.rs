//! Decides what a connection is while its bytes pass by: nothing is held for it. From then on HTTP is
//! followed, and the rest is not looked at, but for the first words of a server whose client has
//! spoken something else: they teach what the destination speaks.

use std::{borrow::Borrow, mem, ops::Deref, time::Instant};

use weir_http::h1::Edit;

use super::Context;
use crate::{
    decision::{Detection, Why},
    detect::dialogue::{Conclusion, Dialogue},
    forward::{
        Side,
        http::{ExchangeEnd, HttpVersion, Untracked},
        passthrough::{HttpObserver, Observer},
    },
    telemetry::ConnectionGuard,
};

/// Looks on at one connection, from its first byte on. `C` and `G` are how it has what it needs of the
/// workload and of the connection.
pub(super) struct Detecting<C, G> {
    context: C,
    guard: G,
    accepted: Instant,
    state: State,
}

enum State {
    Undecided(Dialogue),
    Http(HttpObserver),
    /// Raw TCP by the client's words; the server has not said anything.
    Unanswered,
    Done,
}

// === impl Detecting ===

impl<C: Deref<Target = Context>, G: Borrow<ConnectionGuard>> Detecting<C, G> {
    pub(super) fn new(context: C, guard: G, accepted: Instant) -> Self {
        let dialogue = Dialogue::new(context.config.now().detect.peek_limit);
        Self { context, guard, accepted, state: State::Undecided(dialogue) }
    }

    /// What the connection is told to.
    pub(super) fn guard(&self) -> &ConnectionGuard {
        self.guard.borrow()
    }

    /// Ends looking on.
    pub(super) fn into_guard(self) -> G {
        self.guard
    }

    /// `last` has decided; it was said by `from`.
    fn conclude(&mut self, conclusion: Conclusion, from: Side, last: &[u8]) {
        let State::Undecided(dialogue) = mem::replace(&mut self.state, State::Done) else { return };
        let detection = conclusion.detection;
        self.context.decide(conclusion, self.guard.borrow(), self.accepted);
        match detection {
            Detection::Http1 => self.follow(HttpVersion::Http1, &dialogue, from, last),
            Detection::Http2 => self.follow(HttpVersion::Http2, &dialogue, from, last),
            Detection::Tcp(_) if !dialogue.server().is_empty() => {
                self.heard(dialogue.server(), !dialogue.client().is_empty());
            }
            Detection::Tcp(_) if !dialogue.client().is_empty() || !last.is_empty() => {
                self.state = State::Unanswered;
            }
            _ => {}
        }
    }

    fn follow(&mut self, version: HttpVersion, dialogue: &Dialogue, from: Side, last: &[u8]) {
        let mut observer = HttpObserver::new(version, self.guard.borrow().sink());
        // A server speaks before the client only in HTTP/2. The client may have heeded its settings.
        observer.bytes(Side::Upstream, dialogue.server());
        observer.bytes(Side::Client, dialogue.client());
        observer.bytes(from, last);
        self.state = State::Http(observer);
    }

    /// The first words of the server on a connection that is raw TCP.
    fn heard(&self, words: &[u8], asked: bool) {
        if let Some(lesson) = Dialogue::lesson(words, asked) {
            self.context.learn(self.guard.borrow(), lesson);
        }
    }
}

impl<C, G> Observer for Detecting<C, G>
where
    C: Deref<Target = Context> + Send,
    G: Borrow<ConnectionGuard> + Send,
{
    fn passed(&mut self, from: Side, count: u64) {
        match &mut self.state {
            State::Http(observer) => observer.passed(from, count),
            // More than is looked at for detection.
            State::Undecided(_) => self.conclude(Why::PeekLimit.into(), from, &[]),
            State::Unanswered | State::Done => {}
        }
    }

    fn lose(&mut self, reason: &'static str) {
        match &mut self.state {
            State::Http(observer) => observer.lose(reason),
            State::Undecided(_) | State::Unanswered | State::Done => {
                self.guard.borrow().sink().downgraded(Untracked { side: Side::Upstream, reason });
                self.state = State::Done;
            }
        }
    }

    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        match &mut self.state {
            State::Http(observer) => observer.bytes(from, bytes),
            State::Undecided(dialogue) => {
                let conclusion = match from {
                    Side::Client => dialogue.client_said(bytes),
                    Side::Upstream => dialogue.server_said(bytes),
                };
                if let Some(conclusion) = conclusion {
                    self.conclude(conclusion, from, bytes);
                }
            }
            State::Unanswered if from == Side::Upstream => {
                self.heard(bytes, true);
                self.state = State::Done;
            }
            State::Unanswered | State::Done => {}
        }
    }

    fn ended(&mut self, from: Side) {
        match &mut self.state {
            State::Http(observer) => observer.ended(from),
            State::Undecided(dialogue) => {
                let conclusion = match from {
                    Side::Client => dialogue.client_ended(),
                    Side::Upstream => dialogue.server_ended(),
                };
                self.conclude(conclusion, from, &[]);
            }
            State::Unanswered if from == Side::Upstream => self.state = State::Done,
            State::Unanswered | State::Done => {}
        }
    }

    fn is_idle(&self) -> bool {
        matches!(&self.state, State::Http(observer) if observer.is_idle())
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        match &self.state {
            State::Http(observer) => observer.farewell(),
            State::Undecided(_) | State::Unanswered | State::Done => None,
        }
    }

    fn edit(&mut self, from: Side) -> Option<Edit> {
        match &mut self.state {
            State::Http(observer) => observer.edit(from),
            State::Undecided(_) | State::Unanswered | State::Done => None,
        }
    }

    fn untracked(&self) -> Option<Untracked> {
        match &self.state {
            State::Http(observer) => observer.untracked(),
            State::Undecided(_) | State::Unanswered | State::Done => None,
        }
    }

    fn is_done(&self) -> bool {
        match &self.state {
            State::Http(observer) => observer.is_done(),
            State::Undecided(_) | State::Unanswered => false,
            State::Done => true,
        }
    }

    fn looks_at(&self, side: Side) -> bool {
        match &self.state {
            State::Http(observer) => observer.looks_at(side),
            State::Undecided(_) => true,
            State::Unanswered => side == Side::Upstream,
            State::Done => false,
        }
    }

    fn finish(&mut self, end: ExchangeEnd) {
        if let State::Http(observer) = &mut self.state {
            observer.finish(end);
        }
    }
}

//! Requests that are routed by their heads: where they go, what is changed of them, and what weir answers
//! itself.

use std::future::poll_fn;

use weir_http::{
    Endpoints as _, OwnAnswer, RequestView, Routed, TIMEOUT, edit_request, edit_response,
    head_length,
};

use super::End;
use super::again::Again;
use super::client::Client;
use crate::forward::retries::RetryOutcome;

// === impl Client ===

impl Client {
    /// Decides by its head where the request that has begun goes, and changes the head.
    pub(super) fn route(&mut self) -> Option<OwnAnswer> {
        if self.to.take().is_some() {
            self.again = Again::default();
        }
        self.is_response_edited = false;
        if !self.session.has_request() || !self.requests.is_routed() {
            return None;
        }
        let head = self.up.front();
        let length = head_length(head)?;
        match self.requests.route(&RequestView::of_head(head)?)? {
            Routed::Answer(answer) => Some(answer),
            Routed::To(to) => {
                if !to.request.is_empty() {
                    let edited = edit_request(&self.up.front()[..length], &to.request);
                    self.up.replace_front(length, &edited);
                }
                self.report.routed(Some(to.name.clone()));
                self.to = Some(to);
                self.begin_limits();
                None
            }
        }
    }

    /// Answers the request that has begun; `Some` if the connection is to end behind it, because the rest of
    /// the request would have to be read first, or because what comes cannot be followed.
    pub(super) async fn answer(&mut self, answer: OwnAnswer) -> Option<End> {
        self.report.answers(answer.reason, answer.name.clone());
        self.say(&answer).await
    }

    /// The same, where the report knows already.
    async fn say(&mut self, answer: &OwnAnswer) -> Option<End> {
        let is_whole = self.session.has_whole_request();
        let closes = self.draining || self.session.unpoolable().is_some() || !is_whole;
        let head = answer.head(closes);
        self.up.discard();
        self.session.responses(&head, 0);
        self.down.say(&head);
        let written = poll_fn(|cx| self.down.poll_write(&mut self.stream, cx)).await;
        self.down.rest();
        match written {
            Ok(()) => closes.then_some(End::Finished),
            Err(_) => Some(End::ClientReset),
        }
    }

    /// The same where no endpoint of a route could be reached, or has answered in time. Without a route the
    /// connection ends as that to the upstream.
    pub(super) async fn answer_instead(&mut self, end: End) -> Option<End> {
        self.settle_again(RetryOutcome::Failure);
        match (&self.to, end) {
            (Some(_), End::Unreachable(_)) => {
                self.answer(OwnAnswer::error(503, "no-endpoint", None)).await
            }
            (Some(_), End::TimedOut) => self.say(&OwnAnswer::error(504, TIMEOUT, None)).await,
            _ => Some(end),
        }
    }

    /// The head of the response is still to be changed.
    pub(super) fn edits_response(&self) -> bool {
        !self.is_response_edited && self.to.as_ref().is_some_and(|to| !to.response.is_empty())
    }

    /// Changes the head of the response, as far as it has come, of which `complete` bytes may be sent. How
    /// many of them are left.
    pub(super) fn edit_response(&mut self, mut complete: usize) -> usize {
        let Some(to) = &self.to else { return complete };
        while !self.is_response_edited {
            let head = &self.down.uncleared()[..complete];
            let Some(length) = head_length(head) else { break };
            let head = &head[..length];
            complete -= length;
            // Behind an interim response comes the final one (RFC 9110 §15.2).
            let is_interim = head
                .split(|byte| *byte == b' ')
                .nth(1)
                .is_some_and(|status| status.len() == 3 && status[0] == b'1');
            if is_interim {
                self.down.clear(length);
            } else {
                let edited = edit_response(head, &to.response);
                self.down.replace(length, &edited);
                self.is_response_edited = true;
            }
        }
        complete
    }
}

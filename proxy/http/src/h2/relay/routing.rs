//! Requests that are routed by their heads.

use super::peer::StreamKey;
use super::stream::Stream;
use super::{Endpoints, Relay};
use crate::h2::fields::FieldList;
use crate::routing::edit_list;
use crate::{ExchangeSink, RequestView, Routed};

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Decides where a new stream goes, and changes its head; false where it is answered already, or waits.
    pub(super) fn route(&mut self, key: StreamKey) -> bool {
        let Self { streams, endpoints, .. } = self;
        let Some(stream) = streams.get_mut(key) else { return false };
        let Some(again) = &mut stream.again else { return false };
        match endpoints.route(&RequestView::of_list(&again.head)) {
            None => true,
            Some(Routed::Answer(answer)) => {
                stream.tracker.routed(answer.name.clone());
                self.answer(key, &answer);
                false
            }
            Some(Routed::To(to)) => {
                if !to.request.is_empty() {
                    again.head = to.request.apply(&again.head);
                }
                stream.tracker.routed(Some(to.name.clone()));
                stream.to = Some(to);
                self.begin_limits(key);
                !self.delays(key)
            }
        }
    }

    /// Has a stream wait before it is sent, where its route says so.
    fn delays(&mut self, key: StreamKey) -> bool {
        let clock = self.clock;
        let Some(plan) = self.streams.get_mut(key).and_then(|it| it.plan()) else { return false };
        let Some(delay) = plan.take_delay() else { return false };
        plan.resumes = Some(clock() + delay);
        self.arm(key);
        true
    }
}

// === impl Stream ===

impl<S: ExchangeSink + ?Sized, L> Stream<S, L> {
    /// The head of a response with what a filter changes of it, if any does.
    pub(super) fn edited_response(&self, status: u16, list: &FieldList) -> Option<FieldList> {
        let edits = &self.to.as_ref()?.response;
        (status >= 200 && !edits.is_empty()).then(|| edit_list(list.clone(), edits))
    }
}

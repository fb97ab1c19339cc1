//! What the relay answers itself, in the place of an endpoint.

use super::peer::StreamKey;
use super::{Endpoints, PeerId, Relay};
use crate::h2::fields::FieldList;
use crate::routing::edit_list;
use crate::{ERROR_HEADER, ExchangeEnd, ExchangeSink, OwnAnswer};

/// Where a route leads, an error of its backend is 503; elsewhere weir is a gateway (RFC 9110 §15.6.3).
const UNROUTED: u16 = 502;
const ROUTED: u16 = 503;

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Ends a stream that can be sent to no endpoint.
    #[cold]
    pub(super) fn answer_unreachable(&mut self, key: StreamKey) {
        let is_routed = self.streams.get(key).is_some_and(|stream| stream.to.is_some());
        let status = if is_routed { ROUTED } else { UNROUTED };
        self.answer(key, &OwnAnswer::error(status, "no-endpoint", None));
    }

    /// Ends a stream that has no answer yet with one of its own.
    #[cold]
    pub(super) fn answer(&mut self, key: StreamKey, answer: &OwnAnswer) {
        let Self { streams, clients, .. } = self;
        let Some(stream) = streams.get_mut(key) else { return };
        let Some(client) = clients.get_mut(stream.client) else { return };
        let is_error = answer.status >= 400;
        let reason = answer.reason;
        // Trailers alone, with which any error of gRPC may be told.
        let grpc = (stream.is_grpc && is_error).then(|| answer.grpc_status());
        let status = if grpc.is_some() { 200 } else { answer.status };
        let (status_text, code) = (status.to_string(), grpc.unwrap_or_default().to_string());
        let mut fields = vec![(":status", &*status_text)];
        if is_error {
            fields.push((ERROR_HEADER, reason));
        }
        if let Some(location) = &answer.location {
            fields.push(("location", location));
        }
        if grpc.is_some() {
            stream.tracker.grpc_status(grpc);
            fields.push(("content-type", "application/grpc"));
            fields.extend([("grpc-status", &*code), ("grpc-message", reason)]);
        } else {
            fields.push(("content-length", "0"));
        }
        let list = edit_list(FieldList::of(&fields), &answer.fields);
        let (peer, number) = (&mut client.peer, stream.client_id);
        peer.out.headers(number, &list, true, (&mut peer.encoder, peer.remote.max_frame));
        if !stream.request.is_ended {
            // The rest of the request is not wanted (RFC 9113 §8.1).
            peer.out.reset(number, super::Code::NO_ERROR);
        }
        stream.tracker.head(status, stream.is_grpc);
        let client = stream.client;
        self.mark(PeerId::Client(client));
        self.finish(key, ExchangeEnd::Answered(reason));
    }
}

//! What the relay answers itself, in the place of an endpoint.

use super::peer::StreamKey;
use super::{Endpoints, PeerId, Relay};
use crate::h2::fields::FieldList;
use crate::{ERROR_HEADER, ExchangeEnd, ExchangeSink, GRPC_UNAVAILABLE};

/// Why the relay answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// No endpoint can be reached.
    NoEndpoint,
    /// All endpoints have as many streams as they allow, and no more may wait.
    Overload,
    /// The endpoint has closed its connection.
    UpstreamClosed,
    /// The endpoint's connection has failed.
    UpstreamReset,
}

// === impl Answer ===

impl Answer {
    /// For the client and for the record.
    const fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no-endpoint",
            Self::Overload => "overload",
            Self::UpstreamClosed => "upstream-closed",
            Self::UpstreamReset => "upstream-reset",
        }
    }

    /// To requests that are no calls of gRPC.
    const fn status(self) -> u16 {
        match self {
            Self::Overload => 503,
            Self::NoEndpoint | Self::UpstreamClosed | Self::UpstreamReset => 502,
        }
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Ends a stream that has no answer yet, and cannot get one.
    #[cold]
    pub(super) fn answer(&mut self, key: StreamKey, answer: Answer) {
        let Self { streams, clients, .. } = self;
        let Some(stream) = streams.get_mut(key) else { return };
        let Some(client) = clients.get_mut(stream.client) else { return };
        let (code, reason) = (GRPC_UNAVAILABLE.to_string(), answer.reason());
        let status = answer.status().to_string();
        let (status, fields) = match stream.is_grpc {
            true => {
                let content_type = ("content-type", "application/grpc");
                let status = (":status", "200");
                let grpc = [("grpc-status", &*code), ("grpc-message", reason)];
                stream.tracker.grpc_status(Some(GRPC_UNAVAILABLE));
                (200, vec![status, (ERROR_HEADER, reason), content_type, grpc[0], grpc[1]])
            }
            false => {
                let status = (":status", &*status);
                let fields = [status, (ERROR_HEADER, reason), ("content-length", "0")];
                (answer.status(), fields.to_vec())
            }
        };
        let (list, peer, number) = (FieldList::of(&fields), &mut client.peer, stream.client_id);
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

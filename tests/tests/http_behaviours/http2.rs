//! HTTP/2: what the peers say to each other in one stream, and about the connection. Both peers are
//! the h2 crate over the two ends of a connection.

mod connection;
mod peers;
mod streams;

use super::Behaviour;

pub(crate) const TABLE: &[Behaviour] = &[
    ("HTTP/2: pseudo fields and fields pass untouched", streams::fields),
    ("HTTP/2: messages without a body gain none, and no field", streams::bodyless),
    ("HTTP/2: HEAD, 204 and 304 are bare", streams::bare),
    ("HTTP/2: content-length and bodies are preserved both ways", streams::bodies),
    ("HTTP/2: 8 MiB pass both ways under flow control", streams::large),
    ("HTTP/2: trailers pass both ways", streams::trailers),
    ("HTTP/2: 1xx are passed on, each", streams::informational),
    ("HTTP/2: fields of 256 KiB pass both ways", streams::large_fields),
    ("HTTP/2: streams are answered in any order", streams::any_order),
    ("HTTP/2: CONNECT becomes a tunnel", streams::connect),
    ("HTTP/2: extended CONNECT is offered only if the server does", streams::extended_connect),
    ("HTTP/2: the server's RST_STREAM keeps its reason", connection::server_resets),
    ("HTTP/2: the client's RST_STREAM keeps its reason", connection::client_resets),
    ("HTTP/2: a graceful GOAWAY lets open streams end", connection::graceful),
    ("HTTP/2: a GOAWAY keeps its reason", connection::abrupt),
    ("HTTP/2: a server that dies ends its streams with an error", connection::dies),
];

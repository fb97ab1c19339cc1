//! What an observer reports of connections.

mod http1;
mod http2;

//! HTTP/2 (RFC 9113): frames, header blocks (RFC 7541), and the exchanges of a connection.

#[cfg(test)]
mod appendix_c;
pub mod fields;
pub mod frames;
pub mod hpack;
pub mod relay;
mod seed;
mod session;
mod streams;

pub use self::session::{SHUTDOWN_NOTICE, Session};

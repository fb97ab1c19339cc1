//! Moves bytes between a client and its upstream: raw TCP, and HTTP behind one interface. Knows
//! nothing of BPF, of ports or of where the two sockets came from.

pub mod http;
mod http1;
mod http2;

#[cfg(test)]
mod http_testing;

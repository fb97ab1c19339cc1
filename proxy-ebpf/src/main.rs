//! weir's BPF programs.
//!
//! The way of an outbound connection through them: `connect` decides and rewrites the destination
//! to the proxy's listener, remembering the original in the socket's own storage → `stream`
//! (sockops) copies it to a map that the proxy reads when it accepts → `name` answers
//! getpeername/getsockname as a direct connection would → `accelerate` (sk_msg) moves payload
//! between the two sockets where that is on.
//!
//! Every entry lets the connection pass on any failure, and counts it. Loaded once per workload,
//! with [`maps::WORKLOAD`] set.

#![no_std]
#![no_main]

mod accelerate;
mod connect;
mod maps;
mod name;
mod option;
mod socket;
mod stream;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

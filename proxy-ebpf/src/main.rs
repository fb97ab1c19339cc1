//! weir's BPF programs.
//!
//! The way of an outbound connection through them: `connect` decides and rewrites the destination
//! to one of the proxy's listeners (`spread`), remembering the original in the socket's own storage → `stream`
//! (sockops) copies it to a map that the proxy reads when it accepts → `hold` (a socket filter of
//! the hold listener) keeps the SYN back until the proxy has connected → `name` answers
//! getpeername/getsockname as a direct connection would → `option` tells the proxy of options that
//! the application sets later → `accelerate` (sk_msg) moves payload between the two sockets where
//! that is on.
//!
//! An inbound connection: `inbound` (sk_lookup) decides, and gives it to the proxy's listener;
//! `stream` keeps count of what the workload listens on, and reports what went direct.
//!
//! Every entry lets the connection pass on any failure, and counts it. `connect`, `inbound`, `hold` and
//! `weir_stream` are loaded once per workload, with [`maps::WORKLOAD`] set; all others once.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod accelerate;
mod checks;
mod connect;
mod fields;
mod hold;
mod inbound;
mod listening;
mod maps;
mod name;
mod option;
mod policy;
mod properties;
mod report;
mod share;
mod socket;
mod spread;
mod stream;
mod tap;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

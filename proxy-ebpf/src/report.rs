//! What a connection that went direct is reported with when it ends. Part of `stream`.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RINGBUF_HDR_SZ},
    helpers::bpf_ringbuf_query,
    programs::SockOpsContext,
};
use weir_common::{CloseEvent, tcp_state};

use crate::{
    fields::{BYTES_RETRANS, BYTES_SENT, SOCK_DONE, SOCKET_ERROR, SOCKET_FLAGS, Tcp},
    maps::{EVENTS, EVENTS_BYTES},
    socket::read,
    stream,
};

/// What a socket that closes has carried, and its error.
pub struct Figures {
    pub sent: u64,
    pub received: u64,
    pub error: u32,
    /// The peer's FIN has come.
    pub peer_ended: bool,
}

// === impl Figures ===

impl Figures {
    /// `opened`: the socket has connected, and was not accepted. To be called on the way from one
    /// state to the next: an error that ends a connection is set before (`tcp_reset`,
    /// `tcp_write_err`), one that only follows from the socket's own reset after (`tcp_disconnect`).
    #[inline(always)]
    pub fn of(ctx: &SockOpsContext, opened: bool) -> Self {
        let ops = ctx.ops;
        let state = ctx.arg(0);
        // SAFETY: the context is valid for the length of the program.
        let (acked, received) =
            unsafe { (read!((*ops).bytes_acked), read!((*ops).bytes_received)) };
        let tcp = Tcp::of(stream::sk(ctx));
        // SAFETY: the types are the fields' own.
        let (error, flags, sent, again) = unsafe {
            (
                tcp.and_then(|tcp| tcp.read::<u32>(&SOCKET_ERROR)),
                tcp.and_then(|tcp| tcp.read::<u64>(&SOCKET_FLAGS)),
                tcp.and_then(|tcp| tcp.read::<u64>(&BYTES_SENT)),
                tcp.and_then(|tcp| tcp.read::<u64>(&BYTES_RETRANS)),
            )
        };
        // The kernel counts the sequence number that a FIN takes as a byte (`tcp_rcv_nxt_update`).
        let fin_came = match flags {
            Some(flags) => flags & SOCK_DONE != 0,
            None => {
                state == tcp_state::CLOSE_WAIT
                    || state == tcp_state::LAST_ACK
                    || state == tcp_state::CLOSING
                    || state == tcp_state::FIN_WAIT2
            }
        };
        let sent = match (sent, again) {
            (Some(sent), Some(again)) => less(sent, again),
            // What is acknowledged includes the SYN of the connecting side and the FIN (`tcp_snd_una_update`).
            _ => {
                let fin_went = state == tcp_state::FIN_WAIT2
                    || state == tcp_state::LAST_ACK
                    || state == tcp_state::CLOSING;
                less(acked, u64::from(opened) + u64::from(fin_went))
            }
        };
        Self {
            sent,
            received: less(received, u64::from(fin_came)),
            error: error.unwrap_or(CloseEvent::ERROR_UNKNOWN),
            peer_ended: fin_came,
        }
    }
}

/// A difference that is not negative.
#[inline(always)]
const fn less(a: u64, b: u64) -> u64 {
    if a > b { a - b } else { 0 }
}

/// Whether the event about to be sent wakes the proxy. Waking a sleeping process for each closed
/// connection would cost the application several times what the event itself does: the proxy
/// looks by itself a few times a second, and is woken where the buffer fills faster than that.
#[inline(always)]
pub fn wake_up() -> u64 {
    const EACH: u64 = size_of::<CloseEvent>() as u64 + BPF_RINGBUF_HDR_SZ as u64;
    const SOON: u64 = EVENTS_BYTES as u64 / 4;
    const LATE: u64 = EVENTS_BYTES as u64 / 4 * 3;
    // SAFETY: helper call on a ring buffer.
    let waiting = unsafe {
        bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
    };
    // Between the two marks it has been woken already, and is at work.
    if (waiting >= SOON && waiting < SOON + 8 * EACH) || waiting >= LATE {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

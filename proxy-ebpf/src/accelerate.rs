//! sk_msg: moves payload straight into the receive queue of the other end of a captured
//! connection.
//!
//! The first message of a socket decides for all: data that took the TCP stack and data that did
//! not would otherwise overtake each other. A missing peer means the TCP stack, never a drop.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_SK_STORAGE_GET_F_CREATE, sk_action},
    helpers::{bpf_get_netns_cookie, bpf_sk_storage_get},
    macros::sk_msg,
    programs::SkMsgContext,
};
use weir_common::TupleKey;

use crate::{
    maps::{PEERS, WAYS},
    socket::{self, either, read, read_words},
};

const UNDECIDED: u32 = 0;
const REDIRECT: u32 = 1;
const STACK: u32 = 2;

#[sk_msg]
pub fn weir_msg(ctx: SkMsgContext) -> u32 {
    let Some(way) = way(&ctx) else { return sk_action::SK_PASS };
    if *way == STACK {
        return sk_action::SK_PASS;
    }
    let mut key = peer(&ctx);
    // The helper answers SK_DROP for a missing peer and then has redirected nothing.
    let redirected =
        PEERS.redirect_msg(&ctx, &mut key, u64::from(BPF_F_INGRESS)) as u32 == sk_action::SK_PASS;
    if *way == UNDECIDED {
        *way = if redirected { REDIRECT } else { STACK };
    }
    sk_action::SK_PASS
}

#[inline(always)]
fn way(ctx: &SkMsgContext) -> Option<&'static mut u32> {
    // SAFETY: the context is valid; the pointer is tested for null before use.
    let sk = unsafe { read!((*ctx.msg).__bindgen_anon_3.sk) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: helper call on a non-null socket.
    unsafe {
        bpf_sk_storage_get(
            (&raw const WAYS).cast_mut().cast(),
            sk.cast(),
            ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<u32>()
        .as_mut()
    }
}

/// The other end's key: this socket's tuple, turned round.
#[inline(always)]
fn peer(ctx: &SkMsgContext) -> TupleKey {
    let msg = ctx.msg;
    // SAFETY: the context is valid for the length of the program.
    unsafe {
        let v4 = read!((*msg).family) == socket::AF_INET;
        TupleKey {
            netns_cookie: bpf_get_netns_cookie(msg.cast()),
            local_addr: either(v4, read!((*msg).remote_ip4), read_words!((*msg).remote_ip6)),
            remote_addr: either(v4, read!((*msg).local_ip4), read_words!((*msg).local_ip6)),
            local_port: u32::from_be(read!((*msg).remote_port)) as u16,
            remote_port: read!((*msg).local_port) as u16,
            _pad: 0,
        }
    }
}

//! What the workload listens on: the `LISTENING` map.

use weir_common::{AddrWords, DestinationKey};

use crate::{maps::LISTENING, socket};

const UNSPECIFIED4: AddrWords = socket::mapped(0);
const UNSPECIFIED6: AddrWords = [0; 4];

/// True where a socket of the workload would take a connection to this address and port.
#[inline(always)]
pub fn is_listening(key: &DestinationKey) -> bool {
    if is_there(key, false) {
        return true;
    }
    let v4 = socket::is_v4(&key.addr);
    (v4 && is_there(&DestinationKey { addr: UNSPECIFIED4, ..*key }, false))
        || is_there(&DestinationKey { addr: UNSPECIFIED6, ..*key }, v4)
}

#[inline(always)]
fn is_there(key: &DestinationKey, dual_stack: bool) -> bool {
    // SAFETY: two aligned words, each read once.
    unsafe { LISTENING.get(key) }
        .is_some_and(|entry| entry.sockets != 0 && !(dual_stack && entry.v6_only != 0))
}

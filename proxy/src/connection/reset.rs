//! Lets the HTTP engine, which owns the streams but not the sockets' options, make an abnormal close
//! a reset.

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::forward::{Side, http::AbortHook};

/// The descriptors of a connection's two sockets, by number: a duplicate of each would cost two
/// descriptors per connection, and keep the sockets open.
#[derive(Clone, Copy)]
pub(crate) struct ResetHooks {
    client: RawFd,
    upstream: RawFd,
}

impl ResetHooks {
    pub(crate) fn new(client: &TcpStream, upstream: &TcpStream) -> Self {
        Self { client: client.as_raw_fd(), upstream: upstream.as_raw_fd() }
    }

    /// The hook that the engine calls just before it drops a stream abnormally.
    pub(crate) fn on_abort(self) -> AbortHook {
        Arc::new(move |side| {
            let fd = match side {
                Side::Client => self.client,
                Side::Upstream => self.upstream,
            };
            // SAFETY: the engine owns the stream and calls the hook before it drops it
            // (`AbortHook`), so that the descriptor is open and still that socket's.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            // `SO_LINGER` with zero time, socket(7): the coming close sends a reset.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        })
    }
}

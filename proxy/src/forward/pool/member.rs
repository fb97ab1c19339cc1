//! One upstream connection that clients use in turn.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::requests::{Connected, Counted};
use super::super::tcp;
use crate::budget::Taken;
use crate::tcp_info::{TcpInfo, acknowledged_at_end};

/// An upstream connection, with what has to be known of it to use it once more. Its socket is armed: to
/// drop it resets the connection, unless [`Member::close`] does.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Since when it is idle.
    pub(super) idle_since: Instant,
    descriptor: Option<Taken>,
    _counted: Option<Counted>,
    /// It has been idle: it can have ended meanwhile.
    reused: bool,
    /// What the peer had acknowledged before anything was sent; `None` where the kernel does not say.
    acknowledged: Option<u64>,
    /// Bytes sent, and how many of them before the present request.
    sent: u64,
    sent_before: u64,
}

// === impl Member ===

impl Member {
    /// On which nothing has been sent.
    pub(super) fn new(address: SocketAddr, connected: Connected, counted: Option<Counted>) -> Self {
        let Connected { stream, descriptor } = connected;
        let acknowledged = TcpInfo::of(&stream).ok().map(|info| info.acknowledged);
        Self {
            stream,
            address,
            idle_since: Instant::now(),
            descriptor,
            _counted: counted,
            reused: false,
            acknowledged,
            sent: 0,
            sent_before: 0,
        }
    }

    /// It has been idle, and can have ended meanwhile.
    pub(super) const fn is_reused(&self) -> bool {
        self.reused
    }

    /// It is idle from now on.
    pub(super) fn rest(&mut self) {
        self.reused = true;
        self.idle_since = Instant::now();
    }

    /// A request begins.
    pub(super) const fn begin(&mut self) {
        self.sent_before = self.sent;
    }

    /// Nothing of the present request was taken by the kernel.
    pub(super) const fn is_unsent(&self) -> bool {
        self.sent == self.sent_before
    }

    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += sent as u64;
        Poll::Ready(Ok(sent))
    }

    /// Whether the peer has said nothing since the last response. A connection that has ended, or that has
    /// bytes that were not asked for, must not be used. Costs a system call only where the runtime
    /// has been told that there is something.
    pub(super) fn is_quiet(&self) -> bool {
        let peek = || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            Ok(recv(&self.stream, &mut [0_u8; 1], flags)?)
        };
        let found = self.stream.try_io(Interest::READABLE, peek);
        matches!(found, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same; wakes the task when that changes.
    pub(super) fn poll_quiet(&self, cx: &mut Context<'_>) -> bool {
        // The runtime also takes a read for the last but one that has filled its buffer.
        while self.stream.poll_read_ready(cx).is_ready() {
            if !self.is_quiet() {
                return false;
            }
        }
        true
    }

    /// Whether the peer, whose stream has ended in order, has taken nothing of the present request.
    pub(super) async fn is_untaken(&self) -> bool {
        let Some(before) = self.acknowledged else { return false };
        let is_taken = |acknowledged| acknowledged > before + self.sent_before;
        let acknowledged = acknowledged_at_end(&self.stream, is_taken).await;
        acknowledged.is_some_and(|acknowledged| !is_taken(acknowledged))
    }

    /// The socket, for one client alone; with what it takes of the budget.
    pub(super) fn into_parts(self) -> (TcpStream, Option<Taken>) {
        (self.stream, self.descriptor)
    }

    /// Ends it in order.
    pub(super) fn close(self) {
        tcp::disarm(&self.stream);
    }
}

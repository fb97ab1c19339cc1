//! The seam between forwarding and the connections that it joins. Today both are TCP
//! (`tcp/socket.rs`); a TLS session is to be another implementation.
//!
//! A [`Transport`] is one side of a connection as an HTTP engine owns it. Raw forwarding moves bytes
//! both ways on one task without dividing it, so it has a second form, [`TransportIo`], whose methods
//! take `&self`. What only some transports can do is a capability with an answer for those that
//! cannot: splice(2) ([`TransportIo::splicing`]), urgent data ([`Found::Urgent`]) and waiting for the
//! peer's acknowledgement ([`TransportIo::delivered`]).

mod abort;

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::abort::AbortState;

/// How the end of a transport looks to its peer when it is dropped.
pub(crate) trait Abort {
    /// From now on a drop cuts the stream, also the kernel's when the process dies: its peer must not
    /// take it for complete. For TCP that is a reset.
    fn arm(&self);

    /// Takes [`Self::arm`] back. To be called just before the end is sent: from then on there is
    /// nothing to cut, and an armed transport would drop what its peer has not received.
    fn disarm(&self);
}

/// One side of a connection.
pub(crate) trait Transport:
    Abort + AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static
{
    /// The same for raw forwarding.
    type Io: TransportIo<Transport = Self>;

    /// # Errors
    /// Where it cannot be registered with the runtime. It is closed then: cut, if it is armed.
    fn into_io(self) -> io::Result<Self::Io>;
}

/// One side of a connection that is read from and written to by two lanes of one task.
pub(crate) trait TransportIo: Abort + Send + Sync + Sized {
    /// The same for an engine that owns it.
    type Transport: Transport<Io = Self>;

    /// # Errors
    /// As for [`Transport::into_io`].
    fn into_transport(self) -> io::Result<Self::Transport>;

    /// Ready when there may be something to read: no buffer is held before.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads once.
    fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<Found>>;

    /// Writes once; `urgent` makes the last byte urgent, where the transport can.
    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        urgent: bool,
    ) -> Poll<io::Result<usize>>;

    /// Ends the stream.
    ///
    /// # Errors
    /// That there is no connection any more.
    fn shutdown(&self) -> io::Result<()>;

    /// Whether a drop ends the stream as [`Self::shutdown`] does, if it is disarmed and the peer's stream
    /// has been read to its end.
    fn ends_with_drop(&self) -> bool {
        false
    }

    /// Resolves when the connection has failed, also once its end has been read.
    fn failure(&self) -> impl Future<Output = io::Error> + Send;

    /// Waits until the peer has everything that was written, as far as the transport knows.
    fn delivered(&self) -> impl Future<Output = ()> + Send;

    /// What splice(2) takes: the socket, where its bytes are the stream's. `None` where there is none.
    fn splicing(&self) -> Option<BorrowedFd<'_>>;

    /// Something else has read from [`Self::splicing`].
    fn spliced(&self);

    /// Has `write` write to [`Self::splicing`], as often as it takes until there is room.
    fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>>;
}

/// What raw forwarding takes: a transport in either form.
pub(crate) trait Raw {
    /// The form in which it is forwarded.
    type Io: TransportIo;

    /// # Errors
    /// As for [`Transport::into_io`].
    fn into_raw(self) -> io::Result<Self::Io>;
}

impl<T: Transport> Raw for T {
    type Io = T::Io;

    fn into_raw(self) -> io::Result<T::Io> {
        self.into_io()
    }
}

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// So many bytes; none is the end of the stream.
    Bytes(usize),
    /// One byte, which is urgent.
    Urgent,
}

#[cfg(test)]
mod tests;

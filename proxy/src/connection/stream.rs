//! One side of a connection, registered with the runtime once: in the form of the engine that is to
//! carry it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};

use crate::forward::{
    tcp::{self, Endpoint, Socket},
    transport::Transport as _,
};

/// What an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Forwards bytes.
    Raw,
    /// Owns the stream, and reads messages from it.
    Owned,
}

/// One side of a connection. Made in the other form than is needed in the end it costs two system calls
/// more.
pub(crate) enum Stream {
    Raw(Socket),
    Owned(TcpStream),
}

// === impl Stream ===

impl Stream {
    /// A socket that a listener of weir's has accepted.
    ///
    /// # Errors
    /// `ENOMEM` from epoll_ctl(2). The socket is armed: its close is a reset.
    pub(super) fn accepted(socket: std::net::TcpStream, form: Form) -> io::Result<Self> {
        match form {
            Form::Raw => Socket::accepted(socket).map(Self::Raw),
            Form::Owned => {
                tcp::leave_out_urgent(&socket);
                TcpStream::from_std(socket).map(Self::Owned)
            }
        }
    }

    /// Connects a socket, which is armed.
    ///
    /// # Errors
    /// What connect(2) says.
    pub(super) async fn connect(
        socket: socket2::Socket,
        to: std::net::SocketAddr,
        form: Form,
    ) -> io::Result<Self> {
        match form {
            Form::Raw => Socket::connect(socket, to).await.map(Self::Raw),
            Form::Owned => {
                let stream =
                    tokio::net::TcpSocket::from_std_stream(socket.into()).connect(to).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Owned(stream))
            }
        }
    }

    /// For an engine that forwards bytes.
    ///
    /// # Errors
    /// Where it is in the other form and cannot be registered anew. It is closed then.
    pub(super) fn into_raw(self) -> io::Result<Socket> {
        match self {
            Self::Raw(socket) => Ok(socket),
            Self::Owned(stream) => stream.into_io(),
        }
    }

    /// For an engine that owns it.
    ///
    /// # Errors
    /// As [`Self::into_raw`].
    pub(super) fn into_owned(self) -> io::Result<TcpStream> {
        match self {
            Self::Raw(socket) => socket.into_stream(),
            Self::Owned(stream) => Ok(stream),
        }
    }

    /// Waits for one of these.
    ///
    /// # Errors
    /// Where the runtime ends.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Raw(socket) => socket.ready(interest).await,
            Self::Owned(stream) => stream.ready(interest).await,
        }
    }

    /// Ends it with a reset.
    pub(super) fn reset(self) {
        tcp::arm(&self);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Raw(socket) => socket.as_fd(),
            Self::Owned(stream) => stream.as_fd(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Owned(stream)
    }
}

// === helpers ===

/// The same in the form of raw forwarding.
///
/// # Errors
/// As [`Stream::into_raw`].
pub(super) fn into_raw(endpoint: Endpoint) -> io::Result<Endpoint<Socket>> {
    let Endpoint { stream, prefix, eof } = endpoint;
    Ok(Endpoint { stream: stream.into_io()?, prefix, eof })
}

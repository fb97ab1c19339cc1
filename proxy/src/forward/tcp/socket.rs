//! A TCP socket with urgent data (RFC 9293 §3.8.5). tokio's own does not ask the kernel for it, and
//! takes a read that ends at an urgent byte for one that has emptied the socket.
//!
//! The urgent byte stays in the stream (`SO_OOBINLINE`), and the kernel ends each read in front of it.
//! So it is found where it is the next one, and sent on as urgent: a server sees it in its place or
//! out of line, as it has asked for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, send, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// A socket of the runtime that polls it.
pub(super) struct Socket(AsyncFd<std::net::TcpStream>);

/// A socket that is read from.
pub(super) struct Source<'a> {
    socket: &'a Socket,
    /// An urgent byte was announced, and has not been read.
    announced: bool,
    /// The last read may have ended in front of a byte whose announcement has not been seen.
    unsure: bool,
}

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// So many bytes; none is the end of the stream.
    Bytes(usize),
    /// One byte, which is urgent.
    Urgent,
}

// === impl Socket ===

impl Socket {
    /// # Errors
    /// What epoll_ctl(2) says. The socket is closed then: with a reset if it is armed.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        let stream = stream.into_std()?;
        // Without it urgent bytes would be dropped.
        let _ = sockopt::set_socket_oobinline(&stream, true);
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: a TcpStream owns its descriptor, and gives the same one until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(stream, interest) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// tokio's own again.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(super) fn into_stream(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0.into_inner())
    }

    /// Writes once; `urgent` makes the last byte urgent.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        urgent: bool,
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, |mut stream| match urgent {
            true => Ok(send(stream, bytes, SendFlags::OOB | SendFlags::NOSIGNAL)?),
            false => stream.write(bytes),
        })
        .map_ok(|(n, ready)| {
            if n < bytes.len() {
                ready.clear();
            }
            n
        })
    }

    /// Has `write` write, as often as it takes until the socket has room.
    pub(super) fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl FnMut(&std::net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, write).map_ok(|(n, _)| n)
    }

    fn poll_output(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&std::net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<(usize, Room<'_>)>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|socket| write(socket.get_ref())) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result.map(|n| (n, Room(guard)))),
                Err(_would_block) => {}
            }
        }
    }

    /// Ends the stream.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }

    /// Resolves when the connection has failed, also once its end has been read.
    pub(super) async fn failure(&self) -> io::Error {
        let error = match self.0.ready(Interest::ERROR).await {
            Ok(_) => self.0.get_ref().take_error(),
            Err(error) => Err(error),
        };
        match error {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => std::future::pending().await,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// That the socket can be written to.
struct Room<'a>(tokio::io::unix::AsyncFdReadyGuard<'a, std::net::TcpStream>);

// === impl Room ===

impl Room<'_> {
    /// There is none left: the kernel will say when there is.
    fn clear(mut self) {
        self.0.clear_ready();
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    pub(super) fn new(socket: &'a Socket) -> Self {
        Self { socket, announced: false, unsure: false }
    }

    pub(super) fn socket(&self) -> &'a Socket {
        self.socket
    }

    /// Ready when there may be something to read.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.0.poll_read_ready(cx).map_ok(|_| ())
    }

    /// Reads once.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<Found>> {
        loop {
            let mut guard = ready!(self.socket.0.poll_read_ready(cx))?;
            let urgent = self.is_at_mark();
            let room = if urgent { &mut room[..1] } else { &mut *room };
            match guard.try_io(|socket| socket.get_ref().read(room)) {
                Ok(Ok(1)) if urgent => {
                    self.forget();
                    self.unsure = true;
                    return Poll::Ready(Ok(Found::Urgent));
                }
                Ok(Ok(n)) => {
                    self.unsure = n == room.len();
                    // Nothing is left but what is announced behind it: saves a system call.
                    if n > 0 && n < room.len() && !self.announced {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(Found::Bytes(n)));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                // An urgent byte that has not arrived is announced again when it has.
                Err(_would_block) => self.forget(),
            }
        }
    }

    /// Something else has read from the socket: what is next is not known.
    pub(super) fn moved(&mut self) {
        self.unsure = true;
    }

    /// Whether the next byte is urgent. Costs a system call only where one may be.
    fn is_at_mark(&mut self) -> bool {
        // Also ready once the stream has ended.
        self.announced = self.announced || self.on_priority(Ok(()));
        (self.announced || self.unsure) && at_mark(self.socket)
    }

    fn forget(&mut self) {
        self.announced = false;
        self.on_priority(Err(io::ErrorKind::WouldBlock.into()));
    }

    /// Whether the kernel has announced an urgent byte; `WouldBlock` takes note of it.
    fn on_priority(&self, answer: io::Result<()>) -> bool {
        self.socket.0.try_io(Interest::PRIORITY, |_| answer).is_ok()
    }
}

// === helpers ===

/// SIOCATMARK, tcp(7); false if unknown.
fn at_mark(socket: &Socket) -> bool {
    /// include/uapi/asm-generic/sockios.h; the libc crate lacks it.
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut mark: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and SIOCATMARK writes one
    // int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut mark) };
    result == 0 && mark != 0
}

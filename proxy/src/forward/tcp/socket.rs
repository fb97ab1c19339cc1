//! A TCP socket with urgent data (RFC 9293 §3.8.5). tokio's own does not ask the kernel for it, and
//! takes a read that ends at an urgent byte for one that has emptied the socket.
//!
//! The urgent byte stays in the stream (`SO_OOBINLINE`), and the kernel ends each read in front of it.
//! So it is found where it is the next one, and sent on as urgent: a server sees it in its place or
//! out of line, as it has asked for.

use std::future::Future as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{SendFlags, send, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use super::reset;
use crate::forward::transport::{Abort, Found, Raw, Transport, TransportIo};

/// A socket of the runtime that polls it. Its flags are those of the lane that reads from it, but for
/// those of the one that writes.
pub(crate) struct Socket {
    fd: AsyncFd<std::net::TcpStream>,
    /// `TCP_NODELAY` is not set.
    delays: AtomicBool,
    /// Something has been written to it while it was not.
    written: AtomicBool,
    /// An urgent byte was announced, and has not been read.
    announced: AtomicBool,
    /// The last read may have ended in front of a byte whose announcement has not been seen.
    unsure: AtomicBool,
}

// === impl TcpStream ===

impl Abort for TcpStream {
    fn arm(&self) {
        reset::arm(self);
    }

    fn disarm(&self) {
        reset::disarm(self);
    }
}

impl Transport for TcpStream {
    type Io = Socket;

    fn into_io(self) -> io::Result<Socket> {
        let stream = self.into_std()?;
        take_urgent(&stream);
        Socket::register(stream, false)
    }
}

impl Raw for Socket {
    type Io = Self;

    fn into_raw(self) -> io::Result<Self> {
        Ok(self)
    }
}

// === impl Socket ===

impl Socket {
    /// One that was accepted from a listener of weir's: it has inherited the options that it needs.
    ///
    /// # Errors
    /// `ENOMEM` and `ENOSPC` from epoll_ctl(2). It is closed then.
    pub(crate) fn accepted(stream: std::net::TcpStream) -> io::Result<Self> {
        Self::register(stream, false)
    }

    /// Connects a socket that does not block.
    ///
    /// # Errors
    /// What connect(2) says, and as [`Self::accepted`].
    pub(crate) async fn connect(socket: socket2::Socket, to: SocketAddr) -> io::Result<Self> {
        take_urgent(&socket);
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let socket = Self::register(socket.into(), true)?;
        // Failed, it is also said to be closed (`tcp_poll` in net/ipv4/tcp.c): else the error need not be
        // asked for.
        let failed = {
            let guard = socket.fd.writable().await?;
            guard.ready().is_write_closed() || guard.ready().is_error()
        };
        match failed.then(|| socket.fd.get_ref().take_error()).transpose()?.flatten() {
            Some(error) => Err(error),
            None => Ok(socket),
        }
    }

    fn register(stream: std::net::TcpStream, delays: bool) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: a TcpStream owns its descriptor, and gives the same one until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(stream, interest) };
        let fd = registered.map_err(|error| error.into_parts().1)?;
        let [announced, unsure, written] = [(); 3].map(|()| AtomicBool::new(false));
        Ok(Self { fd, delays: AtomicBool::new(delays), written, announced, unsure })
    }

    /// For what reads messages: urgent bytes are none of them.
    ///
    /// # Errors
    /// As [`Self::accepted`].
    pub(crate) fn into_stream(self) -> io::Result<TcpStream> {
        leave_out_urgent(&self);
        self.into_transport()
    }

    /// Waits for one of these.
    ///
    /// # Errors
    /// Where the runtime ends.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(self.fd.ready(interest).await?.ready())
    }

    /// Sets `TCP_NODELAY` before the second write. The first one never waits: nothing small is on its way
    /// (`tcp_nagle_check` in net/ipv4/tcp_output.c). Most short connections have no other.
    fn hurry(&self) {
        if self.written.load(Relaxed) && self.delays.swap(false, Relaxed) {
            let _ = self.fd.get_ref().set_nodelay(true);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Abort for Socket {
    fn arm(&self) {
        reset::arm(&self.fd);
    }

    fn disarm(&self) {
        reset::disarm(&self.fd);
    }
}

impl TransportIo for Socket {
    type Transport = TcpStream;

    fn into_transport(self) -> io::Result<TcpStream> {
        self.written.store(true, Relaxed);
        self.hurry();
        TcpStream::from_std(self.fd.into_inner())
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd.poll_read_ready(cx).map_ok(|_| ())
    }

    fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<Found>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let urgent = self.is_at_mark();
            let room = if urgent { &mut room[..1] } else { &mut *room };
            match guard.try_io(|socket| socket.get_ref().read(room)) {
                Ok(Ok(1)) if urgent => {
                    self.forget();
                    self.unsure.store(true, Relaxed);
                    return Poll::Ready(Ok(Found::Urgent));
                }
                Ok(Ok(n)) => {
                    self.unsure.store(n == room.len(), Relaxed);
                    // Nothing is left but what is announced behind it: saves a system call.
                    if n > 0 && n < room.len() && !self.announced.load(Relaxed) {
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

    fn poll_write(
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

    fn shutdown(&self) -> io::Result<()> {
        self.fd.get_ref().shutdown(Shutdown::Write)
    }

    /// close(2) sends a FIN where nothing is left unread (`__tcp_close` in net/ipv4/tcp.c).
    fn ends_with_drop(&self) -> bool {
        true
    }

    async fn failure(&self) -> io::Error {
        let error = match self.fd.ready(Interest::ERROR).await {
            Ok(_) => self.fd.get_ref().take_error(),
            Err(error) => Err(error),
        };
        match error {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => std::future::pending().await,
        }
    }

    async fn delivered(&self) {
        reset::delivered(&self.fd).await;
    }

    fn splicing(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn spliced(&self) {
        self.unsure.store(true, Relaxed);
    }

    fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, |stream| write(stream.as_fd())).map_ok(|(n, _)| n)
    }
}

impl Socket {
    fn poll_output(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&std::net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<(usize, Room<'_>)>> {
        self.hurry();
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|socket| write(socket.get_ref())) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => {
                    self.written.store(true, Relaxed);
                    return Poll::Ready(result.map(|n| (n, Room(guard))));
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Whether the next byte is urgent. Costs a system call only where one may be.
    fn is_at_mark(&self) -> bool {
        let announced = self.announced.load(Relaxed) || self.is_announced();
        self.announced.store(announced, Relaxed);
        (announced || self.unsure.load(Relaxed)) && at_mark(self.fd.get_ref())
    }

    fn forget(&self) {
        self.announced.store(false, Relaxed);
        let _taken_note: io::Result<()> =
            self.fd.try_io(Interest::PRIORITY, |_| Err(io::ErrorKind::WouldBlock.into()));
    }

    /// Whether the kernel has announced an urgent byte.
    fn is_announced(&self) -> bool {
        if self.fd.try_io(Interest::PRIORITY, |_| Ok(())).is_err() {
            return false;
        }
        // The end of the stream has woken too.
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.fd.ready(Interest::PRIORITY)).poll(&mut cx) {
            Poll::Ready(Ok(guard)) => guard.ready().is_priority(),
            _ => true,
        }
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

// === helpers ===

/// Keeps urgent bytes in the stream, which would be dropped otherwise.
fn take_urgent(socket: &impl AsFd) {
    let _ = sockopt::set_socket_oobinline(socket, true);
}

/// Takes back what a socket has from its listener: urgent bytes are not read.
pub(crate) fn leave_out_urgent(socket: &impl AsFd) {
    let _ = sockopt::set_socket_oobinline(socket, false);
}

/// SIOCATMARK, tcp(7); false if unknown.
fn at_mark(socket: &std::net::TcpStream) -> bool {
    /// include/uapi/asm-generic/sockios.h; the libc crate lacks it.
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut mark: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and SIOCATMARK writes one
    // int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut mark) };
    result == 0 && mark != 0
}

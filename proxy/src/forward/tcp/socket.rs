//! A TCP socket with urgent data (RFC 9293 §3.8.5). tokio's own does not ask the kernel for it, and
//! takes a read that ends at an urgent byte for one that has emptied the socket.
//!
//! The urgent byte stays in the stream (`SO_OOBINLINE`), and the kernel ends each read in front of it.
//! So it is found where it is the next one, and sent on as urgent: a server sees it in its place or
//! out of line, as it has asked for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, send, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::reset;
use crate::forward::transport::{Abort, Found, Transport, TransportIo};

/// A socket of the runtime that polls it. Its flags are those of the lane that reads from it.
pub(crate) struct Socket {
    fd: AsyncFd<std::net::TcpStream>,
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
        // Without it urgent bytes would be dropped.
        let _ = sockopt::set_socket_oobinline(&stream, true);
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: a TcpStream owns its descriptor, and gives the same one until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(stream, interest) };
        let fd = registered.map_err(|error| error.into_parts().1)?;
        Ok(Socket { fd, announced: AtomicBool::new(false), unsure: AtomicBool::new(false) })
    }
}

// === impl Socket ===

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
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|socket| write(socket.get_ref())) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result.map(|n| (n, Room(guard)))),
                Err(_would_block) => {}
            }
        }
    }

    /// Whether the next byte is urgent. Costs a system call only where one may be.
    fn is_at_mark(&self) -> bool {
        // Also ready once the stream has ended.
        let announced = self.announced.load(Relaxed) || self.on_priority(Ok(()));
        self.announced.store(announced, Relaxed);
        (announced || self.unsure.load(Relaxed)) && at_mark(self.fd.get_ref())
    }

    fn forget(&self) {
        self.announced.store(false, Relaxed);
        self.on_priority(Err(io::ErrorKind::WouldBlock.into()));
    }

    /// Whether the kernel has announced an urgent byte; `WouldBlock` takes note of it.
    fn on_priority(&self, answer: io::Result<()>) -> bool {
        self.fd.try_io(Interest::PRIORITY, |_| answer).is_ok()
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

//! What a peer's kernel has acknowledged.

use std::os::fd::{AsFd, AsRawFd};

/// `TCP_CLOSE` (include/net/tcp_states.h).
const CLOSE: u8 = 7;

/// The part of `struct tcp_info` (include/uapi/linux/tcp.h) up to `tcpi_bytes_acked`.
#[repr(C, align(8))]
struct Info([u8; LENGTH]);

const BYTES_ACKED: usize = 120;
const LENGTH: usize = BYTES_ACKED + size_of::<u64>();

/// What there is to know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// Bytes that the peer's kernel has acknowledged; one more for the handshake.
    pub(crate) bytes: u64,
    /// The connection is no more: both sides have closed, or one has reset it.
    pub(crate) is_closed: bool,
}

/// Asks the kernel (tcp(7), `TCP_INFO`; `tcpi_bytes_acked` since Linux 4.1); `None` if it does not say.
pub(crate) fn of(stream: &impl AsFd) -> Option<Acknowledged> {
    let mut info = Info([0; LENGTH]);
    let mut length = LENGTH as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the kernel writes at most
    // `length` bytes to `info`, which has so many.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 || length as usize != LENGTH {
        return None;
    }
    let bytes = info.0[BYTES_ACKED..].try_into().ok()?;
    Some(Acknowledged { bytes: u64::from_ne_bytes(bytes), is_closed: info.0[0] == CLOSE })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn bytes_are_acknowledged_by_the_kernel_whether_they_are_read_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = of(&client).unwrap();
        assert!(!before.is_closed);
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
        while of(&client).unwrap().bytes == before.bytes {
            std::thread::yield_now();
        }
        assert_eq!(of(&client).unwrap().bytes, before.bytes + 5);
        // What was not read makes the close a reset.
        drop(server);
        while !of(&client).unwrap().is_closed {
            std::thread::yield_now();
        }
        assert_eq!(of(&client).unwrap().bytes, before.bytes + 5);
    }
}

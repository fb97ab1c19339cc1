//! What the kernel knows of a TCP connection (`TCP_INFO`, tcp(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The beginning of `struct tcp_info` (include/uapi/linux/tcp.h), up to `tcpi_bytes_acked`, which is there
/// since 4.1.
const LENGTH: usize = 128;
const BYTES_ACKED: usize = 120;
/// TCP_CLOSE of include/net/tcp_states.h.
const CLOSED: u8 = 7;

/// What it knows at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Bytes that the peer's kernel has acknowledged since the connection was made, its SYN among them.
    pub(super) acknowledged: u64,
    /// There is no connection any more: it was reset, or both sides have ended.
    pub(super) closed: bool,
}

// === impl TcpInfo ===

impl TcpInfo {
    /// # Errors
    /// What getsockopt(2) says; `Unsupported` of a kernel that does not count bytes.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let mut info = [0_u8; LENGTH];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: both pointers are to live locals, of the size given, and the descriptor is open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let counts = (length as usize == LENGTH).then(|| info[BYTES_ACKED..].first_chunk());
        let bytes = counts.flatten().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { acknowledged: u64::from_ne_bytes(*bytes), closed: info[0] == CLOSED })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn acknowledged_bytes_are_counted_and_a_reset_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let before = TcpInfo::of(&near).unwrap();
        assert!(!before.closed);
        near.write_all(b"0123456789").unwrap();
        far.read_exact(&mut [0; 10]).unwrap();
        let after = TcpInfo::of(&near).unwrap();
        assert_eq!(after.acknowledged, before.acknowledged + 10);
        crate::forward::tcp::arm(&far);
        drop(far);
        let reset = near.read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        assert!(TcpInfo::of(&near).unwrap().closed);
        assert!(TcpInfo::of(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }
}

//! Options of sockets that no library has.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

/// A socket that another object closes: its descriptor, and what tells whether that is the same
/// socket still. To be used on the thread that alone closes it, so that it stays what it was found
/// to be.
#[derive(Clone, Copy, Debug)]
pub struct WeakSocket {
    descriptor: RawFd,
    cookie: u64,
}

/// What the kernel has measured of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpNumbers {
    /// The smoothed round-trip time. Right after connect(2) it is that of the handshake, which no
    /// process has to be scheduled for.
    pub round_trip: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// Segments sent, those sent again included.
    pub segments: u32,
}

// === impl WeakSocket ===

impl WeakSocket {
    /// # Errors
    /// `ENOTSOCK` for what is none.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let descriptor = socket.as_fd().as_raw_fd();
        Ok(Self { descriptor, cookie: cookie(descriptor)? })
    }

    /// Sets an option, unless the socket has been closed.
    ///
    /// # Errors
    /// `ENOTCONN` where it has; else what setsockopt(2) says.
    pub fn set(&self, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
        if cookie(self.descriptor).ok() != Some(self.cookie) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // SAFETY: the pointer is to live memory of the length given; any descriptor will do.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor,
                level,
                option,
                value.as_ptr().cast(),
                value.len() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

// === helpers ===

/// Sets an option of `SOL_SOCKET` (socket(7)), whose value is of the type that the kernel reads.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set<T: Copy>(socket: &impl AsFd, option: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: the pointer is to a live local of the size given, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel has measured of a TCP socket that is or was connected.
///
/// # Errors
/// What getsockopt(2) says.
pub fn tcp_numbers(socket: &impl AsFd) -> io::Result<TcpNumbers> {
    /// Offsets in `struct tcp_info` (include/uapi/linux/tcp.h).
    const RTT_MICROS: usize = 68;
    const TOTAL_RETRANS: usize = 100;
    /// Since 4.2.
    const SEGS_OUT: usize = 136;
    const LENGTH: usize = SEGS_OUT + 4;
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
    let number =
        |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(TcpNumbers {
        round_trip: Duration::from_micros(number(RTT_MICROS).into()),
        retransmits: number(TOTAL_RETRANS),
        segments: number(SEGS_OUT),
    })
}

/// The number that no other socket has until the machine restarts (`SO_COOKIE`, since 4.6).
fn cookie(descriptor: RawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, of the size given; any descriptor will do.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener};

    use super::*;

    #[test]
    fn the_numbers_of_a_connection_are_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let before = tcp_numbers(&stream).unwrap();
        let measured = before.round_trip;
        assert!(!measured.is_zero() && measured < Duration::from_secs(1), "{before:?}");
        stream.write_all(b"x").unwrap();
        let after = tcp_numbers(&stream).unwrap();
        assert_eq!(after.segments, before.segments + 1, "{before:?} {after:?}");
        assert!(tcp_numbers(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }

    #[test]
    fn a_socket_that_has_been_closed_is_told_from_one_with_its_descriptor() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let weak = WeakSocket::of(&first).unwrap();
        let on = 1_i32.to_ne_bytes();
        weak.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &on).unwrap();
        assert!(socket2::SockRef::from(&first).keepalive().unwrap());
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        // Another socket under its descriptor.
        let same = WeakSocket { descriptor: second.as_fd().as_raw_fd(), ..weak };
        let refused = same.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &on).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
        assert!(!socket2::SockRef::from(&second).keepalive().unwrap());
    }
}

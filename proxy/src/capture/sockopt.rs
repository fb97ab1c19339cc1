//! Options of sockets that no library has.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

/// A socket that another object closes: its descriptor, and what tells whether that is the same
/// socket still. To be used on the thread that alone closes it, so that it stays what it was found
/// to be.
#[derive(Clone, Copy, Debug)]
pub struct WeakSocket {
    descriptor: RawFd,
    cookie: u64,
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
    use std::net::TcpListener;

    use super::*;

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

//! Options of sockets that no library has.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

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

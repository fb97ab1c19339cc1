//! Moving bytes between two sockets without copying them: splice(2) hands the pages over, through
//! a pipe that is lent for as long as there is something in it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// What a pipe is asked to hold: enough for system calls not to dominate. The kernel counts in
/// slots of a page each, and a slot can hold more than a page of a socket's data.
const CAPACITY: i32 = 1 << 20;
/// Free pipes that a thread keeps; each takes two descriptors and some 4 KiB of kernel memory.
const KEPT: usize = 8;

/// A pipe on loan.
pub(super) struct Pipe {
    ends: Option<Ends>,
    /// Bytes in it.
    filled: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

// === impl Pipe ===

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// `EMFILE` and `ENFILE`.
    pub(super) fn take() -> io::Result<Self> {
        let ends = match FREE.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        Ok(Self { ends: Some(ends), filled: 0 })
    }

    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves what the socket has, if it is empty. Neither 0 nor `EAGAIN` says that there is nothing
    /// or will be: in front of an urgent byte the kernel answers so too (`tcp_read_sock` in
    /// net/ipv4/tcp.c), and only a read tells.
    ///
    /// # Errors
    /// `EINVAL` if the socket can't, and what reading from it gives.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(socket, None, &ends.write, None, CAPACITY as usize, flags())?;
        self.filled = moved;
        Ok(moved)
    }

    /// Moves what is in it to the socket, as far as the socket takes it.
    ///
    /// # Errors
    /// `EAGAIN`, and what writing to the socket gives.
    pub(super) fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(&ends.read, None, socket, None, self.filled, flags())?;
        self.filled -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.filled > 0 {
            return; // The next one must not get these bytes.
        }
        // The thread may be ending; then it is simply closed.
        let _ = FREE.try_with(|free| {
            let free = &mut free.borrow_mut();
            if free.len() < KEPT {
                free.push(ends);
            }
        });
    }
}

// === impl Ends ===

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller one does as well, only slower (pipe(7), `pipe-user-pages-soft`).
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY));
        Ok(Self { read, write })
    }
}

const fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK)
}

/// Free pipes on this thread.
#[cfg(test)]
pub(super) fn free() -> usize {
    FREE.with_borrow(Vec::len)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pipe_passes_bytes_on_and_is_lent_again_only_when_it_is_empty() {
        let (mut near, into) = UnixStream::pair().unwrap();
        let (out, mut far) = UnixStream::pair().unwrap();
        into.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::take().unwrap();
        let nothing = pipe.fill(&into).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        near.write_all(b"some bytes").unwrap();
        assert_eq!(pipe.fill(&into).unwrap(), 10);
        assert_eq!((pipe.empty(&out).unwrap(), pipe.filled()), (10, 0));
        let mut read = [0; 10];
        far.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"some bytes");
        drop(pipe);
        assert_eq!(free(), 1);

        let mut pipe = Pipe::take().unwrap();
        near.write_all(b"left in it").unwrap();
        drop(near);
        assert_eq!(pipe.fill(&into).unwrap(), 10);
        drop(pipe);
        assert_eq!(free(), 0, "a pipe with bytes in it was kept");
        assert_eq!(Pipe::take().unwrap().fill(&into).unwrap(), 0, "the end of the stream");
    }
}

//! `sk_msg` redirection between a captured socket and the proxy's accepted socket, and the
//! self-test without which it is not switched on.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use aya::{
    maps::{MapData, SockHash},
    programs::SkMsg,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_common::{TupleKey, maps};

use super::{
    CaptureError, Instance, InstanceOptions, listener::netns_cookie, original::to_words,
    programs::refused, table::lock,
};

const PROGRAM: &str = "weir_msg";
/// Loopback delivers within microseconds; a socket that hangs must not hang the start.
const PATIENCE: Duration = Duration::from_secs(2);

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

impl Instance {
    /// Attaches the redirecting program to the map of sockets. Every socket that is inserted
    /// afterwards is subject to it; the proxy's own are found by the program on its cgroup.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub fn accelerate(&self) -> Result<(), CaptureError> {
        let map = self.take(maps::PEERS)?;
        redirect_through(self, &map)?;
        // The programs that are loaded later refer to the map by this descriptor.
        *lock(&self.peers) = Some(map);
        Ok(())
    }
}

/// Moves data between two loopback sockets through the program and looks whether applications
/// could tell: payload, MSG_PEEK, FIONREAD (both for redirected and for ordinary data) and EOF.
///
/// # Errors
/// [`CaptureError::SelfTest`] with what went wrong.
pub fn self_test() -> Result<(), CaptureError> {
    let instance = Instance::open(&InstanceOptions { sk_msg: true, ..InstanceOptions::default() })?;
    let map: SockHash<MapData, TupleKey> = instance.take(maps::PEERS)?;
    redirect_through(&instance, &map)?;
    exercise(map).map_err(CaptureError::SelfTest)
}

// === helpers ===

fn redirect_through(
    instance: &Instance,
    map: &SockHash<MapData, TupleKey>,
) -> Result<(), CaptureError> {
    let fd = map.fd().try_clone().map_err(|source| CaptureError::Map {
        action: "open",
        map: maps::PEERS,
        source,
    })?;
    let mut shared = instance.shared();
    let program = shared.program_mut(PROGRAM).ok_or(CaptureError::Missing(PROGRAM))?;
    let program: &mut SkMsg = program.try_into().map_err(refused(PROGRAM))?;
    program.load().map_err(refused(PROGRAM))?;
    program.attach(&fd).map_err(refused(PROGRAM)).map(drop)
}

fn exercise(mut map: SockHash<MapData, TupleKey>) -> Result<(), String> {
    let (mut left, mut right) = pair(&mut map, true)?;
    const PAYLOAD: &[u8] = b"weir sk_msg self-test";
    left.write_all(PAYLOAD).map_err(|error| format!("write: {error}"))?;
    await_bytes(&right, PAYLOAD.len(), "redirected")?;
    let mut buffer = [0; 64];
    let peeked = right.peek(&mut buffer).map_err(|error| format!("MSG_PEEK: {error}"))?;
    let read = right.read(&mut buffer).map_err(|error| format!("read: {error}"))?;
    if peeked != read || &buffer[..read] != PAYLOAD {
        return Err("redirected data arrived changed".into());
    }
    left.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))?;
    match right.read(&mut buffer) {
        Ok(0) => {}
        Ok(_) => return Err("data after the end of the stream".into()),
        Err(error) => return Err(format!("no end of stream: {error}")),
    }
    // A peer that is not in the map: data takes the TCP stack.
    let (mut left, right) = pair(&mut map, false)?;
    left.write_all(PAYLOAD).map_err(|error| format!("write: {error}"))?;
    await_bytes(&right, PAYLOAD.len(), "ordinary")
}

/// Waits until FIONREAD says that `count` bytes are there; that data is there is taken from poll.
fn await_bytes(socket: &TcpStream, count: usize, kind: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    socket.peek(&mut [0; 1]).map_err(|error| format!("no {kind} data: {error}"))?;
    loop {
        let mut pending = 0;
        // SAFETY: FIONREAD writes one int to a live local.
        unsafe { fionread(socket.as_raw_fd(), &raw mut pending) }
            .map_err(|error| format!("FIONREAD: {error}"))?;
        if usize::try_from(pending) == Ok(count) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "FIONREAD answers {pending} for {count} bytes of {kind} data, which breaks programs \
                 that ask (nginx, Java, .NET)"
            ));
        }
        std::thread::yield_now();
    }
}

/// Two connected sockets; the left one is in the map, the right one where `both` is true.
fn pair(
    map: &mut SockHash<MapData, TupleKey>,
    both: bool,
) -> Result<(TcpStream, TcpStream), String> {
    let connect = || -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let left = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
        let right = accept(&listener, &left)?;
        for socket in [&left, &right] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        Ok((left, right))
    };
    let (left, right) = connect().map_err(|error| format!("no loopback pair: {error}"))?;
    insert(map, &left)?;
    if both {
        insert(map, &right)?;
    }
    Ok((left, right))
}

/// The other end of `left`. It comes at once, unless a redirection takes loopback's connections
/// somewhere else.
fn accept(listener: &TcpListener, left: &TcpStream) -> io::Result<TcpStream> {
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut ready, timeout)? > 0 {
        let (right, from) = listener.accept()?;
        if from == left.local_addr()? {
            return Ok(right);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "a loopback connection arrived at another socket; check netfilter rules that redirect it",
    ))
}

fn insert(map: &mut SockHash<MapData, TupleKey>, socket: &TcpStream) -> Result<(), String> {
    let ends = || -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((socket.local_addr()?, socket.peer_addr()?))
    };
    let (local, remote) = ends().map_err(|error| error.to_string())?;
    let key = TupleKey {
        netns_cookie: netns_cookie(socket).map_err(|error| error.to_string())?,
        local_addr: to_words(local.ip()),
        remote_addr: to_words(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        _pad: 0,
    };
    map.insert(key, socket.as_raw_fd(), 0)
        .map_err(|error| format!("socket not accepted into the map: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root; `cargo xtask test` runs as root, and elsewhere the test says why it fails.
    #[test]
    fn the_self_test_comes_to_a_verdict() {
        match self_test() {
            Ok(()) | Err(CaptureError::SelfTest(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

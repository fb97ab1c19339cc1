//! What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Offsets in `struct tcp_info` (include/uapi/linux/tcp.h).
const UNACKED: usize = 24;
const RTT_MICROS: usize = 68;
const TOTAL_RETRANS: usize = 100;
/// Since 4.1.
const BYTES_ACKED: usize = 120;
/// Since 4.2.
const SEGS_OUT: usize = 136;
const LENGTH: usize = SEGS_OUT + 4;
/// `TCP_CLOSE` (include/net/tcp_states.h).
const CLOSE: u8 = 7;

/// How long is waited for the reset that follows when a peer has closed both directions. One that still
/// reads acknowledges what it has got within this, unless that is lost on its way.
const PATIENCE: Duration = Duration::from_millis(200);
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// What it knows at one moment of a socket that is or was connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// The smoothed round-trip time. Right after connect(2) it is that of the handshake, which no
    /// process has to be scheduled for.
    pub(crate) round_trip: Duration,
    /// Segments sent again.
    pub(crate) retransmits: u32,
    /// Segments sent, those sent again included.
    pub(crate) segments: u32,
    /// Bytes that the peer's kernel has acknowledged since the connection was made, its SYN among them.
    pub(crate) acknowledged: u64,
    /// There is no connection any more: it was reset, or both sides have ended.
    pub(crate) is_closed: bool,
}

// === impl TcpInfo ===

impl TcpInfo {
    /// # Errors
    /// What getsockopt(2) says; `Unsupported` of a kernel that knows less.
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let info = read(socket)?;
        let number = |at| u32::from_ne_bytes(field(&info, at));
        Ok(Self {
            round_trip: Duration::from_micros(number(RTT_MICROS).into()),
            retransmits: number(TOTAL_RETRANS),
            segments: number(SEGS_OUT),
            acknowledged: u64::from_ne_bytes(field(&info, BYTES_ACKED)),
            is_closed: info[0] == CLOSE,
        })
    }
}

// === helpers ===

/// Connections that wait in a listener's queue to be accepted (`tcp_get_info` in net/ipv4/tcp.c).
///
/// # Errors
/// As [`TcpInfo::of`].
pub(crate) fn queued(listener: &impl AsFd) -> io::Result<u32> {
    read(listener).map(|info| u32::from_ne_bytes(field(&info, UNACKED)))
}

fn read(socket: &impl AsFd) -> io::Result<[u8; LENGTH]> {
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
    if length as usize != LENGTH {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(info)
}

fn field<const N: usize>(info: &[u8; LENGTH], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| info[at + byte])
}

/// What a peer's kernel has acknowledged ([`TcpInfo::acknowledged`]), now that its stream has ended in
/// order; `None` if the kernel does not say.
///
/// Linux processes the acknowledgement of a segment before its FIN (`tcp_ack` before `tcp_data_queue`,
/// net/ipv4/tcp_input.c), and a FIN acknowledges all that its sender's kernel has got: what it does not
/// acknowledge was not there when the peer closed. A peer that has only ended its stream may take what
/// comes later: so its reset is waited for, unless `is_enough` says of what is acknowledged that nothing
/// more is to be known. The acknowledgement of a RST does not count.
pub(crate) async fn acknowledged_at_end(
    socket: &impl AsFd,
    is_enough: impl Fn(u64) -> bool,
) -> Option<u64> {
    let (begun, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        let info = TcpInfo::of(socket).ok()?;
        if info.is_closed || is_enough(info.acknowledged) || begun.elapsed() >= PATIENCE {
            return Some(info.acknowledged);
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    #[test]
    fn a_listener_says_how_many_wait_to_be_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(queued(&listener).unwrap(), 0);
        let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        assert_eq!(queued(&listener).unwrap(), 2);
        let _accepted = listener.accept().unwrap();
        assert_eq!(queued(&listener).unwrap(), 1);
        drop(clients);
    }

    #[test]
    fn the_numbers_of_a_connection_are_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let before = TcpInfo::of(&stream).unwrap();
        let measured = before.round_trip;
        assert!(!measured.is_zero() && measured < Duration::from_secs(1), "{before:?}");
        stream.write_all(b"x").unwrap();
        let after = TcpInfo::of(&stream).unwrap();
        assert_eq!(after.segments, before.segments + 1, "{before:?} {after:?}");
        assert!(TcpInfo::of(&UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }

    #[test]
    fn bytes_are_acknowledged_by_the_kernel_whether_they_are_read_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = TcpInfo::of(&client).unwrap();
        assert!(!before.is_closed);
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
        while TcpInfo::of(&client).unwrap().acknowledged == before.acknowledged {
            std::thread::yield_now();
        }
        assert_eq!(TcpInfo::of(&client).unwrap().acknowledged, before.acknowledged + 5);
        // What was not read makes the close a reset.
        drop(server);
        while !TcpInfo::of(&client).unwrap().is_closed {
            std::thread::yield_now();
        }
        assert_eq!(TcpInfo::of(&client).unwrap().acknowledged, before.acknowledged + 5);
    }

    #[test]
    fn acknowledged_bytes_are_counted_and_a_reset_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let before = TcpInfo::of(&near).unwrap();
        assert!(!before.is_closed);
        near.write_all(b"0123456789").unwrap();
        far.read_exact(&mut [0; 10]).unwrap();
        let after = TcpInfo::of(&near).unwrap();
        assert_eq!(after.acknowledged, before.acknowledged + 10);
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        let reset = near.read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        assert!(TcpInfo::of(&near).unwrap().is_closed);
    }
}

//! The proxy's listeners and the slots that the connect hook finds them in. The kernel empties a
//! slot when its listener closes, whatever the reason: that is what makes weir fail open.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd},
    sync::Mutex,
};

use aya::maps::{MapData, SockHash};
use socket2::{Domain, Protocol, Socket, Type};
use weir_common::{ListenerKey, ListenerKind, WorkloadId, maps};

use super::{CaptureError, Kernel, kernel};

/// The kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// linux/asm-generic/socket.h, since 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The outbound listeners of a workload, and the map their slots are in.
pub struct Listeners {
    workload: WorkloadId,
    map: Mutex<SockHash<MapData, ListenerKey>>,
    sockets: Vec<(ListenerKind, TcpListener)>,
    /// Cookie of the network namespace that they were opened in.
    pub netns_cookie: u64,
}

// === impl Listeners ===

impl Listeners {
    /// Opens the listeners in the calling thread's network namespace, on ephemeral ports.
    /// Captures nothing before [`Self::offer`].
    ///
    /// # Errors
    /// Where no IPv4 listener can be opened; without IPv6 there is just none for it.
    pub fn open(kernel: &Kernel) -> Result<Self, CaptureError> {
        let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(|source| {
            CaptureError::Socket {
                action: "listen on 127.0.0.1",
                source,
                hint: "; is the loopback interface up? (`ip link set lo up`)",
            }
        })?;
        let netns_cookie = netns_cookie(&v4)?;
        let mut sockets = vec![(ListenerKind::Outbound4, v4)];
        match listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
            Ok(v6) => sockets.push((ListenerKind::Outbound6, v6)),
            Err(error) => tracing::info!(%error, "no listener on ::1: IPv6 goes direct"),
        }
        let map = Mutex::new(kernel.take(maps::LISTENERS)?);
        Ok(Self { workload: kernel.workload, map, sockets, netns_cookie })
    }

    /// Copies of the listening sockets, for the accept loops.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    pub fn sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.sockets.iter().map(|(_, socket)| socket.try_clone()).collect()
    }

    /// The addresses listened on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }

    /// Puts the listeners into their slots: from now on connections come.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn offer(&self) -> Result<(), CaptureError> {
        let mut map = kernel::lock(&self.map);
        for (kind, socket) in &self.sockets {
            map.insert(self.key(*kind), socket.as_raw_fd(), 0)
                .map_err(CaptureError::map("write", maps::LISTENERS))?;
        }
        Ok(())
    }

    /// Empties the slots: new connections go direct. The listeners stay open, since a connect
    /// that has read a slot just before may still arrive.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn withdraw(&self) -> Result<(), CaptureError> {
        let mut map = kernel::lock(&self.map);
        for (kind, _) in &self.sockets {
            match map.remove(&self.key(*kind)) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(aya::maps::MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(CaptureError::map("delete from", maps::LISTENERS)(error)),
            }
        }
        Ok(())
    }

    const fn key(&self, kind: ListenerKind) -> ListenerKey {
        ListenerKey { workload: self.workload, kind: kind as u32 }
    }
}

// === helpers ===

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub fn netns_cookie(socket: &impl AsFd) -> Result<u64, CaptureError> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(cookie);
    }
    Err(CaptureError::Socket {
        action: "read the network namespace cookie",
        source: io::Error::last_os_error(),
        hint: "; weir needs Linux 5.15 or newer",
    })
}

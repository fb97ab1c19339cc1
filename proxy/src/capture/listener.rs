//! The proxy's listeners and the slots that the hooks find them in. The kernel empties a slot when
//! its listener closes, whatever the reason: that is what makes weir fail open.

mod ports;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aya::maps::MapError;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use weir_common::{ListenerKey, ListenerKind, WorkloadId, maps};

use super::{
    CaptureError, Instance, Kernel, Netns, RawSockets,
    attach::HOLD_PROGRAM,
    hold,
    table::{BPF_NOEXIST, absent_is_fine, lock},
};

/// The kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// linux/asm-generic/socket.h, since 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Flag of a map update (`include/uapi/linux/bpf.h`).
const BPF_ANY: u64 = 0;

/// A workload's listeners, one per family, for both directions: a redirected connection arrives
/// at the listener's own address, an inbound one at the address that the client asked for.
pub struct Listeners {
    instance: Arc<Instance>,
    workload: WorkloadId,
    sockets: Mutex<Vec<(ListenerKind, TcpListener)>>,
    addresses: Vec<SocketAddr>,
    loopback: Arc<Loopback>,
}

/// Whether the loopback interface of a workload's namespace carries each family.
#[derive(Debug)]
pub(super) struct Loopback([AtomicBool; 2]);

// === impl Listeners ===

impl Listeners {
    /// Opens the listeners in a network namespace, on loopback, so that nobody outside can reach them
    /// but through the hooks, and on ports that the kernel gives nobody and no operator has reserved. Captures nothing before [`Self::offer`], nor
    /// while loopback does not work.
    ///
    /// # Errors
    /// Where no IPv4 listener can be opened; without IPv6 there is just none for it.
    pub fn open(kernel: &Kernel, netns: &Netns) -> Result<Self, CaptureError> {
        let (v4, v6) = netns.enter(|| {
            (
                listen_aside(Ipv4Addr::LOCALHOST.into(), None),
                listen_aside(Ipv6Addr::LOCALHOST.into(), None),
            )
        })?;
        let v4 = v4.map_err(|source| CaptureError::Socket {
            action: "listen on 127.0.0.1",
            hint: shortage(&source),
            source,
        })?;
        let mut sockets = vec![(ListenerKind::V4, v4)];
        match v6 {
            Ok(v6) => sockets.push((ListenerKind::V6, v6)),
            Err(error) => tracing::info!(%error, "no listener on ::1: IPv6 goes direct"),
        }
        for (_, socket) in &sockets {
            kernel.own_listener(socket)?;
        }
        let addresses = sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect();
        Ok(Self {
            instance: Arc::clone(&kernel.instance),
            workload: kernel.workload,
            sockets: Mutex::new(sockets),
            addresses,
            loopback: Arc::clone(&kernel.loopback),
        })
    }

    /// Opens listeners of their own for outbound connections whose SYN is held, and what it takes to
    /// answer those. One for each family that there is a listener for, or none.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, where the kernel refuses the filter, and as [`Self::open`]: everything is
    /// as before then.
    pub fn open_hold(
        &mut self,
        kernel: &Kernel,
        netns: &Netns,
    ) -> Result<RawSockets, CaptureError> {
        let filter = kernel.own_program(HOLD_PROGRAM)?;
        let kinds: Vec<ListenerKind> = lock(&self.sockets).iter().map(|(kind, _)| *kind).collect();
        let opened = netns.enter(move || {
            let raw = RawSockets::open()?;
            let listeners = kinds.into_iter().map(|kind| {
                let (kind, address): (_, IpAddr) = match kind {
                    ListenerKind::V6 | ListenerKind::Hold6 => {
                        (ListenerKind::Hold6, Ipv6Addr::LOCALHOST.into())
                    }
                    ListenerKind::V4 | ListenerKind::Hold4 => {
                        (ListenerKind::Hold4, Ipv4Addr::LOCALHOST.into())
                    }
                };
                Ok((kind, listen_aside(address, Some(filter.as_fd()))?))
            });
            Ok((raw, listeners.collect::<io::Result<Vec<_>>>()?))
        })?;
        let (raw, listeners) = opened.map_err(hold::not_opened)?;
        for (_, listener) in &listeners {
            kernel.own_listener(listener)?;
        }
        self.addresses.extend(listeners.iter().filter_map(|(_, it)| it.local_addr().ok()));
        lock(&self.sockets).extend(listeners);
        kernel.holds.store(true, Ordering::Release);
        Ok(raw)
    }

    /// Copies of the listening sockets that hold nothing, for the accept loops.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    pub fn sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.copies(|kind| !is_hold(kind))
    }

    /// Copies of those that hold.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    pub fn hold_sockets(&self) -> io::Result<Vec<TcpListener>> {
        self.copies(is_hold)
    }

    fn copies(&self, wanted: impl Fn(ListenerKind) -> bool) -> io::Result<Vec<TcpListener>> {
        let sockets = lock(&self.sockets);
        let wanted = sockets.iter().filter(|(kind, _)| wanted(*kind));
        wanted.map(|(_, socket)| socket.try_clone()).collect()
    }

    /// The addresses listened on.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Puts the listeners into their slots, in place of what is there: from now on connections
    /// come here. Those of a family that loopback does not carry stay out.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn offer(&self) -> Result<(), CaptureError> {
        self.fill(BPF_ANY)
    }

    /// Puts the listeners into slots that are empty: a successor that took them has died.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn offer_where_empty(&self) -> Result<(), CaptureError> {
        self.fill(BPF_NOEXIST)
    }

    fn fill(&self, flags: u64) -> Result<(), CaptureError> {
        let mut map = lock(&self.instance.listeners);
        let sockets = lock(&self.sockets);
        for (kind, socket) in sockets.iter().filter(|(kind, _)| self.loopback.works(*kind)) {
            match map.insert(self.key(*kind), socket.as_raw_fd(), flags) {
                Err(MapError::SyscallError(error))
                    if flags == BPF_NOEXIST
                        && error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                result => result.map_err(CaptureError::map("write", maps::LISTENERS))?,
            }
        }
        Ok(())
    }

    /// Empties the slots: new connections go direct. The listeners stay open, since a connect
    /// that has read a slot just before may still arrive.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn withdraw(&self) -> Result<(), CaptureError> {
        let mut map = lock(&self.instance.listeners);
        for (kind, _) in lock(&self.sockets).iter() {
            absent_is_fine(map.remove(&self.key(*kind)), maps::LISTENERS)?;
        }
        Ok(())
    }

    /// Closes the listeners that hold nothing; what is still in their queues is reset. To be called
    /// once the slots are empty or another's, and the queues are.
    pub fn close(&self) {
        lock(&self.sockets).retain(|(kind, _)| is_hold(*kind));
    }

    /// Closes those that hold. To be called when nothing is held any more: who is refused then.
    pub fn close_hold(&self) {
        lock(&self.sockets).retain(|(kind, _)| !is_hold(*kind));
    }

    const fn key(&self, kind: ListenerKind) -> ListenerKey {
        ListenerKey { workload: self.workload, kind: kind as u32 }
    }
}

impl Kernel {
    /// Marks a listener of weir's own, and with it what it accepts.
    fn own_listener(&self, socket: &TcpListener) -> Result<(), CaptureError> {
        lock(&self.instance.own)
            .insert(&socket.as_raw_fd(), self.workload, 0)
            .map_err(CaptureError::map("write", maps::OWN))
    }

    /// Says whether loopback carries a family. Where it does not, the slot is emptied: connections
    /// go direct. [`Listeners::offer_where_empty`] fills it again.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set_loopback(&self, kind: ListenerKind, works: bool) -> Result<(), CaptureError> {
        let worked = self.loopback.0[family(kind)].swap(works, Ordering::AcqRel);
        if works == worked {
            return Ok(());
        }
        let family = ["IPv4", "IPv6"][family(kind)];
        if works {
            tracing::info!(workload.number = self.workload, family, "loopback works again");
            return Ok(());
        }
        tracing::warn!(
            workload.number = self.workload,
            family,
            "connections are not captured while the loopback interface is down or lacks its address \
             (`ip link set lo up`)"
        );
        let hold = if kind == ListenerKind::V6 { ListenerKind::Hold6 } else { ListenerKind::Hold4 };
        for kind in [hold, kind] {
            let key = ListenerKey { workload: self.workload, kind: kind as u32 };
            absent_is_fine(lock(&self.instance.listeners).remove(&key), maps::LISTENERS)?;
        }
        Ok(())
    }
}

// === impl Loopback ===

impl Default for Loopback {
    fn default() -> Self {
        Self([AtomicBool::new(true), AtomicBool::new(true)])
    }
}

impl Loopback {
    fn works(&self, kind: ListenerKind) -> bool {
        self.0[family(kind)].load(Ordering::Acquire)
    }
}

// === helpers ===

const fn is_hold(kind: ListenerKind) -> bool {
    matches!(kind, ListenerKind::Hold4 | ListenerKind::Hold6)
}

/// 0 for IPv4, 1 for IPv6.
const fn family(kind: ListenerKind) -> usize {
    match kind {
        ListenerKind::V4 | ListenerKind::Hold4 => 0,
        ListenerKind::V6 | ListenerKind::Hold6 => 1,
    }
}

/// The next step after a socket could not be made.
pub(super) fn shortage(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit of open files (`ulimit -n`, LimitNOFILE=)",
        Some(libc::ENFILE) => "; raise fs.file-max: the whole system is out of files",
        _ => "",
    }
}

/// Listens on a port where no server of the workload is likely to want to listen. `filter`: a program
/// that sees every segment that comes to the listener, from the first on.
fn listen_aside(address: IpAddr, filter: Option<BorrowedFd<'_>>) -> io::Result<TcpListener> {
    for port in ports::aside() {
        match listen(SocketAddr::new(address, port), filter) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            listening => return listening,
        }
    }
    listen(SocketAddr::new(address, 0), filter)
}

fn listen(address: SocketAddr, filter: Option<BorrowedFd<'_>>) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted inbound connections hold the application's port; without this on both sides it could
    // not listen again after a restart until the last of them has left TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    // For accepted sockets, which inherit all of it. Armed before anybody accepts them: see
    // `connection/reset.rs`.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket);
    // Also while loopback is down or has no such address: it may come.
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if let Some(filter) = filter {
        hold::attach_filter(&socket, filter)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Finds out about peers that vanished without a word (tcp(7)): after a minute of silence, and six
/// probes ten seconds apart, the kernel ends the connection. An answer to a probe costs nothing.
fn keep_alive(socket: &Socket) {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    // Without it the connection works just the same.
    let _ = socket.set_tcp_keepalive(&probes);
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

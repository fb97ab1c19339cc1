//! The proxy's listeners and the slots that the hooks find them in. The kernel empties a slot when
//! its listener closes, whatever the reason: that is what makes weir fail open.

mod own;
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
use weir_common::{ListenerKey, ListenerKind, OpenKey, WorkloadId, maps, spread};

pub use self::own::OwnAddresses;
pub(super) use self::ports::usable as usable_ports;

use super::{
    CaptureError, Instance, Netns, RawSockets, WorkloadMaps,
    attach::HOLD_PROGRAM,
    entries::Entries,
    hold,
    table::{BPF_NOEXIST, absent_is_fine, lock},
};

/// The kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// linux/asm-generic/socket.h, since 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Flag of a map update (`include/uapi/linux/bpf.h`).
const BPF_ANY: u64 = 0;

/// The interface that redirected connections come through.
const LOOPBACK: &[u8] = b"lo";

/// A workload's listeners: one per family for inbound connections, and those of outbound ones. A
/// redirected connection arrives at the listener's own address, an inbound one at the address that
/// the client asked for.
pub struct Listeners {
    instance: Arc<Instance>,
    workload: WorkloadId,
    open: Mutex<Vec<Open>>,
    own: OwnAddresses,
    loopback: Arc<Loopback>,
}

/// A copy of a listening socket.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// No inbound connections come here.
    pub is_outbound: bool,
}

/// One that is open.
struct Open {
    kind: ListenerKind,
    place: u16,
    /// It holds the SYNs of its connections.
    holds: bool,
    socket: TcpListener,
}

/// Whether the loopback interface of a workload's namespace carries each family.
pub(super) struct Loopback {
    entries: Entries,
    /// Of IPv4 and of IPv6.
    carries: [AtomicBool; 2],
}

// === impl Listeners ===

impl Listeners {
    /// Opens the listeners for inbound connections in a network namespace: on loopback, so that they are
    /// reached from outside through the hooks only, and on ports that the kernel never assigns and no
    /// operator has reserved. Captures nothing before [`Self::offer`], nor while loopback does not work.
    ///
    /// # Errors
    /// Where no IPv4 listener can be opened; without IPv6 there is just none for it.
    pub fn open(maps: &WorkloadMaps, netns: &Netns) -> Result<Self, CaptureError> {
        // Of listeners that are closed, or will be soon.
        for key in maps.entries.left(|left| &mut left.open) {
            maps.entries.instance.open.remove(&key)?;
        }
        let (v4, v6) = netns.enter(|| {
            (
                listen_aside(Aside::At(Ipv4Addr::LOCALHOST.into()), None),
                listen_aside(Aside::At(Ipv6Addr::LOCALHOST.into()), None),
            )
        })?;
        let v4 = v4.map_err(|source| CaptureError::Socket {
            action: "listen on 127.0.0.1",
            hint: shortage(&source),
            source,
        })?;
        let open = |kind, socket| Open { kind, place: 0, holds: false, socket };
        let mut opened = vec![open(ListenerKind::V4, v4)];
        match v6 {
            Ok(v6) => opened.push(open(ListenerKind::V6, v6)),
            Err(error) => {
                tracing::info!(%error, "cannot listen on ::1: IPv6 connections go direct");
            }
        }
        let mut listeners = Self {
            instance: Arc::clone(&maps.entries.instance),
            workload: maps.entries.workload,
            open: Mutex::default(),
            own: OwnAddresses::default(),
            loopback: Arc::clone(&maps.loopback),
        };
        listeners.add(opened)?;
        Ok(listeners)
    }

    /// Opens listeners for outbound connections alone, which the hooks spread over the addresses and
    /// ports listened on (`proxy-ebpf/src/spread.rs`). `holds` has their SYN held, and gives what
    /// answers those.
    ///
    /// # Errors
    /// As [`Self::open`]; to hold, without `CAP_NET_RAW` and where the kernel refuses the filter.
    /// Everything is as before then: outbound connections come to the listeners for inbound ones.
    fn open_outbound(
        &mut self,
        maps: &WorkloadMaps,
        netns: &Netns,
        holds: bool,
    ) -> Result<Option<RawSockets>, CaptureError> {
        let filter = if holds { Some(maps.links.own_program(HOLD_PROGRAM)?) } else { None };
        let has_v6 = lock(&self.open).iter().any(|it| it.kind == ListenerKind::V6);
        let opened = netns.enter(move || {
            let raw = holds.then(RawSockets::open).transpose()?;
            let filter = filter.as_ref().map(|it| it.as_fd());
            let open = |kind, place, socket| Open { kind, place, holds, socket };
            let mut opened =
                vec![open(ListenerKind::Outbound4, 0, listen_aside(Aside::Loopback4, filter)?)];
            for place in (0..spread::PLACES6).filter(|_| has_v6) {
                let socket = listen_aside(Aside::At(Ipv6Addr::LOCALHOST.into()), filter)?;
                opened.push(open(ListenerKind::Outbound6, place, socket));
            }
            io::Result::Ok((raw, opened))
        })?;
        let not_opened = |source| CaptureError::Socket {
            action: "listen for outbound connections",
            hint: shortage(&source),
            source,
        };
        let (raw, opened) = opened
            .map_err(|error| if holds { hold::not_opened(error) } else { not_opened(error) })?;
        self.add(opened)?;
        Ok(raw)
    }

    /// As [`Self::open_outbound`], for outbound connections that are accepted at once.
    ///
    /// # Errors
    /// As there.
    pub fn open_immediate(
        &mut self,
        maps: &WorkloadMaps,
        netns: &Netns,
    ) -> Result<(), CaptureError> {
        self.open_outbound(maps, netns, false).map(drop)
    }

    /// As [`Self::open_outbound`], for outbound connections whose SYN is held, with what answers them.
    ///
    /// # Errors
    /// As there.
    pub fn open_hold(
        &mut self,
        maps: &WorkloadMaps,
        netns: &Netns,
    ) -> Result<RawSockets, CaptureError> {
        let raw = self.open_outbound(maps, netns, true)?.expect("asked for");
        maps.flags.hold();
        Ok(raw)
    }

    fn add(&mut self, opened: Vec<Open>) -> Result<(), CaptureError> {
        for it in &opened {
            // Marks it as weir's own, and with it what it accepts.
            lock(&self.instance.own)
                .insert(&it.socket.as_raw_fd(), self.workload, 0)
                .map_err(CaptureError::map("write", maps::OWN))?;
        }
        self.own.extend(opened.iter().filter_map(|it| it.socket.local_addr().ok()));
        lock(&self.open).extend(opened);
        Ok(())
    }

    /// Copies of the listening sockets that hold nothing, for the accept loops.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    pub fn sockets(&self) -> io::Result<Vec<Listening>> {
        self.copies(false)
    }

    /// Copies of those that hold.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    pub fn hold_sockets(&self) -> io::Result<Vec<Listening>> {
        self.copies(true)
    }

    fn copies(&self, holds: bool) -> io::Result<Vec<Listening>> {
        let copy = |open: &Open| {
            let is_outbound =
                matches!(open.kind, ListenerKind::Outbound4 | ListenerKind::Outbound6);
            Ok(Listening { socket: open.socket.try_clone()?, is_outbound })
        };
        lock(&self.open).iter().filter(|it| it.holds == holds).map(copy).collect()
    }

    /// The addresses listened on.
    #[must_use]
    pub const fn own(&self) -> &OwnAddresses {
        &self.own
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
        let open = lock(&self.open);
        for it in open.iter().filter(|it| self.loopback.works(it.kind)) {
            match map.insert(self.key(it), it.socket.as_raw_fd(), flags) {
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
        for it in lock(&self.open).iter() {
            absent_is_fine(map.remove(&self.key(it)), maps::LISTENERS)?;
        }
        Ok(())
    }

    /// Closes the listeners that hold nothing; what is still in their queues is reset. To be called
    /// once the slots are empty or another's, and the queues are.
    pub fn close(&self) {
        self.retain(|it| it.holds);
    }

    /// Closes those that hold. To be called when nothing is held any more: a held connection would be refused.
    pub fn close_hold(&self) {
        self.retain(|it| !it.holds);
    }

    fn retain(&self, stays: impl Fn(&Open) -> bool) {
        lock(&self.open).retain(|it| {
            if !stays(it)
                && let Ok(address) = it.socket.local_addr()
            {
                let (listener, inet6) = (address.port(), u16::from(address.is_ipv6()));
                let key = OpenKey { workload: self.workload, listener, inet6 };
                let _ = self.instance.open.remove(&key);
            }
            stays(it)
        });
    }

    const fn key(&self, open: &Open) -> ListenerKey {
        ListenerKey { workload: self.workload, kind: open.kind as u16, place: open.place }
    }
}

// === impl Loopback ===

impl Loopback {
    pub(super) fn new(entries: Entries) -> Self {
        Self { entries, carries: [AtomicBool::new(true), AtomicBool::new(true)] }
    }

    fn works(&self, kind: ListenerKind) -> bool {
        self.carries[family(kind)].load(Ordering::Acquire)
    }

    /// Says whether loopback carries a family. Where it does not, the slot is emptied: connections
    /// go direct. [`Listeners::offer_where_empty`] fills it again.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set(&self, kind: ListenerKind, works: bool) -> Result<(), CaptureError> {
        let worked = self.carries[family(kind)].swap(works, Ordering::AcqRel);
        if works == worked {
            return Ok(());
        }
        let family = ["IPv4", "IPv6"][family(kind)];
        if works {
            tracing::info!(
                workload.number = self.entries.workload,
                family,
                "loopback interface is usable again"
            );
            return Ok(());
        }
        tracing::warn!(
            workload.number = self.entries.workload,
            family,
            "connections are not captured while the loopback interface is down or lacks its address \
             (`ip link set lo up`)"
        );
        let slots = match kind {
            ListenerKind::V4 | ListenerKind::Outbound4 => {
                vec![(ListenerKind::Outbound4, 0), (ListenerKind::V4, 0)]
            }
            ListenerKind::V6 | ListenerKind::Outbound6 => {
                let outbound = (0..spread::PLACES6).map(|place| (ListenerKind::Outbound6, place));
                outbound.chain([(ListenerKind::V6, 0)]).collect()
            }
        };
        for (kind, place) in slots {
            let key = ListenerKey { workload: self.entries.workload, kind: kind as u16, place };
            absent_is_fine(lock(&self.entries.instance.listeners).remove(&key), maps::LISTENERS)?;
        }
        Ok(())
    }
}

// === helpers ===

/// 0 for IPv4, 1 for IPv6.
const fn family(kind: ListenerKind) -> usize {
    match kind {
        ListenerKind::V4 | ListenerKind::Outbound4 => 0,
        ListenerKind::V6 | ListenerKind::Outbound6 => 1,
    }
}

/// The next step after a socket could not be made.
pub(super) fn shortage(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit of open files (`ulimit -n`, LimitNOFILE=)",
        Some(libc::ENFILE) => "; raise fs.file-max: the system has no file descriptors left",
        _ => "",
    }
}

/// What to listen on, but for the port.
#[derive(Clone, Copy)]
pub(super) enum Aside {
    /// One address.
    At(IpAddr),
    /// Every IPv4 address of the loopback interface, and nothing that comes by another one: the socket
    /// is bound to the interface (`compute_score` in net/ipv4/inet_hashtables.c), and for addresses
    /// of others the kernel answers as if no socket listened.
    Loopback4,
}

/// Listens on a port where no server of the workload is likely to want to listen. `filter`: a program
/// that sees every segment that comes to the listener, from the first on.
pub(super) fn listen_aside(
    aside: Aside,
    filter: Option<BorrowedFd<'_>>,
) -> io::Result<TcpListener> {
    for port in ports::aside() {
        match listen(aside, port, filter) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            listening => return listening,
        }
    }
    listen(aside, 0, filter)
}

fn listen(aside: Aside, port: u16, filter: Option<BorrowedFd<'_>>) -> io::Result<TcpListener> {
    let ip = match aside {
        Aside::At(ip) => ip,
        Aside::Loopback4 => Ipv4Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(ip, port);
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
    // For accepted sockets, which inherit all of it. Armed before they are accepted: see
    // `connection/reset.rs`.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    // Urgent bytes stay in their place: see `forward/tcp/socket.rs`.
    socket.set_out_of_band_inline(true)?;
    keep_alive(&socket);
    match aside {
        Aside::Loopback4 => socket.bind_device(Some(LOOPBACK))?,
        // Also while loopback is down or has no such address: it may come.
        Aside::At(IpAddr::V4(_)) => socket.set_freebind_v4(true)?,
        Aside::At(IpAddr::V6(_)) => socket.set_freebind_v6(true)?,
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

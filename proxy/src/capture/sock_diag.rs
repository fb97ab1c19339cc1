//! Which TCP sockets listen in a network namespace, and in which cgroup each was made: a dump of
//! sock_diag(7). A look, once: it does not follow changes.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    path::Path,
};

use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
    },
    sys::{Socket, protocols::NETLINK_SOCK_DIAG},
};

use super::{CaptureError, Netns};
use crate::host::{cgroup::descendants, socket_owners};

/// linux/inet_diag.h, since 5.9; always sent where the kernel has cgroups.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// A listening socket. Those of one `SO_REUSEPORT` group are listed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// The address and port listened on. An IPv6 socket that is bound to a v4-mapped address
    /// listens for IPv4 only, and is shown as IPv4.
    pub address: SocketAddr,
    /// An IPv6 socket that takes no IPv4 connections.
    pub v6_only: bool,
    /// The id of the cgroup that the socket was made in; `None` before Linux 5.9. Processes that
    /// move, or hand a socket on (as socket activation does), do not change it.
    pub cgroup: Option<u64>,
    /// The index of the interface that it is bound to (`SO_BINDTODEVICE`); 0 for none.
    pub device: u32,
    /// What tells the socket from others.
    pub(super) id: socket_owners::SocketId,
}

// === impl Listener ===

impl Listener {
    /// Whether a connection to an address and the listener's port, by no device, is for it.
    fn takes(&self, to: IpAddr) -> bool {
        let bound = self.address.ip();
        let any = bound.is_unspecified()
            && (bound.is_ipv4() == to.is_ipv4() || bound.is_ipv6() && !self.v6_only);
        self.device == 0 && (bound == to || any)
    }

    fn of_response(response: &InetResponse) -> Self {
        let id = &response.header.socket_id;
        let mut listener = Self {
            address: address(id),
            v6_only: false,
            cgroup: None,
            device: id.interface_id,
            id: socket_owners::SocketId {
                inode: response.header.inode,
                cookie: u64::from_ne_bytes(id.cookie),
            },
        };
        for attribute in &response.nlas {
            match attribute {
                Nla::SkV6Only(only) => listener.v6_only = *only,
                Nla::Other(other) if other.kind() == INET_DIAG_CGROUP_ID => {
                    let mut value = [0; 8];
                    if other.value_len() == value.len() {
                        other.emit_value(&mut value);
                        listener.cgroup = Some(u64::from_ne_bytes(value));
                    }
                }
                _ => {}
            }
        }
        listener
    }
}

/// Every TCP listener of the calling thread's namespace, or those on one port; run it through
/// [`Netns::run`]. A socket that begins or ends to listen meanwhile may be
/// missing.
///
/// # Errors
/// What netlink says; `ENOENT` where the kernel lacks `tcp_diag`.
pub(super) fn listeners(port: Option<u16>) -> io::Result<Vec<Listener>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    let mut all = dump(&socket, AF_INET, SocketId::new_v4(), port)?;
    match dump(&socket, AF_INET6, SocketId::new_v6(), port) {
        Ok(v6) => all.extend(v6),
        // There is `tcp_diag`, since IPv4 was dumped, but no IPv6.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => {}
        Err(error) => return Err(error),
    }
    Ok(all)
}

/// True where a socket of the namespace, whichever process it is of, takes connections to `address` that
/// come from the namespace itself.
///
/// # Errors
/// Where the namespace cannot be entered, or sock_diag fails.
pub fn listens_in(netns: &Netns, address: SocketAddr) -> Result<bool, CaptureError> {
    let found = netns.enter(move || listeners(Some(address.port())))?.map_err(|source| {
        CaptureError::Socket {
            action: "list the listening sockets",
            source,
            hint: "; check that the kernel has sock_diag",
        }
    })?;
    Ok(found.iter().any(|listener| listener.takes(address.ip())))
}

/// The ids of a cgroup and of all below it, to compare with [`Listener::cgroup`].
///
/// # Errors
/// Where the cgroup is not there or may not be read.
pub(super) fn cgroup_ids(cgroup: &Path) -> io::Result<HashSet<u64>> {
    let below = descendants(cgroup).into_iter().filter_map(|path| fs::metadata(path).ok());
    Ok([fs::metadata(cgroup)?].into_iter().chain(below).map(|found| found.ino()).collect())
}

// === helpers ===

fn dump(
    socket: &Socket,
    family: u8,
    socket_id: SocketId,
    port: Option<u16>,
) -> io::Result<Vec<Listener>> {
    let mut request = request(family, socket_id);
    if let Some(port) = port {
        restrict(&mut request, port);
    }
    socket.send(&request, 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // netlink(7): messages are aligned to 4 bytes. The header is never of length 0.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(Listener::of_response(&response));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

fn request(family: u8, socket_id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Has the kernel answer with sockets of one port only, by a program of two comparisons
/// (linux/inet_diag.h, `inet_diag_bc_op`; the crate has no attribute for it). Each comparison names
/// the port in an operation behind it, and where to go on, counted from itself: past the end is a
/// no (`inet_diag_bc_run`).
fn restrict(request: &mut Vec<u8>, port: u16) {
    const INET_DIAG_REQ_BYTECODE: u16 = 1;
    const INET_DIAG_BC_S_GE: u8 = 2;
    const INET_DIAG_BC_S_LE: u8 = 3;
    let operation = |code: u8, yes: u8, no: u16| {
        let no = no.to_ne_bytes();
        [code, yes, no[0], no[1]]
    };
    let program = [
        operation(INET_DIAG_BC_S_GE, 8, 20),
        operation(0, 0, port),
        operation(INET_DIAG_BC_S_LE, 8, 12),
        operation(0, 0, port),
    ];
    let header = 4_u16;
    let length = header + size_of_val(&program) as u16;
    request.extend(length.to_ne_bytes());
    request.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    request.extend(program.as_flattened());
    // The message's own length is its first field (netlink(7)).
    let length = (request.len() as u32).to_ne_bytes();
    request[..4].copy_from_slice(&length);
}

fn address(id: &SocketId) -> SocketAddr {
    match id.source_address.to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), id.source_port),
        IpAddr::V6(v6) => {
            // As getsockname(2) shows it: link-local addresses mean one of each interface.
            let scope = if v6.is_unicast_link_local() { id.interface_id } else { 0 };
            SocketAddrV6::new(v6, id.source_port, 0, scope).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{mem, os::unix::process::CommandExt, process::Command};

    use socket2::{Domain, Protocol, Type};

    use super::*;
    use crate::{
        capture::netns::testing::{Sleeper, fresh, ip},
        host::cgroup::{self, Transient},
    };

    fn tcp(address: SocketAddr, prepare: impl Fn(&socket2::Socket)) -> socket2::Socket {
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
        prepare(&socket);
        socket.bind(&address.into()).unwrap();
        socket
    }

    /// What is listed while `address` is listened on, without its port and cgroup.
    fn listed(
        address: &'static str,
        prepare: impl Fn(&socket2::Socket) + Send + 'static,
    ) -> Vec<(IpAddr, bool, u32)> {
        let netns = fresh();
        ip(&netns, "link set lo up");
        let work = move || {
            let socket = tcp(address.parse().unwrap(), prepare);
            // One that is bound only, and one that is connected: neither listens.
            let _bound = tcp("127.0.0.1:0".parse().unwrap(), |_| {});
            assert_eq!(listeners(None).unwrap(), []);
            socket.listen(8).unwrap();
            let port = socket.local_addr().unwrap().as_socket().unwrap().port();
            let listed = listeners(None).unwrap();
            assert!(listed.iter().all(|listener| listener.address.port() == port));
            let own = cgroup::id(&cgroup::own().unwrap()).unwrap();
            assert!(listed.iter().all(|listener| listener.cgroup == Some(own)));
            listed
        };
        let listed = netns.enter(work).unwrap();
        listed.into_iter().map(|l| (l.address.ip(), l.v6_only, l.device)).collect()
    }

    fn one(ip: &str, v6_only: bool, device: u32) -> Vec<(IpAddr, bool, u32)> {
        vec![(ip.parse().unwrap(), v6_only, device)]
    }

    #[test]
    fn a_listener_takes_what_its_address_family_and_device_allow() {
        let takes = |bound: &str, v6_only, device, to: &str| {
            let listener = Listener {
                address: SocketAddr::new(bound.parse().unwrap(), 80),
                v6_only,
                cgroup: None,
                device,
                id: socket_owners::SocketId { inode: 1, cookie: 1 },
            };
            listener.takes(to.parse().unwrap())
        };
        for (bound, v6_only, to, expected) in [
            ("0.0.0.0", false, "127.0.0.1", true),
            ("0.0.0.0", false, "::1", false),
            ("127.0.0.1", false, "127.0.0.1", true),
            ("127.0.0.1", false, "127.0.0.2", false),
            ("::", false, "::1", true),
            ("::", false, "127.0.0.1", true),
            ("::", true, "127.0.0.1", false),
            ("::1", true, "::1", true),
            ("::1", true, "fd00::1", false),
        ] {
            assert_eq!(takes(bound, v6_only, 0, to), expected, "{bound} {v6_only} {to}");
        }
        assert!(!takes("0.0.0.0", false, 1, "127.0.0.1"));
    }

    #[test]
    fn each_kind_of_listener_is_told() {
        assert_eq!(listed("0.0.0.0:0", |_| {}), one("0.0.0.0", false, 0));
        assert_eq!(listed("127.0.0.1:0", |_| {}), one("127.0.0.1", false, 0));
        let dual = |socket: &socket2::Socket| socket.set_only_v6(false).unwrap();
        assert_eq!(listed("[::]:0", dual), one("::", false, 0));
        assert_eq!(listed("[::ffff:127.0.0.1]:0", dual), one("127.0.0.1", false, 0));
        let only = |socket: &socket2::Socket| socket.set_only_v6(true).unwrap();
        assert_eq!(listed("[::]:0", only), one("::", true, 0));
        assert_eq!(listed("[::1]:0", only), one("::1", true, 0));
        let device = |socket: &socket2::Socket| socket.bind_device(Some(b"lo")).unwrap();
        assert_eq!(listed("0.0.0.0:0", device), one("0.0.0.0", false, 1));
        assert_eq!(listed("[::]:0", device), one("::", false, 1));
    }

    #[test]
    fn connections_are_not_listed_and_members_of_a_group_are_one_by_one() {
        let netns = fresh();
        ip(&netns, "link set lo up");
        let work = || {
            let reuse = |socket: &socket2::Socket| socket.set_reuse_port(true).unwrap();
            let first = tcp("127.0.0.1:0".parse().unwrap(), reuse);
            let address = first.local_addr().unwrap().as_socket().unwrap();
            first.listen(8).unwrap();
            let _connection = std::net::TcpStream::connect(address).unwrap();
            let _accepted = first.accept().unwrap();
            let second = tcp(address, reuse);
            second.listen(8).unwrap();
            let listed: Vec<_> = listeners(None).unwrap().iter().map(|l| l.address).collect();
            (address, listed)
        };
        let (address, listed) = netns.enter(work).unwrap();
        assert_eq!(listed, [address, address]);
    }

    /// More than fits one answer of the kernel (32 KiB at most).
    #[test]
    fn long_answers_are_read_to_their_end() {
        let netns = fresh();
        ip(&netns, "link set lo up");
        let work = || {
            let sockets: Vec<_> =
                (0..500).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let made: HashSet<_> =
                sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            let listed: HashSet<_> = listeners(None).unwrap().iter().map(|l| l.address).collect();
            (made, listed)
        };
        let (made, listed) = netns.enter(work).unwrap();
        assert_eq!(made, listed);
    }

    /// Guards against a look at all sockets where one port is in question.
    #[test]
    fn listeners_of_one_port_are_found_among_others() {
        let netns = fresh();
        ip(&netns, "link set lo up");
        let work = || {
            let sockets: Vec<_> = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0", "127.0.0.1:0"]
                .map(|address| std::net::TcpListener::bind(address).unwrap())
                .into();
            let made: Vec<_> = sockets.iter().map(|it| it.local_addr().unwrap()).collect();
            let of = |port| {
                let found = listeners(Some(port)).unwrap();
                found.iter().map(|listener| listener.address).collect::<Vec<_>>()
            };
            let found: Vec<_> = made.iter().map(|address| of(address.port())).collect();
            (made, found, of(1))
        };
        let (made, found, none) = netns.enter(work).unwrap();
        for (address, found) in made.iter().zip(found) {
            assert!(found.contains(address), "{found:?}");
            assert!(found.iter().all(|it| it.port() == address.port()), "{found:?}");
        }
        assert_eq!(none, []);
    }

    #[test]
    fn a_listener_names_the_cgroup_that_it_was_made_in() {
        let outer = Transient::create("weir-test-listening").unwrap();
        let inner = Transient::create("weir-test-listening/inner").unwrap();
        let other = Transient::create("weir-test-listening-other").unwrap();
        let netns = fresh();
        let mut command = Command::new("sleep");
        let address: socket2::SockAddr = SocketAddr::from(([0, 0, 0, 0], 7777)).into();
        inner.enter(&mut command).unwrap();
        // SAFETY: plain system calls, after the one that moves the process into the cgroup.
        unsafe {
            command.pre_exec(move || {
                let socket = socket2::Socket::new_raw(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&address)?;
                socket.listen(8)?;
                // It stays open until the process ends.
                mem::forget(socket);
                Ok(())
            });
        }
        let process = Sleeper::spawn(command, &netns);
        let listed = netns.enter(|| listeners(None)).unwrap().unwrap();
        let [listener] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!(listener.cgroup, Some(cgroup::id(inner.path()).unwrap()));

        let id = listener.cgroup.unwrap();
        assert!(cgroup_ids(outer.path()).unwrap().contains(&id));
        assert!(cgroup_ids(inner.path()).unwrap().contains(&id));
        assert!(!cgroup_ids(other.path()).unwrap().contains(&id));
        assert_eq!(cgroup_ids(outer.path()).unwrap().len(), 2);
        assert!(cgroup_ids(Path::new("/proc/nowhere")).is_err());
        drop(process);
        drop(inner);
    }
}

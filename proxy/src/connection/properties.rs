//! Gives the upstream connection what the application has set on its own socket, before its SYN: what
//! the network and the peer can see of it, and how long silence is borne. Nothing that was not asked
//! for: the kernel's defaults are what the application would have had. No property is worth a
//! connection: one that the kernel refuses is left out. What it sets later follows (`options.rs`).

use std::{fs, io, net::SocketAddr, sync::OnceLock, time::Duration};

use nix::{
    sys::socket::{
        setsockopt,
        sockopt::{TcpKeepCount, TcpKeepIdle, TcpKeepInterval},
    },
    time::{ClockId, clock_getres},
};
use socket2::Socket;
use weir_common::{
    Properties, Set,
    followed::{
        IP_TOS, IPV6_TCLASS, SO_PRIORITY, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, TCP_CONGESTION,
    },
};

use crate::capture::{Owner, SocketOption, sockopt, sockopt::WeakSocket};

/// The congestion controls that any process may choose (tcp(7), `tcp_allowed_congestion_control`).
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// The highest priority that any process may choose (socket(7), `SO_PRIORITY`).
const HIGHEST_PRIORITY: i32 = 6;

/// Whom the application's socket belongs to; `None` where that is not known.
pub(super) fn owner(properties: &Properties) -> Option<Owner> {
    properties.has(Set::OWNER).then_some(Owner { uid: properties.uid, gid: properties.gid })
}

/// Sets them on a socket that is to be connected to `destination`.
pub(super) fn set(socket: &Socket, destination: SocketAddr, properties: &Properties) {
    let results = [
        header(socket, destination, properties),
        patience(socket, properties),
        queues(socket, properties),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, destination.addr = %destination, "cannot set a property of the \
             upstream socket");
    }
}

/// Sets an option that the application is setting on its own socket. The kernel has not said yet
/// whether it may: what takes a capability, which weir has, is left out.
pub(super) fn change(socket: &WeakSocket, destination: SocketAddr, option: &SocketOption) {
    if !concerns(destination, option) || !may_anybody(option) {
        return;
    }
    if let Err(error) = socket.set(option.level, option.name, option.value()) {
        tracing::debug!(%error, destination.addr = %destination, "cannot set an option of the \
             upstream socket");
    }
}

// === helpers ===

/// Whether it changes anything of a connection to there. A socket for IPv6 that is connected to an IPv4
/// address has options of both.
fn concerns(destination: SocketAddr, option: &SocketOption) -> bool {
    match (option.level, option.name) {
        (SOL_IP, IP_TOS) => destination.is_ipv4(),
        (SOL_IPV6, IPV6_TCLASS) => destination.is_ipv6(),
        _ => true,
    }
}

fn may_anybody(option: &SocketOption) -> bool {
    match (option.level, option.name) {
        (SOL_SOCKET, SO_PRIORITY) => {
            option.number().is_some_and(|priority| (0..=HIGHEST_PRIORITY).contains(&priority))
        }
        (SOL_TCP, TCP_CONGESTION) => {
            let name = option.value().split(|byte| *byte == 0).next().unwrap_or_default();
            let allowed = fs::read(ALLOWED).unwrap_or_default();
            allowed.split(u8::is_ascii_whitespace).any(|word| word == name)
        }
        _ => true,
    }
}

fn header(socket: &Socket, destination: SocketAddr, properties: &Properties) -> io::Result<()> {
    let (class, hops) = (properties.traffic_class.into(), properties.hop_limit.into());
    let has_hops = properties.has(Set::HOP_LIMIT);
    match destination {
        SocketAddr::V4(_) => {
            when(class != 0, || socket.set_tos_v4(class))?;
            when(has_hops, || socket.set_ttl_v4(hops))
        }
        SocketAddr::V6(_) => {
            when(class != 0, || socket.set_tclass_v6(class))?;
            when(has_hops, || socket.set_unicast_hops_v6(hops))
        }
    }
}

/// Probes of silence, and how long what was sent may stay without an answer. When and how often, also
/// where there are no probes: they may be asked for later.
fn patience(socket: &Socket, properties: &Properties) -> io::Result<()> {
    let (time, interval) = (properties.keepalive_time, properties.keepalive_interval);
    if let Some(seconds) = seconds(time) {
        setsockopt(socket, TcpKeepIdle, &seconds)?;
    }
    if let Some(seconds) = seconds(interval) {
        setsockopt(socket, TcpKeepInterval, &seconds)?;
    }
    let probes = properties.keepalive_probes.into();
    when(probes != 0, || Ok(setsockopt(socket, TcpKeepCount, &probes)?))?;
    when(properties.has(Set::KEEPALIVE), || socket.set_keepalive(true))?;
    let timeout = Duration::from_millis(properties.user_timeout.into());
    when(!timeout.is_zero(), || socket.set_tcp_user_timeout(Some(timeout)))
}

fn queues(socket: &Socket, properties: &Properties) -> io::Result<()> {
    when(properties.priority != 0, || socket.set_priority(properties.priority))?;
    // Before the sizes: the kernel counts twice what is asked for (socket(7)).
    when(properties.has(Set::RECEIVE_BUFFER), || {
        socket.set_recv_buffer_size(properties.receive_buffer as usize / 2)
    })?;
    when(properties.has(Set::SEND_BUFFER), || {
        socket.set_send_buffer_size(properties.send_buffer as usize / 2)
    })?;
    when(properties.has(Set::PACING), || {
        sockopt::set(socket, libc::SO_MAX_PACING_RATE, properties.pacing)
    })?;
    when(properties.has(Set::CONGESTION), || {
        let (name, length) = properties.congestion_name();
        socket.set_tcp_congestion(&name[..length])
    })
}

fn when(asked: bool, set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if asked { set() } else { Ok(()) }
}

/// A time that the kernel keeps in its ticks, as the whole seconds that were set; `None` for its
/// default, which is 0.
fn seconds(ticks: u32) -> Option<u32> {
    /// Ticks a second (`CONFIG_HZ`): the resolution of the coarse clocks is one of them.
    static RATE: OnceLock<u32> = OnceLock::new();
    let rate = *RATE.get_or_init(|| {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |tick| tick.tv_nsec());
        let tick = u32::try_from(tick).unwrap_or(0);
        // 1/300 s is no whole number of nanoseconds.
        (1_000_000_000 + tick / 2).checked_div(tick).unwrap_or(0)
    });
    (ticks != 0 && rate != 0).then(|| (ticks / rate).max(1))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use nix::sys::socket::{getsockopt, sockopt};
    use socket2::{Domain, Protocol, Type};

    use super::*;

    fn socket(domain: Domain) -> Socket {
        Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap()
    }

    fn congestion(name: &[u8; 16]) -> [u64; 2] {
        [&name[..8], &name[8..]].map(|half| u64::from_ne_bytes(half.try_into().unwrap()))
    }

    #[test]
    fn what_was_asked_for_is_on_the_socket() {
        let ticks = |seconds: u32| {
            let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap().tv_nsec();
            seconds * u32::try_from((1_000_000_000 + tick / 2) / tick).unwrap()
        };
        let properties = Properties {
            pacing: 5_000_000,
            congestion: congestion(b"reno\0\0\0\0\0\0\0\0\0\0\0\0"),
            keepalive_time: ticks(7),
            keepalive_interval: ticks(2),
            user_timeout: 1500,
            priority: 5,
            receive_buffer: 20_000,
            send_buffer: 30_000,
            set: Set::KEEPALIVE
                | Set::HOP_LIMIT
                | Set::PACING
                | Set::RECEIVE_BUFFER
                | Set::SEND_BUFFER
                | Set::CONGESTION,
            keepalive_probes: 3,
            traffic_class: 0xb8,
            hop_limit: 9,
            ..Properties::default()
        };
        let v4 = socket(Domain::IPV4);
        set(&v4, (Ipv4Addr::LOCALHOST, 80).into(), &properties);
        assert!(v4.keepalive().unwrap());
        assert_eq!(v4.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(v4.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
        assert_eq!(v4.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(v4.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!((v4.tos_v4().unwrap(), v4.ttl_v4().unwrap()), (0xb8, 9));
        assert_eq!(getsockopt(&v4, sockopt::Priority).unwrap(), 5);
        assert_eq!(v4.recv_buffer_size().unwrap(), 20_000);
        assert_eq!(v4.send_buffer_size().unwrap(), 30_000);
        assert!(v4.tcp_congestion().unwrap().starts_with(b"reno"));
        let v6 = socket(Domain::IPV6);
        set(&v6, (Ipv6Addr::LOCALHOST, 80).into(), &properties);
        assert_eq!((v6.tclass_v6().unwrap(), v6.unicast_hops_v6().unwrap()), (0xb8, 9));
    }

    /// Guards against a keep-alive that is turned on after connect(2), with times that were set before.
    #[test]
    fn when_probes_are_sent_is_known_where_none_are_yet() {
        let socket = socket(Domain::IPV4);
        let properties = Properties { keepalive_probes: 3, ..Properties::default() };
        set(&socket, (Ipv4Addr::LOCALHOST, 80).into(), &properties);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert!(!socket.keepalive().unwrap());
    }

    fn given(level: i32, name: i32, value: &[u8]) -> SocketOption {
        SocketOption::new(level, name, value).unwrap()
    }

    #[test]
    fn what_takes_a_capability_is_left_out_and_so_is_what_does_not_concern() {
        let here: SocketAddr = (Ipv4Addr::LOCALHOST, 80).into();
        let there: SocketAddr = (Ipv6Addr::LOCALHOST, 80).into();
        let (v4, v6) = (socket(Domain::IPV4), socket(Domain::IPV6));
        let both = |level, name, value: &[u8]| {
            for (socket, to) in [(&v4, here), (&v6, there)] {
                change(&WeakSocket::of(socket).unwrap(), to, &given(level, name, value));
            }
        };
        let number = |value: i32| value.to_ne_bytes();
        both(SOL_SOCKET, SO_PRIORITY, &number(5));
        both(SOL_SOCKET, SO_PRIORITY, &number(7));
        both(SOL_SOCKET, SO_PRIORITY, &number(-1));
        assert_eq!(getsockopt(&v4, sockopt::Priority).unwrap(), 5);
        both(SOL_TCP, TCP_CONGESTION, b"reno\0\0\0\0\0\0\0\0\0\0\0\0");
        both(SOL_TCP, TCP_CONGESTION, b"no_such");
        both(SOL_TCP, TCP_CONGESTION, b"");
        assert!(v4.tcp_congestion().unwrap().starts_with(b"reno"));
        let before = v6.tos_v4().unwrap();
        both(SOL_IP, IP_TOS, &number(0x20));
        assert_eq!((v4.tos_v4().unwrap(), v6.tos_v4().unwrap()), (0x20, before));
        // A byte will do, as for the kernel.
        both(SOL_IP, IP_TOS, &[0x48]);
        assert_eq!(v4.tos_v4().unwrap(), 0x48);
        both(SOL_IPV6, IPV6_TCLASS, &number(0x20));
        assert_eq!(v6.tclass_v6().unwrap(), 0x20);
    }

    #[test]
    fn what_was_not_asked_for_stays_the_kernels_default() {
        let (fresh, other) = (socket(Domain::IPV4), socket(Domain::IPV4));
        set(&other, (Ipv4Addr::LOCALHOST, 80).into(), &Properties::default());
        let all = |socket: &Socket| {
            (
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_user_timeout().unwrap(),
                (socket.tos_v4().unwrap(), socket.ttl_v4().unwrap()),
                (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()),
                socket.tcp_congestion().unwrap(),
            )
        };
        assert_eq!(all(&other), all(&fresh));
        assert!(!other.keepalive().unwrap());
        assert_eq!(owner(&Properties::default()), None);
    }
}

//! Gives the upstream connection what the application has set on its own socket, before its SYN: what
//! the network and the peer can see of it, and how long silence is borne. Nothing that was not asked
//! for: the kernel's defaults are what the application would have had. No property is worth a
//! connection: one that the kernel refuses is left out.

use std::{io, net::SocketAddr, sync::OnceLock, time::Duration};

use nix::time::{ClockId, clock_getres};
use socket2::{Socket, TcpKeepalive};
use weir_common::{Properties, Set};

use crate::capture::{Owner, sockopt};

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
        tracing::debug!(%error, destination.addr = %destination, "upstream socket lacks a property");
    }
}

// === helpers ===

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

/// Probes of silence, and how long what was sent may stay without an answer.
fn patience(socket: &Socket, properties: &Properties) -> io::Result<()> {
    let mut probes = TcpKeepalive::new();
    if let Some(time) = jiffies(properties.keepalive_time) {
        probes = probes.with_time(time);
    }
    if let Some(interval) = jiffies(properties.keepalive_interval) {
        probes = probes.with_interval(interval);
    }
    if properties.keepalive_probes != 0 {
        probes = probes.with_retries(properties.keepalive_probes.into());
    }
    when(properties.has(Set::KEEPALIVE), || socket.set_tcp_keepalive(&probes))?;
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
fn jiffies(ticks: u32) -> Option<Duration> {
    /// Ticks a second (`CONFIG_HZ`): the resolution of the coarse clocks is one of them.
    static RATE: OnceLock<u32> = OnceLock::new();
    let rate = *RATE.get_or_init(|| {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |tick| tick.tv_nsec());
        let tick = u32::try_from(tick).unwrap_or(0);
        // 1/300 s is no whole number of nanoseconds.
        (1_000_000_000 + tick / 2).checked_div(tick).unwrap_or(0)
    });
    (ticks != 0 && rate != 0).then(|| Duration::from_secs((ticks / rate).max(1).into()))
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

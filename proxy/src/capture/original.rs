//! Original destinations: what the kernel noted at connect, read once for each accept.
//!
//! The hooks move a note into the accepted socket's own storage when its handshake completes
//! (`proxy-ebpf/src/stream.rs`): there it cannot be another connection's. Where weir's own cgroup
//! could not be given that program, the note is taken by its key.

use std::{
    collections::HashMap as StdHashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    sync::Mutex,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData, MapError, SkStorage};
use weir_common::{
    AddrWords, AddressClass, ConnectionKey, Direction, OriginalDestination, PortState, Properties,
    Source, WorkloadId, hold, maps,
};

use super::{CaptureError, Instance, bpf, table::lock};
use crate::process::Process;

/// Far more than the kernel tries by default (127 s: tcp(7), `tcp_syn_retries`).
const HELD_AGE: Duration = Duration::from_secs(3600);

/// The notes of connections on their way from connect to accept.
pub struct Originals {
    map: HashMap<MapData, ConnectionKey, OriginalDestination>,
    /// The same map, for the one command that aya does not have.
    pub(super) taken: bpf::Taken<ConnectionKey, OriginalDestination>,
    accepted: Mutex<SkStorage<MapData, OriginalDestination>>,
}

/// The listener that a connection was accepted from.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedFrom {
    /// The workload that it serves.
    pub workload: WorkloadId,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
}

/// What is known about a captured connection, from a hook or from its accepted socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The workload it belongs to.
    pub workload: WorkloadId,
    /// Seen from the workload.
    pub direction: Direction,
    /// The address that the client asked for.
    pub destination: SocketAddr,
    /// The address that the application bound itself to before connecting.
    pub bound: Option<IpAddr>,
    /// The source address that a direct connection would have, as far as known.
    pub source: Option<IpAddr>,
    /// The application's `SO_MARK`; 0 for none.
    pub mark: u32,
    /// What else the application has set on its socket.
    pub properties: Properties,
    /// When the application asked for it, `bpf_ktime_get_ns` clock; 0 for inbound connections.
    pub connected_ns: u64,
    /// The port's state when it was captured: opaque or detect.
    pub state: PortState,
    /// The source of that state.
    pub state_source: Source,
    /// The process that connects, where it is one of the workload.
    pub process: Option<Process>,
}

// === impl Originals ===

impl Originals {
    /// Takes the map out of the instance.
    ///
    /// # Errors
    /// Where the object has no such map.
    pub fn new(instance: &Instance) -> Result<Self, CaptureError> {
        let map = instance.shared().take_map(maps::PENDING);
        let Some(Map::HashMap(data)) = map else {
            return Err(CaptureError::Missing(maps::PENDING));
        };
        let same = data.fd().as_fd().try_clone_to_owned();
        let taken = same.and_then(bpf::Taken::new).map_err(|source| CaptureError::Map {
            action: "open",
            map: maps::PENDING,
            source,
        })?;
        let map = HashMap::try_from(Map::HashMap(data))
            .map_err(CaptureError::map("open", maps::PENDING))?;
        let accepted = Mutex::new(instance.take(maps::ACCEPTED)?);
        Ok(Self { map, taken, accepted })
    }

    /// What is known about a connection that was accepted from the listener's own address; `None`
    /// for one that was not redirected there.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn take(
        &self,
        accepted: &TcpStream,
        from: AcceptedFrom,
        peer: SocketAddr,
    ) -> Result<Option<Captured>, CaptureError> {
        let with_socket = || match lock(&self.accepted).get(accepted, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", maps::ACCEPTED)(error)),
        };
        let value = in_either(with_socket, || self.take_by_key(accepted, from, peer))?;
        // The listener passes its workload on: another one cannot be in there.
        Ok(value.filter(|value| value.workload == from.workload).as_ref().map(Captured::from))
    }

    fn take_by_key(
        &self,
        accepted: &TcpStream,
        from: AcceptedFrom,
        peer: SocketAddr,
    ) -> Result<Option<OriginalDestination>, CaptureError> {
        // It was reset meanwhile.
        let Ok(local) = accepted.local_addr() else { return Ok(None) };
        let key = ConnectionKey {
            netns_cookie: from.netns_cookie,
            addr: to_words(peer.ip()),
            listener_addr: to_words(local.ip()),
            workload: from.workload,
            port: peer.port(),
            listener: local.port(),
        };
        match self.taken.take(&key) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(CaptureError::Map { action: "read", map: maps::PENDING, source }),
        }
    }

    /// How many connections of each workload are on their way. Reads the whole map.
    #[must_use]
    pub fn in_flight(&self) -> StdHashMap<WorkloadId, u32> {
        let mut counts = StdHashMap::new();
        for key in self.map.keys().filter_map(Result::ok) {
            *counts.entry(key.workload).or_default() += 1;
        }
        counts
    }

    /// Removes entries older than `age`, whose end the hooks have not seen. Returns how many there
    /// were. Reads the whole map. An application whose SYN is held may wait as long as it likes: its
    /// entry has an hour.
    pub fn sweep(&self, age: Duration) -> usize {
        let Ok(now) = now_ns() else { return 0 };
        let limit = |note: &OriginalDestination| {
            let waits = matches!(note.hold, hold::NEW | hold::WAITING);
            let age = if waits { age.max(HELD_AGE) } else { age };
            u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
        };
        let stale: Vec<ConnectionKey> = self
            .map
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, note)| now.saturating_sub(note.connected_ns) > limit(note))
            .map(|(key, _)| key)
            .collect();
        for key in &stale {
            let _ = self.taken.take(key);
        }
        stale.len()
    }
}

// === impl Captured ===

impl From<&OriginalDestination> for Captured {
    fn from(value: &OriginalDestination) -> Self {
        let source = (value.source != [0; 4]).then(|| to_ip(value.source));
        Self {
            workload: value.workload,
            direction: if value.direction == Direction::Inbound as u8 {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            destination: SocketAddr::new(to_ip(value.addr), value.port),
            bound: source.filter(|_| value.bound != 0),
            source,
            mark: value.mark,
            properties: value.properties,
            connected_ns: value.connected_ns,
            state: PortState::from_u8(value.state).unwrap_or(PortState::Detect),
            state_source: Source::from_u8(value.state_source).unwrap_or(Source::Default),
            process: Process::new(value.pid, command(value.command)),
        }
    }
}

// === helpers ===

fn command([first, second]: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_ne_bytes());
    bytes[8..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// What is with the socket, or in the map. A socket is in its listener's queue before the kernel tells
/// the program that moves the entry from the map to the socket (`tcp_child_process` in
/// net/ipv4/tcp_minisocks.c): between the two looks it may have moved, and is with the socket then.
fn in_either<T>(
    with_socket: impl Fn() -> Result<Option<T>, CaptureError>,
    in_map: impl FnOnce() -> Result<Option<T>, CaptureError>,
) -> Result<Option<T>, CaptureError> {
    if let Some(value) = with_socket()? {
        return Ok(Some(value));
    }
    match in_map()? {
        None => with_socket(),
        found => Ok(found),
    }
}

/// An address as the maps hold it: IPv4 v4-mapped.
pub(super) fn to_words(ip: IpAddr) -> AddrWords {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |i| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// An address as the keys of connections hold it.
#[must_use]
pub fn words(ip: IpAddr) -> AddrWords {
    to_words(ip)
}

/// The inverse of [`words`].
#[must_use]
pub fn address_of(words: AddrWords) -> IpAddr {
    to_ip(words)
}

/// Whether an address in a key is one of IPv4.
#[must_use]
pub fn is_v4(words: &AddrWords) -> bool {
    to_ip(*words).is_ipv4()
}

/// What kind of address it is, as the hooks see it.
#[must_use]
pub fn address_class(ip: IpAddr) -> AddressClass {
    AddressClass::of(&to_words(ip))
}

/// The inverse of [`to_words`].
pub(super) fn to_ip(words: AddrWords) -> IpAddr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let v6 = Ipv6Addr::from(octets);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// `CLOCK_MONOTONIC`, which is what `bpf_ktime_get_ns` reads.
pub(super) fn now_ns() -> io::Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Guards against connections that were reset because their entry moved between two looks: some sixty
    /// of a million that were held.
    #[test]
    fn an_entry_that_moves_while_it_is_looked_for_is_found() {
        let moved = Cell::new(false);
        let found = in_either(
            || Ok(moved.get().then_some("with the socket")),
            || {
                moved.set(true);
                Ok(None)
            },
        );
        assert_eq!(found.unwrap(), Some("with the socket"));
        assert_eq!(in_either(|| Ok(None), || Ok(Some(1))).unwrap(), Some(1));
        assert_eq!(in_either(|| Ok(None::<()>), || Ok(None)).unwrap(), None);
    }

    #[test]
    fn addresses_survive_the_way_through_the_map() {
        for text in ["10.1.2.3", "::1", "fd00::5", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(to_ip(to_words(ip)), ip);
        }
    }

    #[test]
    fn every_address_has_its_class() {
        use AddressClass::{Broadcast, LinkLocal, Loopback, Multicast, Unicast};
        for (text, class) in [
            ("0.0.0.1", Unicast),
            ("10.1.2.3", Unicast),
            ("::ffff:10.1.2.3", Unicast),
            ("126.255.255.255", Unicast),
            ("127.0.0.0", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Unicast),
            ("169.254.1.1", Unicast),
            ("169.254.169.254", Unicast),
            ("223.255.255.255", Unicast),
            ("224.0.0.0", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Unicast),
            ("255.255.255.254", Unicast),
            ("255.255.255.255", Broadcast),
            ("::1", Loopback),
            ("::2", Unicast),
            ("::127.0.0.1", Unicast),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:127.1.2.3", Loopback),
            ("::ffff:240.1.2.3", Unicast),
            ("2001:db8::1", Unicast),
            ("fd00::5", Unicast),
            ("fd00::1", Unicast),
            ("fe7f::1", Unicast),
            ("fe7f:ffff::1", Unicast),
            ("fe80::", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf:ffff::1", LinkLocal),
            ("fec0::1", Unicast),
            ("ff00::", Multicast),
            ("ff00::1", Multicast),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(address_class(text.parse().unwrap()), class, "{text}");
        }
    }
}

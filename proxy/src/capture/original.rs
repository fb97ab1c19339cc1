//! Original destinations: what the kernel noted at connect, read once for each accept.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use weir_common::{
    AddrWords, ConnectionKey, Direction, OriginalDestination, PortState, Source, WorkloadId, maps,
};

use super::{CaptureError, Instance, bpf};

/// The map of connections that are on their way from connect to accept.
pub struct Originals {
    map: HashMap<MapData, ConnectionKey, OriginalDestination>,
    /// The same map, for the one command that aya does not have.
    taken: bpf::Taken<ConnectionKey, OriginalDestination>,
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
    /// The port's state when it was captured: opaque or detect.
    pub state: PortState,
    /// Who had set that state.
    pub state_source: Source,
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
        Ok(Self { map, taken })
    }

    /// What is known about the connection from `peer` to the listener's own address in the
    /// namespace with this cookie; `None` for one that was not redirected there.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn take(
        &self,
        netns_cookie: u64,
        peer: SocketAddr,
    ) -> Result<Option<Captured>, CaptureError> {
        let key = ConnectionKey {
            netns_cookie,
            addr: to_words(peer.ip()),
            port: peer.port(),
            _pad: [0; 6],
        };
        match self.taken.take(&key) {
            Ok(value) => Ok(Some(Captured::from(&value))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(CaptureError::Map { action: "read", map: maps::PENDING, source }),
        }
    }

    /// Removes entries older than `age`: connections that ended before they were accepted.
    /// Returns how many there were.
    pub fn sweep(&self, age: Duration) -> usize {
        let Ok(now) = now_ns() else { return 0 };
        let limit = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let stale: Vec<ConnectionKey> = self
            .map
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, value)| now.saturating_sub(value.connected_ns) > limit)
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
            state: PortState::from_u8(value.state).unwrap_or(PortState::Detect),
            state_source: Source::from_u8(value.state_source).unwrap_or(Source::Default),
        }
    }
}

// === helpers ===

/// An address as the maps hold it: IPv4 v4-mapped.
pub(super) fn to_words(ip: IpAddr) -> AddrWords {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |i| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
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
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_map() {
        for text in ["10.1.2.3", "::1", "fd00::5", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(to_ip(to_words(ip)), ip);
        }
    }
}

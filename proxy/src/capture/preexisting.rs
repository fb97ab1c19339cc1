//! Sockets that were listening before the hooks were attached, so that sockops does not see their close:
//! they go into a sock hash, which the kernel keeps up to date.
//!
//! An entry without programs leaves a listener as it is: what it accepts is an ordinary socket
//! again (`tcp_bpf_clone` in net/ipv4/tcp_bpf.c), and the entry goes when it closes
//! (`sock_map_close` in net/core/sock_map.c). What has been shut down stays, and the program that
//! asks sees its state.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use aya::maps::{MapData, SockHash};
use weir_common::{DestinationKey, Direction, PortKey, SEED_PLACES, SeedKey, Seeds, maps};

use super::{
    CaptureError, Instance,
    entries::Entries,
    sock_diag::Listener,
    table::{BPF_NOEXIST, absent_is_fine, lock},
};
use crate::host::socket_owners::{self, SocketId};

/// The sock hash, as [`Instance`] keeps it.
pub(super) type Seeded = SockHash<MapData, SeedKey>;

/// Which socket is to have which place.
type Places = HashMap<SocketId, (SeedKey, DestinationKey, bool)>;

/// The sockets of a workload that were listening before the hooks were attached.
pub(super) struct Preexisting {
    entries: Entries,
}

// === impl Preexisting ===

impl Preexisting {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Gives sockets a place in the sock hash. Returns on which addresses none of them got one: no
    /// process that has them open could be seen and asked, or the port has more addresses than
    /// places.
    pub(super) async fn add(
        &self,
        listeners: &[Listener],
        cgroup: &Path,
    ) -> Result<HashSet<DestinationKey>, CaptureError> {
        let keys = listeners.iter().map(|listener| self.key(listener.address));
        let mut without: HashSet<DestinationKey> = keys.collect();
        if listeners.is_empty() {
            return Ok(without);
        }
        let places = self.assign(listeners)?;
        let (instance, cgroup) = (Arc::clone(&self.entries.instance), cgroup.to_owned());
        // Reading other processes' descriptors from /proc takes milliseconds.
        let work = move || fill(&instance, &places, &cgroup);
        let filled =
            tokio::task::spawn_blocking(work).await.map_err(|error| CaptureError::Socket {
                action: "list the listening sockets",
                source: error.into(),
                hint: "",
            })?;
        let mut ports = HashMap::new();
        for (place, key, v6_only) in filled {
            without.remove(&key);
            let port = PortKey::new(self.entries.workload, Direction::Inbound, key.port);
            let seeds: &mut Seeds = match ports.entry(port) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(self.entries.instance.seeds.get(&port)?.unwrap_or_default())
                }
            };
            let bit = 1 << place.place;
            seeds.addrs[usize::from(place.place)] = key.addr;
            seeds.places |= bit;
            seeds.v6_only = if v6_only { seeds.v6_only | bit } else { seeds.v6_only & !bit };
        }
        for (port, seeds) in ports {
            self.entries.instance.seeds.insert(&port, &seeds)?;
        }
        for key in &without {
            tracing::debug!(
                listener.addr = ?key.addr, listener.port = key.port,
                "cannot follow a listener: its close is detected at the next refused connection"
            );
        }
        Ok(without)
    }

    /// What the filled places listen on, each with whether IPv6 only. Reads all keys of the map.
    pub(super) fn addresses(&self) -> Result<HashMap<DestinationKey, bool>, CaptureError> {
        let mut found = HashMap::new();
        for (place, seeds) in self.filled()? {
            let addr = seeds.addrs[usize::from(place.place)];
            let key =
                DestinationKey::new(self.entries.workload, Direction::Inbound, addr, place.port);
            let v6_only = seeds.v6_only & (1 << place.place) != 0;
            *found.entry(key).or_insert(true) &= v6_only;
        }
        Ok(found)
    }

    /// Removes all sockets. Reads whole maps.
    pub(super) fn clear(&self) -> Result<(), CaptureError> {
        let is_own = |port: &PortKey| port.workload == self.entries.workload;
        for port in self.entries.instance.seeds.keys_of(is_own) {
            self.entries.instance.seeds.remove(&port)?;
        }
        for place in self.places() {
            absent_is_fine(lock(&self.entries.instance.seeded).remove(&place), maps::SEEDED)?;
        }
        Ok(())
    }

    /// Finds places: first for one socket of each address, then for the others as far as there are.
    fn assign(&self, listeners: &[Listener]) -> Result<Places, CaptureError> {
        let mut taken: HashSet<SeedKey> = self.filled()?.into_iter().map(|(key, _)| key).collect();
        let mut ranks: HashMap<SocketAddr, usize> = HashMap::new();
        let mut ranked: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let rank = ranks.entry(listener.address).or_default();
                *rank += 1;
                (*rank, listener)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut places = Places::new();
        for (_, listener) in ranked {
            let key = self.key(listener.address);
            let of_port = (0..SEED_PLACES as u16).map(|place| SeedKey {
                workload: self.entries.workload,
                port: key.port,
                place,
            });
            let Some(place) = of_port.into_iter().find(|place| !taken.contains(place)) else {
                continue;
            };
            taken.insert(place);
            places.insert(listener.id, (place, key, listener.v6_only));
        }
        Ok(places)
    }

    /// The places that have a socket, each with its port's entry.
    fn filled(&self) -> Result<Vec<(SeedKey, Seeds)>, CaptureError> {
        let mut filled = Vec::new();
        for place in self.places() {
            let port = PortKey::new(self.entries.workload, Direction::Inbound, place.port);
            let seeds = self.entries.instance.seeds.get(&port)?.unwrap_or_default();
            filled.push((place, seeds));
        }
        Ok(filled)
    }

    fn places(&self) -> HashSet<SeedKey> {
        let map = lock(&self.entries.instance.seeded);
        map.keys()
            .filter_map(Result::ok)
            .filter(|key| key.workload == self.entries.workload)
            .collect()
    }

    fn key(&self, address: SocketAddr) -> DestinationKey {
        self.entries.key(Direction::Inbound, address)
    }
}

// === helpers ===

/// Puts into the map what of the wanted sockets can be had.
fn fill(
    instance: &Instance,
    places: &Places,
    cgroup: &Path,
) -> Vec<(SeedKey, DestinationKey, bool)> {
    let mut filled = Vec::new();
    let wanted = places.keys().copied().collect();
    socket_owners::visit(&wanted, cgroup, |id, socket: &OwnedFd| {
        let Some(place) = places.get(&id) else { return };
        match lock(&instance.seeded).insert(place.0, socket.as_raw_fd(), BPF_NOEXIST) {
            Ok(()) => filled.push(*place),
            // EBUSY and EINVAL: the socket belongs to an upper layer (`sk_psock_init` in
            // net/core/skmsg.c). EOPNOTSUPP: it is none of TCP, or listens no more.
            Err(error) => {
                tracing::debug!(listener.port = place.0.port, %error, "cannot follow a listener");
            }
        }
    });
    filled
}

//! The ports that a workload listens on, as the hooks know them: filled at attach, and corrected where a
//! connection to the application was refused.
//!
//! From attach on, the sockops program counts listen(2) and close by itself. Sockets that were
//! listening before come from sock_diag(7), and are followed in a sock hash (`preexisting.rs`).

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use weir_common::{DestinationKey, Direction, Listening};

use super::{
    CaptureError, Netns,
    entries::Entries,
    preexisting::Preexisting,
    sock_diag::{Listener, cgroup_ids, listeners},
};
use crate::host::cgroup;

/// The count of a socket that is being opened or closed just now is right by then.
const SETTLE: Duration = Duration::from_millis(20);

/// As the hooks count.
type Sockets = HashMap<DestinationKey, Listening>;

/// What the hooks take for listened on.
pub struct ListeningPorts {
    entries: Entries,
    preexisting: Preexisting,
}

// === impl ListeningPorts ===

impl ListeningPorts {
    pub(super) fn new(entries: Entries) -> Self {
        Self { preexisting: Preexisting::new(entries.clone()), entries }
    }

    /// Adds what the workload listens on already. To be called once its sockets are followed;
    /// `follows` says that they have been all the time since the maps were filled.
    ///
    /// # Errors
    /// Where sock_diag or a map fails.
    pub async fn seed(
        &self,
        netns: &Netns,
        cgroup: &Path,
        follows: bool,
    ) -> Result<(), CaptureError> {
        if !follows && !self.entries.fresh {
            self.preexisting.clear()?;
            for (key, _) in self.entries.instance.listening.entries(|key| self.is_mine(key)) {
                self.entries.instance.listening.remove(&key)?;
            }
        }
        let mut found = self.look(netns, cgroup, None).await?;
        if follows {
            let (counted, seeded) = (self.counted(), self.preexisting.addresses()?);
            found.retain(|listener| {
                let key = self.key(listener.address);
                !counted.contains_key(&key) && !seeded.contains_key(&key)
            });
        }
        // A socket that began to listen after the hooks were attached is counted already. That it
        // is seeded too does no harm: it leaves both when it closes.
        self.add(&found, cgroup).await
    }

    /// Corrects what the hooks take for listened on at a port, after a connection to the application
    /// was refused there: then it was not. Looks twice, because sockets come and go. Takes a while
    /// where there are many sockets: not for a thread that serves connections.
    ///
    /// # Errors
    /// Where sock_diag or a map fails.
    pub async fn correct(
        &self,
        netns: &Netns,
        cgroup: &Path,
        refused: SocketAddr,
    ) -> Result<(), CaptureError> {
        let port = Some(refused.port());
        let first = self.look(netns, cgroup, port).await?;
        let counted_first = self.counted_at(refused, &first)?;
        tokio::time::sleep(SETTLE).await;
        let second = self.look(netns, cgroup, port).await?;
        let counted = self.counted_at(refused, &second)?;
        let (before, after) = (self.sockets(&first), self.sockets(&second));
        let seeded = self.preexisting.addresses()?;
        let is_steady = |key: &DestinationKey| {
            counted_first.get(key) == counted.get(key) && before.get(key) == after.get(key)
        };
        // Closed without being counted: it was listening before the hooks were attached, and its
        // descriptor could not be had.
        for key in counted.keys().filter(|key| !after.contains_key(key) && is_steady(key)) {
            self.entries.instance.listening.remove(key)?;
        }
        let mut unknown = second;
        unknown.retain(|listener| {
            let key = self.key(listener.address);
            !counted.contains_key(&key) && !seeded.contains_key(&key) && is_steady(&key)
        });
        self.add(&unknown, cgroup).await
    }

    /// True where the hooks would take a connection to this address.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn contains(&self, address: SocketAddr) -> Result<bool, CaptureError> {
        let v4_any = IpAddr::from([0, 0, 0, 0]);
        let v6_any = IpAddr::from([0_u16; 8]);
        let seeded = self.preexisting.addresses()?;
        // Whether IPv6 only, where a socket listens there.
        let at = |ip| -> Result<Option<bool>, CaptureError> {
            let key = self.key(SocketAddr::new(ip, address.port()));
            let counted =
                self.entries.instance.listening.get(&key)?.map(|found| found.v6_only != 0);
            let seeded = seeded.get(&key).copied();
            Ok(counted.into_iter().chain(seeded).reduce(|one, other| one && other))
        };
        let any = if address.is_ipv4() { v4_any } else { v6_any };
        if at(address.ip())?.is_some() || at(any)?.is_some() {
            return Ok(true);
        }
        Ok(address.is_ipv4() && at(v6_any)? == Some(false))
    }

    /// Has sockets followed by the kernel; those that cannot be are counted, and wrongly so once
    /// they close.
    async fn add(&self, listeners: &[Listener], cgroup: &Path) -> Result<(), CaptureError> {
        let without = self.preexisting.add(listeners, cgroup).await?;
        for (key, found) in self.sockets(listeners) {
            if without.contains(&key) {
                self.entries.instance.listening.add(&key, &found)?;
            }
        }
        Ok(())
    }

    /// How many addresses and ports the hooks keep as listened on. Reads the whole map.
    pub(super) fn count(&self) -> u32 {
        let entries =
            self.entries.instance.listening.keys().into_iter().filter(|key| self.is_mine(key));
        u32::try_from(entries.count()).unwrap_or(u32::MAX)
    }

    fn counted(&self) -> Sockets {
        self.entries.instance.listening.entries(|key| self.is_mine(key)).into_iter().collect()
    }

    /// What is counted where a connection to an address can go, and where these sockets listen.
    fn counted_at(
        &self,
        address: SocketAddr,
        listeners: &[Listener],
    ) -> Result<Sockets, CaptureError> {
        let any = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0_u16; 8])];
        let to = any.map(|ip| SocketAddr::new(ip, address.port())).into_iter().chain([address]);
        let mut counted = Sockets::new();
        for address in to.chain(listeners.iter().map(|listener| listener.address)) {
            let key = self.key(address);
            if let Some(found) = self.entries.instance.listening.get(&key)? {
                counted.insert(key, found);
            }
        }
        Ok(counted)
    }

    /// The workload's listeners, all or those on one port, as sock_diag has them.
    async fn look(
        &self,
        netns: &Netns,
        cgroup: &Path,
        port: Option<u16>,
    ) -> Result<Vec<Listener>, CaptureError> {
        let error = |source| CaptureError::Socket {
            action: "list the listening sockets",
            source,
            hint: "; check that the kernel has sock_diag",
        };
        let mut cgroups = cgroup_ids(cgroup).map_err(error)?;
        // In a sidecar weir's own cgroup is below the workload's: its listeners are not.
        cgroups.remove(&cgroup::id(&cgroup::own()?)?);
        let mut all = netns.run(move || listeners(port)).await?.map_err(error)?;
        all.retain(|listener| is_of(listener, &cgroups));
        Ok(all)
    }

    fn sockets(&self, listeners: &[Listener]) -> Sockets {
        let mut sockets = Sockets::new();
        for listener in listeners {
            let entry = sockets.entry(self.key(listener.address)).or_default();
            entry.sockets += 1;
            entry.v6_only |= u32::from(listener.v6_only && is_any(listener));
        }
        sockets
    }

    const fn is_mine(&self, key: &DestinationKey) -> bool {
        key.workload == self.entries.workload
    }

    /// Removes all that is known. Reads whole maps.
    pub(super) fn clear(&self) {
        for (key, _) in self.entries.instance.listening.entries(|key| self.is_mine(key)) {
            let _ = self.entries.instance.listening.remove(&key);
        }
        let _ = self.preexisting.clear();
    }

    fn key(&self, address: SocketAddr) -> DestinationKey {
        self.entries.key(Direction::Inbound, address)
    }
}

// === helpers ===

/// A socket that is bound to a device takes connections from elsewhere only, not from the proxy.
fn is_of(listener: &Listener, cgroups: &HashSet<u64>) -> bool {
    listener.device == 0 && listener.cgroup.is_some_and(|id| cgroups.contains(&id))
}

fn is_any(listener: &Listener) -> bool {
    listener.address.ip().is_unspecified()
}

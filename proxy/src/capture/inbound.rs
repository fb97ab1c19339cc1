//! Keeps the hooks' idea of what a workload listens on right: filled at attach, and looked over
//! again where a connection to the application was refused.
//!
//! From attach on, the sockops program counts listen(2) and close by itself. Sockets that were
//! listening before come from sock_diag(7).

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use weir_common::{DestinationKey, Direction, Listening};

use super::{
    CaptureError, Kernel, Netns,
    listening::{Listener, cgroup_ids, listeners},
};

/// The count of a socket that is being opened or closed just now is right by then.
const SETTLE: Duration = Duration::from_millis(20);

type Sockets = HashMap<DestinationKey, Listening>;

impl Kernel {
    /// Adds what the workload listens on already. To be called once the hooks are attached;
    /// `follows` says that they have been attached all the time since the map was filled.
    ///
    /// # Errors
    /// Where sock_diag or the map fails.
    pub async fn seed_listening(
        &self,
        netns: &Netns,
        cgroup: &Path,
        follows: bool,
    ) -> Result<(), CaptureError> {
        if !follows && !self.fresh {
            for (key, _) in self.instance.listening.entries(|key| self.is_mine(key)) {
                self.instance.listening.remove(&key)?;
            }
        }
        for (key, found) in self.look(netns, cgroup).await? {
            // A socket that began to listen after the hooks were attached is counted already.
            self.instance.listening.add(&key, &found)?;
        }
        Ok(())
    }

    /// Corrects what the hooks take for listened on, after a connection to the application was
    /// refused: then it was not. Looks twice, because sockets come and go.
    ///
    /// # Errors
    /// Where sock_diag or the map fails.
    pub async fn correct_listening(
        &self,
        netns: &Netns,
        cgroup: &Path,
    ) -> Result<(), CaptureError> {
        let first = (self.known(), self.look(netns, cgroup).await?);
        tokio::time::sleep(SETTLE).await;
        let second = (self.known(), self.look(netns, cgroup).await?);
        let keys: HashSet<_> = first.0.keys().chain(first.1.keys()).collect();
        for key in keys {
            let at = |sockets: &Sockets| sockets.get(key).copied();
            let (known, found) = (at(&second.0), at(&second.1));
            let steady = at(&first.0) == known && at(&first.1) == found;
            match (known, found) {
                _ if !steady => {}
                (None, Some(found)) => self.instance.listening.add(key, &found)?,
                // Closed without being counted: it was listening before the hooks were attached.
                (Some(_), None) => self.instance.listening.remove(key)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Says that connections from this address and port come from inside, or no longer do.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_inside(&self, source: SocketAddr, inside: bool) -> Result<(), CaptureError> {
        let key = self.key(Direction::Inbound, source);
        if inside {
            self.instance.inside.insert(&key, &1)
        } else {
            self.instance.inside.remove(&key)
        }
    }

    /// True where the hooks would take a connection to this address.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn listens_on(&self, address: SocketAddr) -> Result<bool, CaptureError> {
        let v4_any = IpAddr::from([0, 0, 0, 0]);
        let v6_any = IpAddr::from([0_u16; 8]);
        let at = |ip| {
            let key = self.key(Direction::Inbound, SocketAddr::new(ip, address.port()));
            self.instance.listening.get(&key)
        };
        if at(address.ip())?.is_some() || at(if address.is_ipv4() { v4_any } else { v6_any })?.is_some() {
            return Ok(true);
        }
        Ok(address.is_ipv4() && at(v6_any)?.is_some_and(|found| found.v6_only == 0))
    }

    fn known(&self) -> Sockets {
        self.instance.listening.entries(|key| self.is_mine(key)).into_iter().collect()
    }

    async fn look(&self, netns: &Netns, cgroup: &Path) -> Result<Sockets, CaptureError> {
        let error = |source| CaptureError::Socket {
            action: "list the listening sockets",
            source,
            hint: "; is the sock_diag kernel module there?",
        };
        let cgroups = cgroup_ids(cgroup).map_err(error)?;
        let all = netns.run(listeners).await?.map_err(error)?;
        let mut sockets = Sockets::new();
        for listener in all.iter().filter(|listener| is_of(listener, &cgroups)) {
            let entry = sockets.entry(self.key(Direction::Inbound, listener.address)).or_default();
            entry.sockets += 1;
            entry.v6_only |= u32::from(listener.v6_only && is_any(listener));
        }
        Ok(sockets)
    }

    const fn is_mine(&self, key: &DestinationKey) -> bool {
        key.workload == self.workload
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

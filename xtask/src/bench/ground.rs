//! Where the workloads of a measurement are: a cgroup and a network namespace each, with the same
//! address in every one, and clients and servers in the first few.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use weir_tests::cgroup::Cgroup;
use weir_tests::netns::{self, Netns};

use super::peer::Peer;

/// On the loopback interface of every namespace. There is no route to anywhere else.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const PORT: u16 = 8800;

/// One workload.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) cgroup: Cgroup,
    pub(super) netns: Netns,
}

/// The processes of one measured workload.
pub(super) struct Inhabited {
    pub(super) workload: String,
    /// In the cgroup.
    pub(super) captured: Peer,
    /// In the same namespace, outside the cgroup.
    pub(super) direct: Peer,
    _server: Peer,
}

// === impl Place ===

impl Place {
    /// # Errors
    ///
    /// Fails without root.
    pub(super) fn new(number: usize) -> Result<Self> {
        let place = Self {
            name: format!("load-{number}"),
            cgroup: Cgroup::new("load")?,
            netns: Netns::new("load")?,
        };
        let address = format!("{ADDRESS}/32");
        netns::ip(&["-n", place.netns.name(), "addr", "add", &address, "dev", "lo"])?;
        Ok(place)
    }

    /// Starts the server and both clients.
    ///
    /// # Errors
    ///
    /// Fails when one does not start.
    pub(super) fn inhabit(&self) -> Result<Inhabited> {
        let address = SocketAddr::from((ADDRESS, PORT));
        let command = |serve| {
            let words = Peer::arguments(serve, address)?;
            let mut command = self.netns.command(&words[0]);
            command.args(&words[1..]);
            anyhow::Ok(command)
        };
        Ok(Inhabited {
            workload: self.name.clone(),
            _server: Peer::start(command(true)?)?,
            captured: Peer::start(self.cgroup.wrap(&command(false)?))?,
            direct: Peer::start(command(false)?)?,
        })
    }
}

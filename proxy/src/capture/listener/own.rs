//! The addresses that a workload's listeners have: which connections are redirected ones, and which
//! destinations lead back to weir.

use std::net::{Ipv4Addr, SocketAddr};

/// The addresses of a workload's listeners; 0.0.0.0 stands for every address of the loopback interface.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Vec<SocketAddr>);

// === impl OwnAddresses ===

impl OwnAddresses {
    pub(crate) fn extend(&mut self, more: impl IntoIterator<Item = SocketAddr>) {
        self.0.extend(more);
    }

    /// Whether a connection was accepted at a listener's own address: there redirected ones arrive.
    /// Inbound ones have the address that the client asked for.
    #[must_use]
    pub fn accepted(&self, local: SocketAddr) -> bool {
        self.0.iter().any(|own| match own {
            // Whatever the address: the interface may have more than those of 127.0.0.0/8.
            SocketAddr::V4(own) if own.ip().is_unspecified() => {
                local.is_ipv4() && local.port() == own.port()
            }
            own => *own == local,
        })
    }

    /// Whether a connection to this destination would arrive at a listener.
    #[must_use]
    pub fn leads_back(&self, destination: SocketAddr) -> bool {
        let ip = destination.ip().to_canonical();
        self.accepted(SocketAddr::new(ip, destination.port())) && ip.is_loopback()
    }

    /// One address of each listener.
    pub fn listed(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|own| match own {
            SocketAddr::V4(own) if own.ip().is_unspecified() => {
                (Ipv4Addr::LOCALHOST, own.port()).into()
            }
            own => *own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_loopback_has_all_its_addresses_and_no_others() {
        let mut own = OwnAddresses::default();
        own.extend(
            ["127.0.0.1:61001", "[::1]:61002", "0.0.0.0:61003"].map(|it| it.parse().unwrap()),
        );
        for (address, accepted, leads_back) in [
            ("127.0.0.1:61001", true, true),
            ("127.64.1.2:61001", false, false),
            ("127.64.1.2:61003", true, true),
            ("127.0.0.1:61003", true, true),
            ("[::ffff:127.64.1.2]:61003", false, true),
            // Another address of the interface, or another host's.
            ("192.0.2.1:61003", true, false),
            ("[::1]:61002", true, true),
            ("[::1]:61003", false, false),
            ("127.64.1.2:80", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((own.accepted(address), own.leads_back(address)), (accepted, leads_back));
        }
        let listed: Vec<_> = own.listed().map(|it| it.to_string()).collect();
        assert_eq!(listed, ["127.0.0.1:61001", "[::1]:61002", "127.0.0.1:61003"]);
    }
}

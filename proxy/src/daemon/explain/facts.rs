//! What the checks of a connection are about, as userspace finds it: read from the maps that the hooks
//! read, and from the kernel.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_common::AddressClass;

use crate::{
    capture::{CaptureError, address_class, listens_in},
    config::Fail,
    decision::{Direction, PortState, Source},
    workload::Workload,
};

/// What is known about connections to one address. What depends on the socket is not.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `weir_common::flags`; `None` for a workload without a configuration.
    pub(super) flags: Option<u32>,
    /// The settings want inbound connections captured.
    pub(super) wants_inbound: bool,
    /// State, source, and whether the port is on the include list.
    pub(super) rule: (PortState, Source, bool),
    /// The address is in a skipped prefix.
    pub(super) skipped: bool,
    /// How long the destination goes direct because it was learned to be raw TCP.
    pub(super) bypassed: Option<Duration>,
    /// Whether there is a route, and its source address; `None` while the routes are not known.
    pub(super) route: Option<(bool, Option<IpAddr>)>,
    /// A socket listens there.
    pub(super) listened: bool,
    /// How long the destination goes direct because weir could not reach it.
    pub(super) failed: Option<Duration>,
    /// The phase of the workload.
    pub(super) phase: &'static str,
    /// Why it waits, if it does.
    pub(super) wait: Option<String>,
    /// What happens without a proxy.
    pub(super) fail: Fail,
    /// The address is one of weir's own listeners.
    pub(super) leads_back: bool,
    /// It belongs to a service: the tap leaves it to the proxy, which chooses endpoints.
    pub(super) balanced: bool,
    /// Why the tap is not used, where it was asked for.
    pub(super) untapped: Option<String>,
    /// The last connections were raw TCP: detection is not needed.
    pub(super) raw: bool,
}

// === impl Facts ===

impl Facts {
    /// Collects the facts about connections to `address`.
    ///
    /// # Errors
    /// Where a map or the namespace's sockets cannot be read.
    pub(super) fn of(
        workload: &Arc<Workload>,
        address: SocketAddr,
        direction: Direction,
    ) -> Result<Self, CaptureError> {
        let (kernel, settings) = (workload.kernel(), workload.settings());
        let route = kernel.routes.get(address.ip())?;
        let listened = match direction {
            Direction::Outbound if is_local(address.ip(), route) => {
                listens_in(workload.netns(), address)?
            }
            Direction::Outbound => true,
            Direction::Inbound => kernel.listening.contains(address)?,
        };
        Ok(Self {
            flags: kernel.flags.config()?.map(|config| config.flags),
            wants_inbound: settings.inbound.capture,
            rule: kernel.ports.get(direction, address.port())?,
            skipped: kernel.prefixes.contains(address.ip())?,
            bypassed: kernel.bypasses.remaining(direction, address)?,
            route,
            listened,
            failed: kernel.bypasses.let_fail_for(address)?,
            phase: workload.phase(),
            wait: workload.wait().map(|wait| wait.why),
            fail: settings.workload.fail,
            leads_back: workload.own().leads_back(address),
            balanced: kernel.instance().is_proxied(address)?,
            untapped: workload.tap().refused().map(str::to_owned),
            raw: workload.learning().known(direction, address, Instant::now()),
        })
    }

    /// True for an address of the workload's own namespace.
    pub(super) fn is_local(&self, ip: IpAddr) -> bool {
        is_local(ip, self.route)
    }

    /// True where the workload's configuration has this flag.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags.is_some_and(|flags| flags & flag != 0)
    }
}

/// As the hook finds out: loopback, or reached from itself.
fn is_local(ip: IpAddr, route: Option<(bool, Option<IpAddr>)>) -> bool {
    address_class(ip) == AddressClass::Loopback
        || matches!(route, Some((true, source)) if source == Some(ip))
}

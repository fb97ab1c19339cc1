//! `--preserve-client-ip`: makes the application see its clients' own addresses, with no iptables.
//!
//! The connection to the application is bound to the client's address and carries a mark. What it
//! sends stays inside the namespace because its destination is local; what the application answers
//! goes to an address that is elsewhere, and has to be brought back:
//! - a rule and a table for each family send what has the mark to the namespace itself;
//! - `tcp_fwmark_accept` gives the mark of a SYN to its SYN-ACK and to the accepted socket
//!   (include/net/inet_sock.h, `inet_request_mark`); it serves IPv6 too;
//! - `fwmark_reflect`, one for each family, gives it to what is sent without a socket
//!   (net/ipv4/ip_output.c, `ip_send_unicast_reply`): the reset of a port without a listener,
//!   which would otherwise leave for the real client while weir waits for two minutes.
//!
//! Reverse path filters do not matter: packets of `lo` keep the route that they were sent with.
//! Only an application that has set `SO_MARK` on its own listener cannot be served.

mod dial;
mod users;

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use serde::{Deserialize, Serialize};

pub use self::{dial::connect_as, users::ClientIpUser};
use super::{CaptureError, Netns};
use crate::host::mounts;

/// The mark of weir's connections to applications: "WE" in the upper half, like weir's others.
const MARK: u32 = weir_common::CLIENT_IP_MARK;
/// The routing table, which has no other user. Beyond 255, and thus unused by convention.
const TABLE: u32 = 22341;
/// Of the rules: behind that of the `local` table (0), before that of `main` (32766).
const PRIORITY: u32 = 22341;
/// The loopback interface has this index in every namespace (include/net/flow.h,
/// `LOOPBACK_IFINDEX`).
const LO: u32 = 1;
/// Upper bits of the rules' originator (`RTPROT_*`, of which 224 and more are unassigned); the
/// lower three keep [`Installed`], for a weir that comes after a crash.
const PROTOCOL: u8 = 0xE0;

const ACCEPT: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
const REFLECT: &str = "/proc/sys/net/ipv4/fwmark_reflect";
const REFLECT6: &str = "/proc/sys/net/ipv6/fwmark_reflect";
const LO_WITHOUT_IPV6: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// The kernel's set-up of a namespace for connections from clients' addresses.
///
/// Workloads that share a namespace share it too: each is a [`ClientIpUser`].
pub struct ClientIp {
    netlink: Handle,
}

/// What the namespace was like before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// `net.ipv4.tcp_fwmark_accept` was on.
    pub fwmark_accept_before: bool,
    /// `net.ipv4.fwmark_reflect` was on.
    pub fwmark_reflect_before: bool,
    /// `net.ipv6.fwmark_reflect` was on.
    pub fwmark_reflect6_before: bool,
}

// === impl ClientIp ===

impl ClientIp {
    /// Sets a namespace up; takes over what an earlier weir left there. IPv6 is left out where
    /// it is switched off. What was done is undone if a part of it fails.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, with a read-only `/proc/sys`, or with the loopback interface down.
    pub async fn install(netns: &Netns) -> Result<Installed, CaptureError> {
        let this = Self::open(netns).await?;
        let adopted = this.own_rules().await?.iter().find_map(Installed::of_rule);
        let before = match adopted {
            Some(before) => before,
            None => netns.run(Installed::read).await?.map_err(failed("read sysctls"))?,
        };
        let done = this.add(netns, before).await;
        if done.is_err() && adopted.is_none() {
            let _ = Self::remove(netns, &before).await;
        }
        done.map(|()| before)
    }

    /// The rule comes first: while it is there, what the sysctls were is known.
    async fn add(&self, netns: &Netns, before: Installed) -> Result<(), CaptureError> {
        let v6 = netns.run(has_ipv6).await?;
        self.add_rule(IpVersion::V4, before).await?;
        self.add_route(local_default(IpVersion::V4)).await?;
        if v6 {
            self.add_rule(IpVersion::V6, before).await?;
            self.add_route(local_default(IpVersion::V6)).await?;
        }
        netns.run(Installed::switch_on).await?.map_err(failed("write sysctls"))
    }

    /// Takes everything away again, however much of it is there; does nothing where nothing is.
    /// The sysctls become what they were before the first install; `installed` is only asked where
    /// the rules, which know it too, have gone. Connections from clients' addresses hang from here
    /// on, so end them first.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub async fn remove(netns: &Netns, installed: &Installed) -> Result<(), CaptureError> {
        let this = Self::open(netns).await?;
        let rules = this.own_rules().await?;
        let mut found = !rules.is_empty();
        for version in [IpVersion::V4, IpVersion::V6] {
            let route = this.netlink.route().del(local_default(version)).execute().await;
            found |= existed(route).map_err(failed("remove the route of"))?;
        }
        if found {
            let before = rules.iter().find_map(Installed::of_rule).unwrap_or(*installed);
            netns.run(move || before.restore()).await?.map_err(failed("restore sysctls"))?;
        }
        for rule in rules {
            let removed = this.netlink.rule().del(rule).execute().await;
            existed(removed).map_err(failed("remove the rule of"))?;
        }
        Ok(())
    }

    /// True for weir's own rule, which is no policy routing: it concerns weir's connections only.
    #[must_use]
    pub fn is_own_rule(rule: &RuleMessage) -> bool {
        [
            RuleAttribute::Priority(PRIORITY),
            RuleAttribute::FwMark(MARK),
            RuleAttribute::Table(TABLE),
        ]
        .iter()
        .all(|attribute| rule.attributes.contains(attribute))
    }

    async fn open(netns: &Netns) -> Result<Self, CaptureError> {
        // A netlink socket belongs to the namespace that it was made in, wherever it is used.
        let (connection, netlink, _) =
            netns.run(new_connection).await?.map_err(failed("open netlink"))?;
        tokio::spawn(connection);
        Ok(Self { netlink })
    }

    async fn own_rules(&self) -> Result<Vec<RuleMessage>, CaptureError> {
        let mut own = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules: Result<Vec<_>, _> =
                self.netlink.rule().get(version).execute().try_collect().await;
            match rules.map_err(to_io) {
                Ok(rules) => own.extend(rules.into_iter().filter(Self::is_own_rule)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(failed("read the rules of")(error)),
            }
        }
        Ok(own)
    }

    async fn add_rule(&self, version: IpVersion, before: Installed) -> Result<(), CaptureError> {
        let add = self.netlink.rule().add();
        let mut add = add.priority(PRIORITY).fw_mark(MARK).table_id(TABLE);
        add = add.action(RuleAction::ToTable);
        let message = add.message_mut();
        message.header.family = match version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        message.attributes.push(RuleAttribute::Protocol(before.to_protocol()));
        present(add.execute().await).map_err(failed("add the rule of"))
    }

    async fn add_route(&self, route: RouteMessage) -> Result<(), CaptureError> {
        let added = self.netlink.route().add(route).execute().await;
        present(added).map_err(|source| CaptureError::Socket {
            action: "add the route of --preserve-client-ip",
            source,
            hint: "; check that the loopback interface is up (`ip link set lo up`)",
        })
    }
}

// === impl Installed ===

impl Installed {
    /// Reads the calling thread's namespace.
    fn read() -> io::Result<Self> {
        Ok(Self {
            fwmark_accept_before: is_on(ACCEPT)?,
            fwmark_reflect_before: is_on(REFLECT)?,
            fwmark_reflect6_before: is_on(REFLECT6)?,
        })
    }

    fn switch_on() -> io::Result<()> {
        [ACCEPT, REFLECT, REFLECT6].into_iter().try_for_each(|path| switch(path, true))
    }

    fn restore(self) -> io::Result<()> {
        switch(ACCEPT, self.fwmark_accept_before)?;
        switch(REFLECT, self.fwmark_reflect_before)?;
        switch(REFLECT6, self.fwmark_reflect6_before)
    }

    fn to_protocol(self) -> RouteProtocol {
        let bits = u8::from(self.fwmark_accept_before)
            | u8::from(self.fwmark_reflect_before) << 1
            | u8::from(self.fwmark_reflect6_before) << 2;
        RouteProtocol::from(PROTOCOL | bits)
    }

    fn of_rule(rule: &RuleMessage) -> Option<Self> {
        let bits = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Protocol(protocol) => Some(u8::from(*protocol)),
            _ => None,
        })?;
        (bits & !7 == PROTOCOL).then_some(Self {
            fwmark_accept_before: bits & 1 != 0,
            fwmark_reflect_before: bits & 2 != 0,
            fwmark_reflect6_before: bits & 4 != 0,
        })
    }
}

// === helpers ===

/// `local default dev lo`: every address is this host's.
fn local_default(version: IpVersion) -> RouteMessage {
    match version {
        IpVersion::V4 => local(RouteMessageBuilder::<Ipv4Addr>::new()),
        IpVersion::V6 => local(RouteMessageBuilder::<Ipv6Addr>::new()),
    }
}

fn local<T>(route: RouteMessageBuilder<T>) -> RouteMessage {
    route
        .table_id(TABLE)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(LO)
        .build()
}

/// True where the loopback interface of the calling thread's namespace has IPv6.
fn has_ipv6() -> bool {
    fs::read_to_string(LO_WITHOUT_IPV6).is_ok_and(|without| without.trim() == "0")
}

/// A sysctl of the calling thread's namespace; one that the kernel does not have is off.
fn is_on(path: &str) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(about(path, &error)),
    }
}

fn switch(path: &str, on: bool) -> io::Result<()> {
    // Nothing is written where nothing changes: /proc/sys may be read-only.
    if is_on(path)? == on {
        return Ok(());
    }
    let value = if on { "1" } else { "0" };
    let written = match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => write_anew(path, value),
        written => written,
    };
    match written {
        // The kernel has no IPv6 (`is_on` said "off").
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(|error| about(path, &error)),
    }
}

/// Writes to a file of `/proc` where that is mounted read-only, as container runtimes do with
/// `/proc/sys`: to a procfs of weir's own.
fn write_anew(path: &str, value: &str) -> io::Result<()> {
    let proc = mounts::detached(c"proc")?;
    let below = path.trim_start_matches("/proc/");
    fs::write(format!("/proc/self/fd/{}/{below}", proc.as_raw_fd()), value)
}

fn about(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// What is there already was asked for.
fn present(added: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match added.map_err(to_io) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        added => added,
    }
}

/// Whether there was something to remove.
fn existed(removed: Result<(), rtnetlink::Error>) -> io::Result<bool> {
    match removed.map_err(to_io) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// True where there is no such rule, route or table, or no such family.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
    )
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        error => io::Error::other(error),
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |error| {
        let read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        CaptureError::Socket {
            action: "prepare the namespace for --preserve-client-ip",
            source: io::Error::new(error.kind(), format!("{what} the namespace: {error}")),
            hint: if read_only {
                "; /proc/sys is read-only: run in a privileged container"
            } else {
                "; run as root or grant CAP_NET_ADMIN"
            },
        }
    }
}

#[cfg(test)]
mod tests;

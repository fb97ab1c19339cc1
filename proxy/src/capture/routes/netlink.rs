//! rtnetlink(7) on sockets of weir's own: what changed, without losing count, and dumps that keep no
//! thread busy which serves connections. A message that is lost (`ENOBUFS`) is no end: it means that
//! everything has to be looked at.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteMessage,
        rule::{RuleHeader, RuleMessage},
    },
};
use tokio::io::unix::AsyncFd;

use super::prefixes::{Prefix, prefix_of};
use crate::{
    blocking::blocking,
    capture::{CaptureError, ClientIp, Netns},
};

/// linux/rtnetlink.h, `enum rtnetlink_groups`: link, addresses, routes and rules of both families,
/// and next hops, which take routes with them when they go.
const GROUPS: [u32; 8] = [1, 5, 9, 7, 11, 8, 19, 32];
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// More changed routes than this are looked at with all the others.
const MOST_CHANGES: usize = 256;
/// Datagrams that are read at once: they may be sent faster than they are read.
const BATCH: usize = 512;
/// The rules that every namespace starts with: local and main, and for IPv4 default (ip-rule(8)).
const STOCK_RULES: usize = 3;

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Anything may have: links, addresses, rules, or too much at once.
    pub(super) all: bool,
    /// Routes to these prefixes have come or gone.
    pub(super) prefixes: Vec<Prefix>,
}

/// Changes of a namespace's routing, as they come.
pub(super) struct Changes {
    socket: AsyncFd<Subscribed>,
}

struct Subscribed(Socket);

// === impl Subscribed ===

impl AsRawFd for Subscribed {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

// === impl Changes ===

impl Changes {
    /// Subscribes.
    ///
    /// # Errors
    /// Where netlink fails.
    pub(super) async fn of(netns: &Netns) -> Result<Self, CaptureError> {
        // A netlink socket belongs to the namespace that it was made in, wherever it is used.
        let socket = netns.run(subscribe).await?.map_err(failed)?;
        // SAFETY: the socket owns its descriptor, and gives the same one until it is dropped.
        let socket = unsafe { AsyncFd::register(Subscribed(socket)) };
        Ok(Self { socket: socket.map_err(|error| failed(error.into_parts().1))? })
    }

    /// Waits for the next changes and takes all that there are.
    ///
    /// # Errors
    /// Where the socket cannot be waited for.
    pub(super) async fn next(&mut self) -> io::Result<Changed> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut changed = Changed::default();
            // Until it would block, so that what is left is waited for.
            if let Ok(read) = ready.try_io(|socket| changed.read(&socket.get_ref().0)) {
                read?;
            }
            if changed != Changed::default() {
                return Ok(changed);
            }
        }
    }

    /// What has come meanwhile; waits for nothing.
    pub(super) fn more(&self, changed: &mut Changed) {
        let _ = changed.read(&self.socket.get_ref().0);
    }
}

// === impl Changed ===

impl Changed {
    /// Reads until there is nothing more, which is the error `WouldBlock`, or a batch.
    fn read(&mut self, socket: &Socket) -> io::Result<()> {
        for _ in 0..BATCH {
            match socket.recv_from_full() {
                Ok((datagram, _)) => self.add(&datagram),
                // The kernel has thrown messages away.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.all = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.any() => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    const fn any(&self) -> bool {
        self.all || !self.prefixes.is_empty()
    }

    fn add(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some((kind, message, after)) = split(rest) {
            rest = after;
            if self.all {
                return;
            }
            let is_route = matches!(kind, RTM_NEWROUTE | RTM_DELROUTE);
            let route = is_route.then(|| route_of(message)).flatten();
            match route.as_ref().and_then(prefix_of) {
                // What is local may be an address of its own.
                Some(prefix) if !route.as_ref().is_some_and(is_local) => {
                    if !self.prefixes.contains(&prefix) {
                        self.prefixes.push(prefix);
                    }
                    self.all = self.prefixes.len() > MOST_CHANGES;
                }
                _ => self.all = true,
            }
        }
    }
}

/// Every route of every table of a namespace.
///
/// # Errors
/// Where netlink fails.
pub(super) async fn routes(netns: &Netns) -> Result<Vec<RouteMessage>, CaptureError> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    let requests = [v4, v6].map(RouteNetlinkMessage::GetRoute);
    dump(netns, requests, |message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    })
    .await
}

/// True where routing is by destination alone, so that one answer holds for a whole prefix.
///
/// # Errors
/// Where netlink fails.
pub(super) async fn has_stock_rules(netns: &Netns) -> Result<bool, CaptureError> {
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut message = RuleMessage::default();
        let family = match version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        message.header = RuleHeader { family, ..RuleHeader::default() };
        let rules = dump(netns, [RouteNetlinkMessage::GetRule(message)], |message| match message {
            RouteNetlinkMessage::NewRule(rule) => Some(ClientIp::is_own_rule(&rule)),
            _ => None,
        });
        let foreign = rules.await?.into_iter().filter(|own| !own).count();
        if foreign > STOCK_RULES {
            return Ok(false);
        }
    }
    Ok(true)
}

// === helpers ===

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&NetlinkAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Asks on a thread of its own: with many routes an answer takes tens of milliseconds.
async fn dump<T: Send + 'static>(
    netns: &Netns,
    requests: impl IntoIterator<Item = RouteNetlinkMessage> + Send + 'static,
    wanted: impl Fn(RouteNetlinkMessage) -> Option<T> + Send + 'static,
) -> Result<Vec<T>, CaptureError> {
    let socket = netns.run(|| Socket::new(NETLINK_ROUTE)).await?.map_err(failed)?;
    let work = move || {
        let mut found = Vec::new();
        for request in requests {
            ask(&socket, request, |message| found.extend(wanted(message)))?;
        }
        Ok(found)
    };
    blocking(work).await.map_err(failed)
}

fn ask(
    socket: &Socket,
    request: RouteNetlinkMessage,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some((_, message, after)) = split(rest) {
            rest = after;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match message.payload {
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => match error.to_io() {
                    // There is no IPv6.
                    error if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
                    error => return Err(error),
                },
                _ => {}
            }
        }
    }
}

/// The first message of a datagram with its type, and what is behind it (netlink(7)).
fn split(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = datagram.first_chunk::<16>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let message = datagram.get(..length).filter(|message| message.len() >= header.len())?;
    Some((kind, message, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn route_of(message: &[u8]) -> Option<RouteMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => Some(route),
        _ => None,
    }
}

fn is_local(route: &RouteMessage) -> bool {
    route.header.kind == rtnetlink::packet_route::route::RouteType::Local
}

fn failed(error: io::Error) -> CaptureError {
    CaptureError::Routes(error.to_string())
}

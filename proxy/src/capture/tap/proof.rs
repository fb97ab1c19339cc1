//! The tap tried on a connection between two sockets of weir's own: what they say has to be shown, as it
//! was said and in its order.

use std::{
    io::{ErrorKind, Read, Write},
    mem::size_of,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use aya::maps::{Map, MapData, RingBuf, SkStorage};
use socket2::{Domain, SockRef, Socket, Type};
use weir_common::{OriginalDestination, Reason, TapEvent, maps, tap_kind};

use super::{
    super::{CaptureError, Instance, bpf, error::into_io, table::lock},
    Tap,
};
use crate::host::cgroup;

const REQUEST: &[u8] = b"GET /weir-tap-self-test HTTP/1.1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A connection of loopback takes no longer, unless its packets are lost or go elsewhere.
const LIMIT: Duration = Duration::from_secs(2);

/// What is shown: the kind, the side, and the bytes.
type Shown = (u8, u8, Vec<u8>);

/// # Errors
/// Where something else is shown.
pub(super) fn prove(tap: &Tap, instance: &Instance) -> Result<(), CaptureError> {
    let links = tap.attach(&cgroup::own()?)?;
    converse(instance).map_err(|error| failed(&error.to_string()))?;
    drop(links);
    let shown = take_shown(tap)?;
    let expected = [
        (tap_kind::OPENED, 0, Vec::new()),
        (tap_kind::BYTES, 0, REQUEST.to_vec()),
        (tap_kind::BYTES, 1, RESPONSE.to_vec()),
    ];
    let last = shown.last().map(|(kind, ..)| *kind);
    if shown.get(..expected.len()) == Some(&expected) && last == Some(tap_kind::ENDED) {
        return Ok(());
    }
    Err(failed(&format!("{} events instead of a request and its response", shown.len())))
}

fn failed(why: &str) -> CaptureError {
    CaptureError::TapSelfTest(why.to_owned())
}

/// A connection that the sockops program takes for one that the connect hook has marked.
fn converse(instance: &Instance) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let map = MapData::from_pin(instance.pins().map(maps::SOCKETS)).map_err(into_io)?;
    let mut notes: SkStorage<MapData, OriginalDestination> =
        SkStorage::try_from(Map::SkStorage(map)).map_err(into_io)?;
    let note = OriginalDestination { reason: Reason::Tapped as u8, ..Default::default() };
    notes.insert(&near, note, 0).map_err(into_io)?;
    // A rule for packets may have it arrive at another socket.
    SockRef::from(&listener).set_read_timeout(Some(LIMIT))?;
    near.connect_timeout(&listener.local_addr()?.into(), LIMIT)?;
    let elsewhere = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock => std::io::Error::other("its connection arrived at another socket"),
        _ => error,
    };
    let (mut near, mut far) = (TcpStream::from(near), listener.accept().map_err(elsewhere)?.0);
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LIMIT))?;
    }
    let mut buffer = [0; 64];
    near.write_all(REQUEST)?;
    far.read_exact(&mut buffer[..REQUEST.len()])?;
    far.write_all(RESPONSE)?;
    near.read_exact(&mut buffer[..RESPONSE.len()])?;
    // A reset: the socket is gone at once.
    SockRef::from(&near).set_linger(Some(Duration::ZERO))
}

fn take_shown(tap: &Tap) -> Result<Vec<Shown>, CaptureError> {
    let mut object = lock(&tap.object);
    let map = object.map_mut(maps::TAP_EVENTS).ok_or(CaptureError::Missing(maps::TAP_EVENTS))?;
    let mut ring = RingBuf::try_from(map).map_err(CaptureError::map("open", maps::TAP_EVENTS))?;
    let mut shown = Vec::new();
    while let Some(item) = ring.next() {
        let Some(event) = bpf::event::<TapEvent>(&item) else { continue };
        let bytes = &item[size_of::<TapEvent>()..];
        let length = if event.kind == tap_kind::BYTES { event.length as usize } else { 0 };
        let bytes = bytes.get(..length).unwrap_or_default().to_vec();
        shown.push((event.kind, event.side, bytes));
    }
    Ok(shown)
}

//! What the tap tells, read from its ring buffer.
//!
//! The kernel does not wake the reader for each event: while there is traffic the reader looks every
//! [`LOOK_EVERY`], and asks to be woken by the next event once it has found nothing for a while.

use std::{
    collections::HashMap as Places,
    mem::size_of,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, RingBuf},
};
use tokio::{
    io::unix::AsyncFd,
    task::yield_now,
    time::{sleep, timeout},
};
use weir_common::{TAP_FIN, TapEnded, TapEvent, TapFigures, TapOpened, maps, tap_kind, tap_lost};

use super::super::{
    CaptureError, Captured, address_of, bpf, events::End, original::now_ns, table::take,
};

/// How long an event may wait while there is traffic.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// After so many looks that found nothing the reader is woken instead.
const QUIET_LOOKS: u32 = 16;
/// How long ends may wait that found no room in the ring buffer, and an event whose wake-up was lost.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many events are handled before other tasks of the thread have their turn.
const BATCH: usize = 256;

/// Something that a tapped connection has done. `id` is its socket's cookie.
#[derive(Debug)]
pub enum TapNews<'a> {
    /// It is established.
    Opened {
        /// What the connect hook knew.
        captured: Captured,
        /// The workload's end.
        client: SocketAddr,
        /// Why it is not followed.
        lost: Option<&'static str>,
    },
    /// A side has sent bytes.
    Bytes {
        /// By the workload.
        by_client: bool,
        /// Bytes in front of them that are not shown.
        skipped: u64,
        /// The bytes; may be none.
        bytes: &'a [u8],
        /// The side has ended its stream behind them.
        fin: bool,
    },
    /// It is not followed any more; why.
    Lost(&'static str),
    /// It is closed; bytes that were received before may still be read.
    Closed(TapEnd),
    /// Its socket is gone. Bytes of the client and of the upstream behind the last ones that are not
    /// shown.
    Ended([u64; 2]),
}

/// How a tapped connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapEnd {
    /// Payload sent, each byte once.
    pub bytes_sent: u64,
    /// Payload received, read or not.
    pub bytes_received: u64,
    /// Whether the peer has ended its stream in order.
    pub peer_ended: bool,
    /// The peer was first to close.
    pub peer_first: bool,
    /// How.
    pub end: End,
}

/// The stream of events.
pub struct TapEvents {
    ring: AsyncFd<RingBuf<MapData>>,
    idle: Array<MapData, u64>,
    ends: HashMap<MapData, u64, TapEnded>,
    positions: Places<u64, [u32; 2]>,
    clock: Clock,
}

/// One moment on the clock of `bpf_ktime_get_ns`, and as userspace has it.
#[derive(Clone, Copy)]
struct Clock {
    kernel_ns: u64,
    own: Instant,
}

/// Why bytes are not seen, as a label and for people.
#[must_use]
pub const fn lost_text(reason: u8) -> Option<&'static str> {
    match reason {
        tap_lost::NONE => None,
        tap_lost::FULL => Some("tap buffer full"),
        tap_lost::HOLE => Some("bytes passed the tap"),
        tap_lost::MPTCP => Some("multipath connection"),
        tap_lost::FAST_OPEN => Some("data in the SYN"),
        tap_lost::TOO_LONG => Some("buffer too long for the tap"),
        _ => Some("buffer unreadable for the tap"),
    }
}

// === impl TapEvents ===

impl TapEvents {
    pub(super) fn new(object: &mut Ebpf) -> Result<Self, CaptureError> {
        let ring: RingBuf<MapData> = take(object, maps::TAP_EVENTS)?;
        // SAFETY: the ring buffer owns its descriptor and keeps it for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| CaptureError::Map {
            action: "watch",
            map: maps::TAP_EVENTS,
            source: error.into(),
        })?;
        Ok(Self {
            ring,
            idle: take(object, maps::TAP_IDLE)?,
            ends: take(object, maps::TAP_ENDS)?,
            positions: Places::new(),
            clock: Clock { kernel_ns: now_ns().map_err(CaptureError::clock)?, own: Instant::now() },
        })
    }

    /// Calls `handle` for each event, with the connection's id and the time at which it happened, for
    /// ever.
    pub async fn run(&mut self, mut handle: impl FnMut(u64, Instant, TapNews<'_>)) {
        let mut quiet = 0;
        let mut swept = tokio::time::Instant::now();
        loop {
            let mut found = false;
            while self.drain(BATCH, &mut handle) == BATCH {
                found = true;
                yield_now().await;
            }
            if swept.elapsed() >= SWEEP_EVERY {
                self.sweep(&mut handle);
                swept = tokio::time::Instant::now();
            }
            quiet = if found { 0 } else { quiet + 1 };
            if quiet < QUIET_LOOKS {
                sleep(LOOK_EVERY).await;
            } else if self.wait(&mut handle).await {
                quiet = 0;
            }
        }
    }

    /// Calls `handle` for each event that is already there.
    pub fn settle(&mut self, mut handle: impl FnMut(u64, Instant, TapNews<'_>)) {
        while self.drain(BATCH, &mut handle) > 0 {}
        self.sweep(&mut handle);
    }

    /// Waits until the kernel says that there is something; true where there was.
    async fn wait(&mut self, handle: &mut impl FnMut(u64, Instant, TapNews<'_>)) -> bool {
        let _ = self.idle.set(0, 1, 0);
        // What came before that was set wakes nobody.
        if self.drain(BATCH, handle) > 0 {
            let _ = self.idle.set(0, 0, 0);
            return true;
        }
        match timeout(SWEEP_EVERY, self.ring.readable_mut()).await {
            Ok(Ok(mut ready)) => {
                ready.clear_ready();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Takes at most so many events; returns how many there were.
    fn drain(&mut self, most: usize, handle: &mut impl FnMut(u64, Instant, TapNews<'_>)) -> usize {
        let Self { ring, positions, clock, .. } = self;
        for taken in 0..most {
            let Some(item) = ring.get_mut().next() else { return taken };
            tell(positions, *clock, &item, handle);
        }
        most
    }

    /// Ends that found no room in the ring buffer. What came before them has been read.
    fn sweep(&mut self, handle: &mut impl FnMut(u64, Instant, TapNews<'_>)) {
        let ids: Vec<u64> = self.ends.keys().filter_map(Result::ok).collect();
        for id in ids {
            let Ok(ended) = self.ends.get(&id, 0) else { continue };
            let _ = self.ends.remove(&id);
            self.positions.remove(&id);
            handle(id, Instant::now(), TapNews::Lost("tap buffer full"));
            handle(id, Instant::now(), TapNews::Ended(ended.skipped));
        }
    }
}

// === helpers ===

/// Reads an event, and compares its place with what came before.
fn tell(
    positions: &mut Places<u64, [u32; 2]>,
    clock: Clock,
    item: &[u8],
    handle: &mut impl FnMut(u64, Instant, TapNews<'_>),
) {
    const GAP: &str = "gap in the tapped bytes";
    let Some(event) = bpf::event::<TapEvent>(item) else { return };
    let more = &item[size_of::<TapEvent>()..];
    let (id, time) = (event.id, clock.instant(event.time_ns));
    match event.kind {
        tap_kind::OPENED => {
            let Some(opened) = bpf::event::<TapOpened>(more) else { return };
            positions.insert(id, opened.first);
            handle(id, time, opened_news(&opened));
        }
        tap_kind::BYTES => {
            let Some(place) = positions.get_mut(&id) else { return };
            let side = usize::from(event.side & 1);
            let Some(bytes) = more.get(..event.length as usize) else { return };
            if place[side].wrapping_add(event.skipped as u32) != event.sequence {
                positions.remove(&id);
                return handle(id, time, TapNews::Lost(GAP));
            }
            let fin = event.flags & TAP_FIN != 0;
            place[side] = event.sequence.wrapping_add(event.length).wrapping_add(u32::from(fin));
            let (by_client, skipped) = (side == 0, event.skipped);
            handle(id, time, TapNews::Bytes { by_client, skipped, bytes, fin });
        }
        tap_kind::LOST => {
            positions.remove(&id);
            handle(id, time, TapNews::Lost(lost_text(event.reason).unwrap_or(GAP)));
        }
        tap_kind::CLOSED => {
            if let Some(figures) = bpf::event::<TapFigures>(more) {
                handle(id, time, TapNews::Closed(TapEnd::of(&figures)));
            }
        }
        tap_kind::ENDED => {
            let Some(ended) = bpf::event::<TapEnded>(more) else { return };
            if let Some(place) = positions.remove(&id) {
                let is_there = |side: usize| {
                    place[side].wrapping_add(ended.skipped[side] as u32) == ended.next[side]
                };
                match lost_text(ended.lost) {
                    Some(why) => handle(id, time, TapNews::Lost(why)),
                    None if !is_there(0) || !is_there(1) => handle(id, time, TapNews::Lost(GAP)),
                    None => {}
                }
            }
            handle(id, time, TapNews::Ended(ended.skipped));
        }
        _ => {}
    }
}

fn opened_news(opened: &TapOpened) -> TapNews<'static> {
    TapNews::Opened {
        captured: Captured::from(&opened.destination),
        client: SocketAddr::new(address_of(opened.addr), opened.port as u16),
        lost: lost_text(opened.lost as u8),
    }
}

// === impl Clock ===

impl Clock {
    fn instant(self, kernel_ns: u64) -> Instant {
        let later = Duration::from_nanos(kernel_ns.saturating_sub(self.kernel_ns));
        let earlier = Duration::from_nanos(self.kernel_ns.saturating_sub(kernel_ns));
        (self.own + later).checked_sub(earlier).unwrap_or(self.own)
    }
}

// === impl TapEnd ===

impl TapEnd {
    fn of(figures: &TapFigures) -> Self {
        use weir_common::tcp_state::{CLOSE_WAIT, LAST_ACK};
        Self {
            bytes_sent: figures.bytes_sent,
            bytes_received: figures.bytes_received,
            peer_ended: figures.peer_ended != 0,
            peer_first: matches!(figures.state, CLOSE_WAIT | LAST_ACK),
            end: End::of(figures.state, figures.error),
        }
    }
}

//! Which destinations have turned out to be raw TCP, so that the next connection need not be
//! looked at. One [`Learning`] per workload. It has no clock: callers say what time it is.
//!
//! The numbers, and why they are what they are. A wrong entry makes HTTP invisible; a missing one
//! costs a look at the first bytes, and with the terminating engine, for a protocol that leaves a prefix
//! incomplete, the detect timeout. So it is learned slowly and forgotten fast, and from nothing but
//! what servers say: silence, ends and timers tell nothing of a destination.
//!
//! - [`STREAK`]: three connections in a row. One may be an accident (a server that answers a health
//!   check's line of garbage with one of its own), two may be the same accident repeated.
//! - [`LEARNED_FOR`]: ten minutes. Addresses of pods are given to others: for so long at most the
//!   new owner's requests go unseen. One look in ten minutes is no cost.
//! - One connection confirms what was known before, since nothing spoke against it; one that was
//!   HTTP or TLS is proof that looking is worth it, and ends it.
//! - Each time a destination is forgotten it takes twice as many connections to be learned again,
//!   up to [`LONGEST_STREAK`]: one that changes all the time is looked at nearly always.
//! - [`REMEMBERED`]: after an hour without a connection nothing is held against a destination, nor
//!   for it.
//! - [`CAPACITY`]: 4096 destinations, about a megabyte. The one that was used longest ago goes
//!   first, and is learned anew if it comes back.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::decision::Direction;
use crate::sync::lock;

/// Connections in a row that must have been raw TCP.
pub(crate) const STREAK: u32 = 3;
/// The most that are asked for.
pub(crate) const LONGEST_STREAK: u32 = 96;
/// How long a destination is taken for raw TCP without being looked at.
pub(crate) const LEARNED_FOR: Duration = Duration::from_secs(600);
/// How long anything is remembered of a destination without connections.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(3600);
/// Destinations remembered per workload.
pub(crate) const CAPACITY: usize = 4096;

/// Policy for destinations that are known to be raw TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Detect the protocol of every connection.
    Off,
    /// Forward further connections as raw TCP, without detection.
    #[default]
    Opaque,
    /// Let further connections go direct in the kernel, which reports their statistics.
    Bypass,
}

// === impl Learn ===

impl Learn {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Opaque => "opaque",
            Self::Bypass => "bypass",
        }
    }
}

/// What a workload's connections have taught.
#[derive(Debug)]
pub struct Learning {
    mode: Learn,
    capacity: usize,
    table: Mutex<Table>,
}

/// What one more connection has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing to be acted on.
    None,
    /// The destination is known to be raw TCP from now until then.
    Learned {
        /// When the next connection is looked at again.
        until: Instant,
    },
    /// The destination is not known any more.
    Forgotten,
}

type Key = (Direction, SocketAddr);

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Key, Known>,
    /// Who was used when, oldest first.
    order: BTreeMap<u64, Key>,
    /// Counts uses.
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    connections: u64,
    streak: u32,
    needed: u32,
    /// Set once learned; in the past once it has to be confirmed.
    until: Option<Instant>,
    used_at: Instant,
    /// Its place in the order.
    used: u64,
}

// === impl Learning ===

impl Learning {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(mode: Learn) -> Self {
        Self::with_capacity(mode, CAPACITY)
    }

    fn with_capacity(mode: Learn, capacity: usize) -> Self {
        Self { mode, capacity, table: Mutex::default() }
    }

    /// What is done with what is learned.
    #[must_use]
    pub const fn mode(&self) -> Learn {
        self.mode
    }

    /// Before the race: whether the destination is known to be raw TCP. If so, the connection is
    /// not looked at and must not be told to [`Self::observe`].
    pub fn known(&self, direction: Direction, destination: SocketAddr, now: Instant) -> bool {
        if self.mode == Learn::Off {
            return false;
        }
        let mut table = self.lock();
        let key = key(direction, destination);
        let known = table.known.get(&key).is_some_and(|entry| entry.is_known(now));
        if known {
            table.use_entry(key, now).connections += 1;
        }
        known
    }

    /// `raw` where the server has said what is no protocol that is looked for
    /// ([`Dialogue::lesson`](crate::detect::dialogue::Dialogue::lesson)), false for clients of HTTP and
    /// TLS (whose SNI is wanted). Connections without such bytes teach nothing and are not to be told.
    pub fn observe(
        &self,
        direction: Direction,
        destination: SocketAddr,
        raw: bool,
        now: Instant,
    ) -> Change {
        if self.mode == Learn::Off {
            return Change::None;
        }
        let mut table = self.lock();
        let key = key(direction, destination);
        match (raw, table.known.contains_key(&key)) {
            // Nearly all HTTP: nothing to be remembered.
            (false, false) => return Change::None,
            (true, false) => table.make_room(self.capacity),
            _ => {}
        }
        let entry = table.use_entry(key, now);
        entry.connections += 1;
        if raw { entry.confirm(now) } else { entry.refute() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        lock(&self.table)
    }
}

// === impl Table ===

impl Table {
    /// The entry, made if need be, as the one used last.
    fn use_entry(&mut self, key: Key, now: Instant) -> &mut Known {
        self.uses += 1;
        let used = self.uses;
        self.order.insert(used, key);
        let entry = self.known.entry(key).or_insert(Known { used, ..Known::new(now) });
        if entry.used != used {
            self.order.remove(&entry.used);
        }
        if entry.is_stale(now) {
            *entry = Known::new(now);
        }
        entry.used = used;
        entry.used_at = entry.used_at.max(now);
        entry
    }

    fn make_room(&mut self, capacity: usize) {
        while self.known.len() >= capacity {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.known.remove(&oldest);
        }
    }
}

// === impl Known ===

impl Known {
    const fn new(now: Instant) -> Self {
        Self { connections: 0, streak: 0, needed: STREAK, until: None, used_at: now, used: 0 }
    }

    fn is_known(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn is_stale(&self, now: Instant) -> bool {
        let last = self.until.map_or(self.used_at, |until| until.max(self.used_at));
        now.saturating_duration_since(last) > REMEMBERED
    }

    /// One more that was raw TCP.
    fn confirm(&mut self, now: Instant) -> Change {
        self.streak = self.streak.saturating_add(1);
        if self.is_known(now) || self.streak < self.needed {
            return Change::None;
        }
        let until = now + LEARNED_FOR;
        self.until = Some(until);
        Change::Learned { until }
    }

    /// One that was not.
    fn refute(&mut self) -> Change {
        self.streak = 0;
        if self.until.take().is_none() {
            return Change::None;
        }
        self.needed = (self.needed * 2).min(LONGEST_STREAK);
        Change::Forgotten
    }
}

// === helpers ===

/// `::ffff:a.b.c.d` and `a.b.c.d` are one destination.
fn key(direction: Direction, destination: SocketAddr) -> Key {
    (direction, SocketAddr::new(destination.ip().to_canonical(), destination.port()))
}

#[cfg(test)]
mod tests;

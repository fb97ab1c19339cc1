//! Destinations that go direct for a while, in the maps that the hooks read: those that weir could not
//! reach, and those that were learned to be raw TCP.

use std::{net::SocketAddr, time::Duration};

use weir_common::Direction;

use super::{CaptureError, entries::Entries, original::now_ns};

/// Destinations that go direct until a point in time.
pub struct Bypasses {
    entries: Entries,
}

// === impl Bypasses ===

impl Bypasses {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Lets connections to a destination go direct for a while, after the proxy could not reach it:
    /// the application's retry then gets the kernel's own error.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn let_fail(&self, destination: SocketAddr, time: Duration) -> Result<(), CaptureError> {
        let until = end(time)?;
        self.entries
            .instance
            .failed
            .insert(&self.entries.key(Direction::Outbound, destination), until)
    }

    /// How long connections to a destination still go direct because it could not be reached.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn let_fail_for(&self, destination: SocketAddr) -> Result<Option<Duration>, CaptureError> {
        remaining(
            self.entries
                .instance
                .failed
                .get(&self.entries.key(Direction::Outbound, destination))?,
        )
    }

    /// Lets connections to a destination that was learned to be raw TCP go direct, for a while.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn add(
        &self,
        direction: Direction,
        destination: SocketAddr,
        time: Duration,
    ) -> Result<(), CaptureError> {
        let until = end(time)?;
        self.entries.instance.learned.insert(&self.entries.key(direction, destination), until)
    }

    /// Takes back [`Self::add`].
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn remove(
        &self,
        direction: Direction,
        destination: SocketAddr,
    ) -> Result<(), CaptureError> {
        self.entries.instance.learned.remove(&self.entries.key(direction, destination))
    }

    /// Takes back every [`Self::add`] that an earlier weir has left.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn remove_left(&self) -> Result<(), CaptureError> {
        let left = self.entries.left(|left| &mut left.learned);
        left.iter().try_for_each(|key| self.entries.instance.learned.remove(key))
    }

    /// How long connections to a destination still go direct because it was learned.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn remaining(
        &self,
        direction: Direction,
        destination: SocketAddr,
    ) -> Result<Option<Duration>, CaptureError> {
        remaining(self.entries.instance.learned.get(&self.entries.key(direction, destination))?)
    }

    /// Removes all of them.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for hints in [&instance.failed, &instance.learned] {
            hints.forget(*workload);
        }
    }
}

// === helpers ===

/// When a time from now on ends, `bpf_ktime_get_ns` clock.
fn end(time: Duration) -> Result<u64, CaptureError> {
    let now = now_ns().map_err(CaptureError::clock)?;
    Ok(now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
}

/// How long it is until then; `None` for the past.
fn remaining(until: Option<u64>) -> Result<Option<Duration>, CaptureError> {
    let now = now_ns().map_err(CaptureError::clock)?;
    Ok(until.filter(|until| *until > now).map(|until| Duration::from_nanos(until - now)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::{Instance, InstanceOptions, WorkloadMaps};

    /// Needs root.
    #[test]
    fn a_bypass_ends_when_it_is_removed_or_its_time_is_up() {
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let bypasses = &WorkloadMaps::new(instance, 1, true).bypasses;
        let to = "192.0.2.1:80".parse().unwrap();
        let minute = Duration::from_secs(60);
        bypasses.add(Direction::Inbound, to, minute).unwrap();
        bypasses.let_fail(to, minute).unwrap();
        let left = |direction| bypasses.remaining(direction, to).unwrap();
        assert!(left(Direction::Inbound).is_some_and(|left| left <= minute));
        assert_eq!(left(Direction::Outbound), None);
        assert!(bypasses.let_fail_for(to).unwrap().is_some());
        bypasses.remove(Direction::Inbound, to).unwrap();
        assert_eq!(left(Direction::Inbound), None);
        bypasses.add(Direction::Outbound, to, Duration::ZERO).unwrap();
        assert_eq!(left(Direction::Outbound), None);
        bypasses.clear();
        assert_eq!(bypasses.let_fail_for(to).unwrap(), None);
    }
}

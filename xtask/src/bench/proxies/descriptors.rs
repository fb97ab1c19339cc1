//! Descriptors: how many connections fit into a proxy, which has two for each.

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What the idle cells are meant to have.
const IDLE: usize = 10_000;

/// Descriptors that each process of the run may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors(usize);

// === impl Descriptors ===

impl Descriptors {
    /// Allows this process and its children as many as can be allowed here.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses what it said is allowed.
    pub(super) fn raise() -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot allow descriptors")?;
        // More than anything here needs, and less than programs make arrays for.
        Ok(Self(usize::try_from(most)?.min(65_536)))
    }

    /// What a proxy is told to expect.
    pub(super) fn connections(self) -> usize {
        self.0 * 9 / 20
    }

    /// Connections of the idle cells.
    pub(super) fn idle(self) -> usize {
        (self.0 * 2 / 5).min(IDLE)
    }

    /// What the reader must know, if anything.
    pub(super) fn note(self) -> Option<String> {
        let idle = self.idle();
        let why = format!("a process may have {} descriptors here (ulimit -Hn)", self.0);
        (idle < IDLE).then(|| format!("Idle cells: {idle} connections instead of {IDLE}: {why}."))
    }
}

#[cfg(test)]
mod tests {
    use super::Descriptors;

    #[test]
    fn few_descriptors_mean_fewer_connections_and_a_note() {
        let (few, many) = (Descriptors(20_000), Descriptors(65_536));
        assert_eq!((few.idle(), few.connections()), (8000, 9000));
        assert!(few.note().is_some_and(|note| note.contains("8000")));
        assert_eq!((many.idle(), many.note()), (10_000, None));
    }
}

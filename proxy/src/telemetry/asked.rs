//! Facts that others have, asked for at each scrape.

use std::{
    fmt,
    sync::{RwLock, RwLockReadGuard},
};

use crate::sync::{read, write};

/// Tells the facts.
pub(super) type Source<T> = Box<dyn Fn() -> Vec<T> + Send + Sync>;

/// Asks when it is asked.
pub(super) struct Asked<T>(RwLock<Option<Source<T>>>);

// === impl Asked ===

impl<T> Asked<T> {
    pub(super) fn set(&self, source: Source<T>) {
        *write(&self.0) = Some(source);
    }

    /// `None` inside where there is no source yet.
    pub(super) fn source(&self) -> RwLockReadGuard<'_, Option<Source<T>>> {
        read(&self.0)
    }
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> fmt::Debug for Asked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

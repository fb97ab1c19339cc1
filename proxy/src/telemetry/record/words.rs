//! A bound on what peers have said in records that wait to be written: a path may have many KiB,
//! chosen by a client.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Record;

/// How many bytes of words wait.
#[derive(Debug)]
pub(in crate::telemetry) struct Words {
    waiting: AtomicUsize,
    most: usize,
}

// === impl Words ===

impl Words {
    pub(in crate::telemetry) const fn at_most(most: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), most }
    }

    /// Lets a record of so many [words](Record::words) wait where `queue` takes it; false where
    /// there was no room for it.
    pub(in crate::telemetry) fn queue(&self, words: usize, queue: impl FnOnce() -> bool) -> bool {
        let fits = self.waiting.fetch_add(words, Relaxed) <= self.most;
        let queued = fits && queue();
        if !queued {
            self.waiting.fetch_sub(words, Relaxed);
        }
        queued
    }

    /// A record waits no more.
    pub(in crate::telemetry) fn taken(&self, record: &Record) {
        self.waiting.fetch_sub(record.words(), Relaxed);
    }

    /// Bytes that wait now.
    #[cfg(test)]
    pub(in crate::telemetry) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

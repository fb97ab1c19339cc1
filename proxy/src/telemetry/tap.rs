//! Records as they come, for clients that ask while weir runs. Nothing waits for a reader: what a
//! slow one has no room for is counted and left out, and without any reader no record is made.

mod filter;
mod statuses;

pub(super) use filter::Place;
pub use filter::{NamePattern, RecordKind, TapFilter};
pub use statuses::{StatusError, Statuses};

use std::sync::{
    Arc, RwLock,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use super::record::{Record, Words};
use crate::sync::{read, write};

/// Readers at a time. Each one costs a comparison per record.
const MAX_TAPS: usize = 8;

/// Records that wait for a reader; at about 400 bytes each this is less than half a MiB.
const QUEUE: usize = 1024;

/// Bytes of peers' words in waiting records.
const QUEUED_WORDS: usize = 4 << 20;

/// Records that a reader takes at once.
const BATCH: usize = 64;

/// Why there is no tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TAPS} taps are already running, which is the maximum; end one of them")]
pub struct TooManyTaps;

/// All readers.
#[derive(Debug, Default)]
pub(super) struct Taps {
    readers: Arc<RwLock<Vec<Arc<Reader>>>>,
    /// How many there are, to be asked for each record.
    count: Arc<AtomicUsize>,
}

/// The end that records are put in.
#[derive(Debug)]
struct Reader {
    workload: Option<String>,
    filter: TapFilter,
    queue: mpsc::Sender<Record>,
    words: Words,
    missed: AtomicU64,
}

/// The end that records are read from; dropping it ends the tap.
#[derive(Debug)]
pub struct Tap {
    reader: Arc<Reader>,
    queue: mpsc::Receiver<Record>,
    readers: Arc<RwLock<Vec<Arc<Reader>>>>,
    count: Arc<AtomicUsize>,
}

/// What a reader gets at once.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// In the order in which they ended.
    pub records: Vec<Record>,
    /// Records that there was no room for since the last batch.
    pub missed: u64,
}

// === impl Taps ===

impl Taps {
    /// Whether there is a reader.
    pub(super) fn is_idle(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Begins to read: of one workload or of all, what passes the filter.
    pub(super) fn open(
        &self,
        workload: Option<String>,
        filter: TapFilter,
    ) -> Result<Tap, TooManyTaps> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let reader = Arc::new(Reader {
            workload,
            filter,
            queue: sender,
            words: Words::at_most(QUEUED_WORDS),
            missed: AtomicU64::new(0),
        });
        let mut readers = write(&self.readers);
        if readers.len() >= MAX_TAPS {
            return Err(TooManyTaps);
        }
        readers.push(Arc::clone(&reader));
        self.count.store(readers.len(), Relaxed);
        let (readers, count) = (Arc::clone(&self.readers), Arc::clone(&self.count));
        Ok(Tap { reader, queue, readers, count })
    }

    /// Shows a record to all readers; never waits for one.
    pub(super) fn show(&self, record: &Record) {
        if self.is_idle() {
            return;
        }
        for reader in read(&self.readers).iter() {
            reader.offer(record);
        }
    }
}

// === impl Reader ===

impl Reader {
    fn offer(&self, record: &Record) {
        let meant = self.workload.as_deref().is_none_or(|name| name == record.workload());
        if !meant || !self.filter.fits(record) {
            return;
        }
        let queue = || self.queue.try_send(record.clone()).is_ok();
        if !self.words.queue(record.words(), queue) {
            self.missed.fetch_add(1, Relaxed);
        }
    }
}

// === impl Tap ===

impl Tap {
    /// What has come since the last call; waits for the first record. Nothing is lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Batch {
        let mut records = Vec::new();
        // The other end is ours too: it does not close.
        self.queue.recv_many(&mut records, BATCH).await;
        records.iter().for_each(|record| self.reader.words.taken(record));
        Batch { records, missed: self.reader.missed.swap(0, Relaxed) }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut readers = write(&self.readers);
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
        self.count.store(readers.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::connection_record;

    fn record(id: u64) -> Record {
        let mut record = connection_record();
        record.id = id;
        Record::Connection(record)
    }

    fn of(workload: &str) -> Record {
        let mut record = connection_record();
        record.workload = workload.into();
        Record::Connection(record)
    }

    #[tokio::test]
    async fn readers_see_what_ends_while_they_read() {
        let taps = Taps::default();
        taps.show(&record(1));
        let mut tap = taps.open(None, TapFilter::default()).unwrap();
        assert!(!taps.is_idle());
        taps.show(&record(2));
        taps.show(&record(3));
        assert_eq!(tap.next().await, Batch { records: vec![record(2), record(3)], missed: 0 });
        drop(tap);
        assert!(taps.is_idle());
        assert!(taps.readers.read().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_reader_of_one_workload_sees_no_other() {
        let taps = Taps::default();
        let mut tap = taps.open(Some("shop".into()), TapFilter::default()).unwrap();
        taps.show(&of("bank"));
        taps.show(&of("shop"));
        assert_eq!(tap.next().await.records, [of("shop")]);
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_misses_records_and_is_told_how_many() {
        let taps = Taps::default();
        let mut tap = taps.open(None, TapFilter::default()).unwrap();
        for id in 0..5000 {
            taps.show(&record(id));
        }
        let (mut seen, mut missed) = (0, 0);
        while seen + missed < 5000 {
            let batch = tap.next().await;
            assert!(batch.records.len() <= BATCH);
            // Those that there was room for are the first.
            let Record::Connection(first) = &batch.records[0] else { panic!() };
            assert_eq!(first.id, seen);
            seen += batch.records.len() as u64;
            missed += batch.missed;
        }
        assert_eq!(seen, QUEUE as u64);
        assert_eq!(tap.reader.words.waiting(), 0);
        taps.show(&record(1));
        assert_eq!(tap.next().await.records.len(), 1, "there is room again");
    }

    #[tokio::test]
    async fn long_words_do_not_fill_the_memory() {
        let taps = Taps::default();
        let mut tap = taps.open(None, TapFilter::default()).unwrap();
        let long = || {
            let mut record = connection_record();
            record.sni = Some("x".repeat(1 << 20));
            Record::Connection(record)
        };
        for _ in 0..100 {
            taps.show(&long());
        }
        let batch = tap.next().await;
        assert!(batch.records.len() < 10, "{} waited", batch.records.len());
        assert_eq!(batch.records.len() as u64 + batch.missed, 100);
    }

    #[test]
    fn there_is_an_end_to_how_many_read() {
        let taps = Taps::default();
        let all: Vec<_> =
            (0..MAX_TAPS).map(|_| taps.open(None, TapFilter::default()).unwrap()).collect();
        let error = taps.open(None, TapFilter::default()).unwrap_err();
        assert!(error.to_string().starts_with("8 taps are already running"), "{error}");
        drop(all);
        assert!(taps.open(None, TapFilter::default()).is_ok());
    }
}

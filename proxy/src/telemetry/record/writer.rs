//! The thread that writes records. A queue of fixed length stands before it: when the disk or the
//! pipe is too slow, records are dropped and counted, and connections go on.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

use super::{Record, Rotation, Words, output::Output};
use crate::{
    budget::{RECORDS, Resource, Share, Taken},
    config::RecordFormat,
};

/// Bytes of words in waiting records.
const QUEUED_WORDS: usize = 16 << 20;

/// A record with so many bytes of words takes the place of two: where all have, both bounds are met.
const WORDS: usize = QUEUED_WORDS / RECORDS;

/// Where records are handed in. Cloning is cheap; the thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct RecordLog {
    queue: SyncSender<Message>,
    words: Arc<Words>,
    dropped: Counter,
}

/// The file that records go to, and when it is renamed.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    rotation: Option<Rotation>,
}

#[derive(Debug)]
enum Message {
    /// With the format that its workload asks for, and the place that it takes of its workload's.
    Record(Box<Record>, Option<RecordFormat>, Option<Taken>),
    /// The file is opened anew.
    Reopen,
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

// === impl RecordLog ===

impl RecordLog {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(out: Box<dyn Write + Send>, format: RecordFormat) -> io::Result<Self> {
        Self::with_queue(out, None, format, RECORDS)
    }

    /// Opens a file to append to, or stdout for `-`, and starts the thread. A file is renamed as
    /// `rotation` says, if it does.
    ///
    /// # Errors
    /// If the file can't be opened or no thread started; the error names the file.
    pub fn open(path: &Path, format: RecordFormat, rotation: Option<Rotation>) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::start(Box::new(io::stdout()), format);
        }
        let (file, path) = (open(path)?, path.to_owned());
        Self::with_queue(Box::new(file), Some(Place { path, rotation }), format, RECORDS)
    }

    /// Opens the file anew, behind what was queued: it was renamed. Blocks
    /// while the queue is full.
    pub fn reopen(&self) {
        // The thread is there for as long as it can be asked.
        let _ = self.queue.send(Message::Reopen);
    }

    fn with_queue(
        out: Box<dyn Write + Send>,
        place: Option<Place>,
        format: RecordFormat,
        length: usize,
    ) -> io::Result<Self> {
        let (queue, messages) = sync_channel(length);
        let dropped = Counter::default();
        let (lost, words) = (dropped.clone(), Arc::new(Words::at_most(QUEUED_WORDS)));
        let queued = Arc::clone(&words);
        std::thread::Builder::new()
            .name("weir-records".into())
            .spawn(move || run(&messages, out, place.as_ref(), format, (&lost, &queued)))?;
        Ok(Self { queue, words, dropped })
    }

    /// Queues a record, or drops and counts it if the queue is full. Never waits.
    pub fn write(&self, record: Record) {
        self.enqueue(record, None, None);
    }

    /// The same for a workload's, in the format that it asks for: those of others have their own place.
    pub fn write_for(&self, share: &Share, format: Option<RecordFormat>, record: Record) {
        let places = 1 + record.words() / WORDS;
        match share.take(Resource::Records, places as u64) {
            Some(taken) => self.enqueue(record, format, Some(taken)),
            None => {
                self.dropped.inc();
            }
        }
    }

    fn enqueue(&self, record: Record, format: Option<RecordFormat>, taken: Option<Taken>) {
        let words = record.words();
        let message = Message::Record(Box::new(record), format, taken);
        let queue = || self.queue.try_send(message).is_ok();
        if !self.words.queue(words, queue) {
            self.dropped.inc();
        }
    }

    /// Waits until what was queued is written, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, flushed) = sync_channel(1);
        let deadline = std::time::Instant::now() + limit;
        let mut message = Message::Flush(done);
        // A full queue refuses the flush itself; the writer is at work, so try again.
        while let Err(std::sync::mpsc::TrySendError::Full(back)) = self.queue.try_send(message) {
            if std::time::Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match flushed.recv_timeout(left) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::warn!(
                "access records were not flushed in \
                 time"
            ),
        }
    }

    /// Records dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    pub(in crate::telemetry) fn dropped_counter(&self) -> Counter {
        self.dropped.clone()
    }
}

fn run(
    messages: &Receiver<Message>,
    out: Box<dyn Write + Send>,
    place: Option<&Place>,
    format: RecordFormat,
    (lost, queued): (&Counter, &Words),
) {
    let mut out = Output::new(out, lost.clone());
    out.set_size(place.map_or(0, |place| size(&place.path)));
    while let Ok(first) = messages.recv() {
        let mut next = Ok(first);
        while let Ok(message) = next {
            match message {
                Message::Record(record, own, taken) => {
                    queued.taken(&record);
                    drop(taken);
                    out.write(&record, own.unwrap_or(format));
                    rotate(&mut out, place);
                }
                Message::Reopen => {
                    // What is in the buffer is the old file's.
                    out.flush();
                    match place.map(|place| open(&place.path)) {
                        None => {}
                        Some(Ok(file)) => out.replace(Box::new(file)),
                        Some(Err(error)) => {
                            tracing::error!(%error, "cannot reopen the record file; continuing \
                                                     with the open one");
                        }
                    }
                }
                Message::Flush(done) => {
                    out.flush();
                    rotate(&mut out, place);
                    // The caller may have gone.
                    let _ = done.try_send(());
                }
            }
            next = match messages.try_recv() {
                Err(TryRecvError::Disconnected) => break,
                other => other,
            };
        }
        // Idle: let readers of the file see what there is.
        out.flush();
        rotate(&mut out, place);
    }
}

/// Begins another file where this one is large enough. Where that fails the open one goes on, and it
/// is tried again after as many bytes.
fn rotate(out: &mut Output, place: Option<&Place>) {
    let Some(Place { path, rotation: Some(rotation) }) = place else { return };
    if !rotation.is_due(out.size()) {
        return;
    }
    match rotation.rename(path).and_then(|()| open(path)) {
        Ok(file) => out.replace(Box::new(file)),
        Err(error) => {
            let path = path.display();
            tracing::error!(%error, %path, "cannot begin another record file; continuing with the open one");
            out.set_size(0);
        }
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
        let path = path.display();
        let text = format!(
            "cannot open record file {path}: {error}; check that its directory is \
                            writable"
        );
        io::Error::new(error.kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::budget::Budgets;
    use crate::telemetry::{record::ConnectionRecord, tests::connection_record};

    /// A pipe whose reader is stuck until the test lets go.
    #[derive(Clone, Default)]
    struct Stuck(Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn records_with_many_words_do_not_fill_the_memory() {
        let pipe = Stuck::default();
        let log = RecordLog::start(Box::new(pipe.clone()), RecordFormat::Json).unwrap();
        let held = pipe.0.lock().unwrap();
        let long = || {
            let mut record = connection_record();
            record.sni = Some("x".repeat(1 << 20));
            Record::Connection(record)
        };
        for _ in 0..100 {
            log.write(long());
        }
        assert!((70..100).contains(&log.dropped()), "{} dropped", log.dropped());
        drop(held);
        log.flush(Duration::from_secs(30));
        assert_eq!(log.words.waiting(), 0);
        log.write(long());
        log.flush(Duration::from_secs(30));
        let written = pipe.0.lock().unwrap().clone();
        let lines = written.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines as u64 + log.dropped(), 101);
    }

    /// Guards against records that go on into a file which logrotate has moved away.
    #[test]
    fn a_file_that_is_opened_anew_gets_the_records_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("records"), dir.path().join("records.1"));
        let log = RecordLog::open(&path, RecordFormat::Json, None).unwrap();
        let write = |count| {
            for _ in 0..count {
                log.write(Record::Connection(connection_record()));
            }
        };
        let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        write(3);
        fs::rename(&path, &moved).unwrap();
        log.reopen();
        write(2);
        log.flush(Duration::from_secs(60));
        assert_eq!((lines(&moved), lines(&path)), (3, 2));
        // Where that cannot be done, they go on as before.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.reopen();
        write(1);
        log.flush(Duration::from_secs(60));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_file_that_is_large_enough_is_renamed_and_none_of_its_records_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let record = || Record::Connection(connection_record());
        let length = crate::json::to_string(&record()).unwrap().len() as u64 + 1;
        let files = || -> Vec<(String, usize)> {
            let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let mut all: Vec<_> = entries.map(|path| (name(&path), lines(&path))).collect();
            all.sort();
            all
        };
        let rotation = Rotation { max_size: 10 * length, keep: 2 };
        // What is there counts.
        let line = crate::json::to_string(&record()).unwrap() + "\n";
        fs::write(&path, line.repeat(8)).unwrap();
        let log = RecordLog::open(&path, RecordFormat::Json, Some(rotation)).unwrap();
        let write = |count: usize| {
            for _ in 0..count {
                log.write(record());
            }
            log.flush(Duration::from_secs(60));
        };
        write(1);
        assert_eq!(files(), [("records".to_owned(), 9)]);
        write(1);
        let (first, second) = (("records".to_owned(), 0), ("records.1".to_owned(), 10));
        assert_eq!(files(), [first, second]);
        write(15);
        let all: usize = files().iter().map(|(_, lines)| lines).sum();
        assert_eq!(all, 25, "{:?}", files());
        write(40);
        let names: Vec<_> = files().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["records", "records.1", "records.2"], "the oldest are gone");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_workload_with_many_records_leaves_room_for_anothers() {
        let pipe = Stuck::default();
        let log = RecordLog::start(Box::new(pipe.clone()), RecordFormat::Json).unwrap();
        let budgets = Budgets::default();
        let (a, b) = (budgets.share(&"a".into()), budgets.share(&"b".into()));
        let held = pipe.0.lock().unwrap();
        let long = || {
            let record = ConnectionRecord { sni: Some("x".repeat(8000)), ..connection_record() };
            Record::Connection(record)
        };
        for _ in 0..10_000 {
            log.write_for(&a, None, long());
            log.write_for(&a, None, Record::Connection(connection_record()));
        }
        let dropped = log.dropped();
        assert!(dropped > 10_000);
        for _ in 0..1000 {
            log.write_for(&b, None, Record::Connection(connection_record()));
        }
        assert_eq!(log.dropped(), dropped, "every record of b has a place");
        drop(held);
        log.flush(Duration::from_secs(30));
        assert_eq!(budgets.used(Resource::Records), 0);
    }

    #[test]
    fn a_stuck_log_drops_records_and_never_blocks() {
        let pipe = Stuck::default();
        let log =
            RecordLog::with_queue(Box::new(pipe.clone()), None, RecordFormat::Json, 4).unwrap();
        let held = pipe.0.lock().unwrap();
        for _ in 0..10_000 {
            log.write(Record::Connection(connection_record()));
        }
        assert!(log.dropped() > 0);
        drop(held);
        log.flush(Duration::from_secs(5));
        let written = pipe.0.lock().unwrap().clone();
        let lines = String::from_utf8(written).unwrap();
        assert_eq!(lines.lines().count() as u64 + log.dropped(), 10_000);
        for line in lines.lines() {
            serde_json::from_str::<Record>(line).unwrap();
        }
    }
}

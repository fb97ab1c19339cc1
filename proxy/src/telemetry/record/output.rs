//! Where records are written, a buffer before it, and what becomes of those that cannot be: a full disk
//! is reported at once, and every record that is lost is counted.

use std::{
    fmt,
    io::{self, Write},
};

use prometheus_client::metrics::counter::Counter;

use super::{Record, lines};
use crate::{config::RecordFormat, json};

/// Bytes after which lines are written, also while more records wait.
const BUFFER: usize = 64 * 1024;

/// A file or a pipe, with the lines that are still to be written to it.
pub(super) struct Output {
    out: Box<dyn Write + Send>,
    /// Whole lines.
    lines: Vec<u8>,
    /// The last write ended within a line.
    is_torn: bool,
    /// The last write failed.
    is_failing: bool,
    lost: Counter,
    /// Bytes in the file.
    size: u64,
}

// === impl Output ===

impl Output {
    /// `lost` counts records.
    pub(super) fn new(out: Box<dyn Write + Send>, lost: Counter) -> Self {
        Self { out, lines: Vec::new(), is_torn: false, is_failing: false, lost, size: 0 }
    }

    /// Bytes in the file, of what was written here and before.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The file has this size.
    pub(super) const fn set_size(&mut self, size: u64) {
        self.size = size;
    }

    /// Writes what comes to another file, which is empty.
    pub(super) fn replace(&mut self, out: Box<dyn Write + Send>) {
        *self = Self::new(out, self.lost.clone());
    }

    /// Adds a record; one without a line in this format is left out.
    pub(super) fn write(&mut self, record: &Record, format: RecordFormat) {
        let mut line = String::new();
        let has_line = match format {
            RecordFormat::Json => match json::to_string(record) {
                Ok(json) => {
                    line = json;
                    true
                }
                Err(_) => false,
            },
            RecordFormat::Human => {
                fmt::Write::write_fmt(&mut line, format_args!("{record}")).is_ok()
            }
            RecordFormat::Combined => lines::combined(record, &mut line),
            RecordFormat::Envoy => lines::envoy(record, &mut line),
        };
        if !has_line {
            return;
        }
        line.push('\n');
        self.lines.extend_from_slice(line.as_bytes());
        if self.lines.len() >= BUFFER {
            self.flush();
        }
    }

    /// Writes what there is. What cannot be written is lost, and not tried again: the disk may be
    /// full for long.
    pub(super) fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        let (written, result) = self.write_all(&lines);
        self.size += written as u64;
        match result {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::warn!("access records are written again");
            }
            Ok(()) => {}
            Err(error) => {
                let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.lost.inc_by(lost);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, lost, "cannot write access records; dropping them until \
                                                  there is room, or the file is opened again (SIGHUP)");
                }
            }
        }
        lines.clear();
        self.lines = lines;
    }

    /// How many bytes were written, and why no more.
    fn write_all(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < lines.len() {
            // The rest of a line that is lost must not run into the next one.
            let torn = self.is_torn && written == 0;
            let next = if torn { &b"\n"[..] } else { &lines[written..] };
            match self.out.write(next) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(_) if torn => self.is_torn = false,
                Ok(count) => {
                    written += count;
                    self.is_torn = lines[written - 1] != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, self.out.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::telemetry::tests::connection_record;

    /// A disk with room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let fits = bytes.len().min(*room - text.len());
            if fits == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            text.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Guards against records that are lost uncounted, and lines that run into each other.
    #[test]
    fn what_a_full_disk_has_no_room_for_is_counted_to_the_record() {
        let (disk, lost) = (Disk::default(), Counter::default());
        let record = Record::Connection(connection_record());
        let length = json::to_string(&record).unwrap().len() + 1;
        for half in [0, length / 2] {
            disk.0.lock().unwrap().0.clear();
            disk.0.lock().unwrap().1 = 3 * length + half;
            let before = lost.get();
            let mut out = Output::new(Box::new(disk.clone()), lost.clone());
            let mut write = |count: usize| {
                for _ in 0..count {
                    out.write(&record, RecordFormat::Json);
                }
                out.flush();
            };
            write(2);
            assert_eq!(lost.get() - before, 0);
            write(5);
            assert_eq!(lost.get() - before, 4, "one of these had room");
            write(1);
            assert_eq!(lost.get() - before, 5);
            disk.0.lock().unwrap().1 = 100 * length;
            write(2);
            assert_eq!(lost.get() - before, 5);
            let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
            let whole =
                text.lines().filter(|it| serde_json::from_str::<Record>(it).is_ok()).count();
            assert_eq!(whole, 5, "{text}");
            assert_eq!(text.lines().count(), 5 + usize::from(half > 0));
        }
    }
}

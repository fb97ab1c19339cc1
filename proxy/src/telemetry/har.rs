//! Requests as an HTTP Archive (HAR 1.2, <http://www.softwareishard.com/blog/har-12-spec/>), which the
//! network panel of a browser opens. A thread writes it, behind a queue of fixed length: nothing on
//! the data path waits for the disk.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use super::record::{Observer, Record, RequestRecord, Words};
use crate::{json, units};

/// Requests that wait to be written.
const QUEUE: usize = 8192;
/// Bytes of peers' words in them.
const QUEUED_WORDS: usize = 16 << 20;

/// What a URI must not have as it is (RFC 3986 §2); a `%` is left as the client has sent it.
const NOT_IN_A_URI: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Where requests are handed in.
#[derive(Debug)]
pub struct HarLog {
    queue: SyncSender<Message>,
    words: Arc<Words>,
    dropped: Arc<AtomicU64>,
}

/// The file behind it.
#[derive(Debug)]
pub struct HarFile {
    log: Arc<HarLog>,
    thread: JoinHandle<io::Result<u64>>,
}

/// What has become of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HarCounts {
    /// Requests in the file.
    pub entries: u64,
    /// Requests that there was no room for in the queue.
    pub dropped: u64,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    End,
}

// === impl HarFile ===

impl HarFile {
    /// Begins the archive in an empty file, and starts the thread.
    ///
    /// # Errors
    /// Where the file cannot be written or no thread started.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        let creator = json!({"name": "weir", "version": env!("CARGO_PKG_VERSION")});
        write!(out, "{{\"log\":{{\"version\":\"1.2\",\"creator\":{creator},\"entries\":[")?;
        out.flush()?;
        let (queue, messages) = sync_channel(QUEUE);
        let (words, dropped) = (Arc::new(Words::at_most(QUEUED_WORDS)), Arc::default());
        let log = Arc::new(HarLog { queue, words, dropped });
        let counts = (Arc::clone(&log.words), Arc::clone(&log.dropped));
        let thread = std::thread::Builder::new()
            .name("weir-har".into())
            .spawn(move || run(&messages, out, &counts.0, &counts.1))?;
        Ok(Self { log, thread })
    }

    /// What is to be told of records.
    #[must_use]
    pub fn log(&self) -> Arc<HarLog> {
        Arc::clone(&self.log)
    }

    /// Ends the file behind what was queued. Blocks until it is written.
    ///
    /// # Errors
    /// The first error of writing.
    pub fn finish(self) -> io::Result<HarCounts> {
        let Self { log, thread } = self;
        // The thread reads until this.
        let _ = log.queue.send(Message::End);
        let entries =
            thread.join().map_err(|_| io::Error::other("the thread of the HAR panicked"))??;
        Ok(HarCounts { entries, dropped: log.dropped.load(Relaxed) })
    }
}

// === impl HarLog ===

impl Observer for HarLog {
    fn observe(&self, record: &Record) {
        if matches!(record, Record::Connection(_)) {
            return;
        }
        let message = Message::Record(Box::new(record.clone()));
        if !self.words.queue(record.words(), || self.queue.try_send(message).is_ok()) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

// === helpers ===

fn run(
    messages: &Receiver<Message>,
    mut out: impl Write,
    words: &Words,
    dropped: &AtomicU64,
) -> io::Result<u64> {
    let (mut entries, mut failed) = (0, None);
    while let Ok(Message::Record(record)) = messages.recv() {
        words.taken(&record);
        // After an error what is queued is still taken: nothing may wait for it.
        let Record::Request(request) = &*record else { continue };
        if failed.is_some() {
            continue;
        }
        let line = json::to_string(&entry(request))?;
        let comma = if entries == 0 { "" } else { "," };
        match write!(out, "{comma}\n{line}") {
            Ok(()) => entries += 1,
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let comment = match dropped.load(Relaxed) {
        0 => String::new(),
        dropped => format!(",\"comment\":\"{dropped} requests are missing: too many at a time\""),
    };
    writeln!(out, "\n]{comment}}}}}")?;
    out.flush()?;
    Ok(entries)
}

/// One request. What weir does not know has the value that the format has for that: no queries, no
/// fields of heads but Host, no reason phrase, no content.
fn entry(request: &RequestRecord) -> Value {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let wait = request.latency.unwrap_or(request.duration);
    let receive = request.duration.saturating_sub(wait);
    let version = match &*request.version {
        "2" => "HTTP/2".to_owned(),
        version => format!("HTTP/{version}"),
    };
    let host = request.authority.as_ref().map(|name| json!({"name": "Host", "value": name}));
    let mut entry = json!({
        "startedDateTime": units::rfc3339(request.time),
        "time": millis(request.duration),
        "request": {
            "method": request.method,
            "url": url(request),
            "httpVersion": version,
            "cookies": [],
            "headers": host.as_slice(),
            "queryString": [],
            "headersSize": -1,
            "bodySize": request.request_bytes,
        },
        "response": {
            "status": request.status.unwrap_or(0),
            "statusText": "",
            "httpVersion": version,
            "cookies": [],
            "headers": [],
            "content": {"size": request.response_bytes, "mimeType": "x-unknown"},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": request.response_bytes,
        },
        "cache": {},
        "timings": {
            "blocked": -1,
            "dns": -1,
            "connect": -1,
            "ssl": -1,
            "send": 0,
            "wait": millis(wait),
            "receive": millis(receive),
        },
        "serverIPAddress": request.endpoint.unwrap_or(request.destination).ip().to_canonical(),
        "connection": request.connection.to_string(),
    });
    // Fields of one's own begin with a `_`.
    if request.end != "complete" {
        entry["_error"] = json!(request.weir_error.as_ref().unwrap_or(&request.end));
    }
    if let Some(status) = request.grpc_status {
        entry["_grpcStatus"] = json!(status);
    }
    entry
}

/// The absolute URI. Without a host it has the address that the client connected to.
fn url(request: &RequestRecord) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NOT_IN_A_URI).to_string();
    let path = encode(&request.path);
    if path.contains("://") {
        return path;
    }
    let host = request.authority.clone().unwrap_or_else(|| request.destination.to_string());
    // Of CONNECT and of `OPTIONS *` the target is not a path.
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("http://{}{slash}{path}", encode(&host))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::tests::{connection_record, request_record};

    /// A file in memory.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the schema of har-validator (ahmadnassri/har-schema, lib/) requires of each object, with
    /// the types of its values.
    const REQUIRED: [(&str, &str); 8] = [
        ("/log", "version:s creator:o entries:a"),
        ("/log/creator", "name:s version:s"),
        (
            "/log/entries/0",
            "startedDateTime:s time:n request:o response:o cache:o timings:o serverIPAddress:s connection:s",
        ),
        (
            "/log/entries/0/request",
            "method:s url:s httpVersion:s cookies:a headers:a queryString:a headersSize:n bodySize:n",
        ),
        ("/log/entries/0/request/headers/0", "name:s value:s"),
        (
            "/log/entries/0/response",
            "status:n statusText:s httpVersion:s cookies:a headers:a content:o redirectURL:s \
             headersSize:n bodySize:n",
        ),
        ("/log/entries/0/response/content", "size:n mimeType:s"),
        ("/log/entries/0/timings", "send:n wait:n receive:n"),
    ];

    fn written(records: &[Record]) -> Value {
        let memory = Memory::default();
        let file = HarFile::start(memory.clone()).unwrap();
        records.iter().for_each(|record| file.log().observe(record));
        let counts = file.finish().unwrap();
        let requests = records.iter().filter(|it| matches!(it, Record::Request(_))).count();
        assert_eq!(counts, HarCounts { entries: requests as u64, dropped: 0 });
        let text = memory.0.lock().unwrap().clone();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn the_file_is_what_the_schema_requires() {
        let request = RequestRecord { latency: Some(Duration::from_millis(3)), ..request_record() };
        let har = written(&[
            Record::Request(request.clone()),
            Record::Connection(connection_record()),
            Record::Request(RequestRecord { authority: None, status: None, ..request }),
        ]);
        for (place, fields) in REQUIRED {
            let object = har.pointer(place).unwrap_or_else(|| panic!("no {place}: {har}"));
            for field in fields.split_whitespace() {
                let (name, kind) = field.split_once(':').unwrap();
                let value = &object[name];
                let fits = match kind {
                    "s" => value.is_string(),
                    "n" => value.is_number(),
                    "a" => value.is_array(),
                    _ => value.is_object(),
                };
                assert!(fits, "{place} {name}: {value}");
            }
        }
        assert_eq!(har["log"]["entries"].as_array().unwrap().len(), 2);
        assert_eq!(har["log"]["entries"][1]["response"]["status"], 0);
        let empty = written(&[]);
        assert_eq!(empty["log"]["entries"], json!([]));
    }

    #[test]
    fn urls_are_absolute_and_have_nothing_that_a_uri_must_not_have() {
        let of = |authority: Option<&str>, path: &str| {
            let authority = authority.map(str::to_owned);
            let destination = "[fd00::1]:80".parse().unwrap();
            let path = path.to_owned();
            url(&RequestRecord { authority, path, destination, ..request_record() })
        };
        assert_eq!(of(Some("a.example"), "/b/c%20d"), "http://a.example/b/c%20d");
        assert_eq!(of(Some("a.example"), "/b c\"|é"), "http://a.example/b%20c%22%7C%C3%A9");
        assert_eq!(of(None, "/"), "http://[fd00::1]:80/");
        assert_eq!(of(Some("a.example"), "http://b.example/c"), "http://b.example/c");
        assert_eq!(of(Some("a.example"), "*"), "http://a.example/*");
    }

    /// A disk that is full.
    struct Full(bool);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The beginning still fits.
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_reported_at_the_end() {
        let file = HarFile::start(Full(false)).unwrap();
        for _ in 0..1000 {
            file.log().observe(&Record::Request(request_record()));
        }
        assert_eq!(file.finish().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
}

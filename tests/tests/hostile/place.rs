//! Where an attack happens, and what must hold during and after it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::engine::Engine;
use weir_tests::process::wait_until;
use weir_tests::site::PATIENCE;
use weir_tests::way::{Kind, Way};

/// What weir's own memory may grow by during one attack. A heap that has been used does not shrink
/// by the byte, so that all attacks of a place together have this too.
const GROWTH: u64 = 96 << 20;
/// Sockets that weir makes ahead come and go (`capture/netns/pool.rs`).
const SPARE: usize = 16;
/// A peer that is not read from, or whose reader is held back, is given up after this.
const BLOCKED: Duration = Duration::from_secs(2);

/// An attack's name, and what is done.
pub(crate) type Attack = (&'static str, fn(&Place) -> Result<()>);

/// A weir between a client and a server that are the test's.
pub(crate) struct Place {
    pub(crate) way: Way,
    memory: u64,
    descriptors: usize,
}

/// Runs every attack against both engines, each followed by a look at what is left, and lists those
/// that failed.
pub(crate) fn withstands(attacks: &[Attack]) -> Result<()> {
    let mut failed = Vec::new();
    for engine in Engine::ALL {
        let place = Place::new(engine)?;
        for (name, attack) in attacks {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                attack(&place)?;
                place.is_well()
            }));
            let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
            failed.extend(outcome.err().map(|error| format!("{engine}, {name}: {error:#}")));
        }
        place.way.close()?;
    }
    ensure!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

// === impl Place ===

impl Place {
    fn new(engine: Engine) -> Result<Self> {
        let way = Way::new(Kind::Outbound, engine)?;
        let mut place = Self { way, memory: 0, descriptors: 0 };
        place.serves()?;
        place.settles()?;
        place.memory = place.pss()?;
        place.descriptors = place.open_descriptors()?;
        Ok(place)
    }

    pub(crate) fn engine(&self) -> Engine {
        self.way.engine()
    }

    /// Another client's request is answered now.
    pub(crate) fn serves(&self) -> Result<()> {
        let server = self.way.listen()?;
        let wire = server.wire()?;
        wire.up("GET /other HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        wire.finish()?;
        server.recorded(1, "http1", &[200]).context("another client's request")
    }

    /// What weir uses is bounded.
    pub(crate) fn is_bounded(&self) -> Result<()> {
        let memory = self.pss()?;
        let most = self.memory + GROWTH;
        ensure!(memory < most, "{} KiB of memory, {} at first", memory >> 10, self.memory >> 10);
        Ok(())
    }

    /// A gauge or a counter of this name.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        Ok(self.way.metrics()?.sum(name, &[]))
    }

    fn is_well(&self) -> Result<()> {
        self.settles()?;
        self.is_bounded()?;
        self.serves()?;
        let open = || -> Result<bool> { Ok(self.open_descriptors()? <= self.descriptors + SPARE) };
        wait_until("the descriptors to come back", PATIENCE, open)
            .with_context(|| format!("{} descriptors at first", self.descriptors))
    }

    /// Nothing is open any more, as weir itself says.
    fn settles(&self) -> Result<()> {
        let gauges =
            ["tcp_open_connections", "weir_undecided_connections", "weir_http_requests_in_flight"];
        let mut open = Vec::new();
        wait_until("everything to be closed", PATIENCE * 2, || {
            let metrics = self.way.metrics()?;
            open = gauges.map(|name| (name, metrics.sum(name, &[]))).to_vec();
            Ok(open.iter().all(|(_, count)| *count == 0.0))
        })
        .with_context(|| format!("{open:?}"))
    }

    fn pid(&self) -> u32 {
        self.way.daemon().expect("a way with weir").process.pid()
    }

    /// Memory that is weir's own, and its share of what it has in common with others
    /// (proc_pid_smaps(5), `smaps_rollup`), in bytes. Fails once it is gone.
    fn pss(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no PSS")?;
        Ok(kib.parse::<u64>()? << 10)
    }

    fn open_descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

// === helpers ===

/// Writes until everything is written, the peer reads no more, or the connection has ended; returns
/// how much was taken.
pub(crate) fn pour(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    stream.set_write_timeout(Some(BLOCKED))?;
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Ok(written)
}

/// Reads on a thread of its own until the end, whatever that is; the last bytes that came, up to a
/// MiB.
pub(crate) fn sink(stream: &TcpStream) -> Result<JoinHandle<Vec<u8>>> {
    let mut stream = stream.try_clone()?;
    stream.set_read_timeout(None)?;
    Ok(thread::spawn(move || {
        let (mut last, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return last,
                Ok(count) => {
                    if last.len() > 1 << 20 {
                        last.drain(..1 << 19);
                    }
                    last.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return last,
            }
        }
    }))
}

//! What systemd is told of this process (sd_notify(3)): that it captures, reloads or stops, and that its
//! threads run. Without `NOTIFY_SOCKET` nothing is told.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// What a stop takes beyond the drain: records and spans that are written at the end.
const BEYOND: Duration = Duration::from_secs(15);

/// The supervisor of this process, if it has one. Cloning gives another handle to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Supervisor {
    socket: Option<Arc<UnixDatagram>>,
    /// How often it expects a sign of life at least.
    watchdog: Option<Duration>,
}

// === impl Supervisor ===

impl Supervisor {
    /// As the environment says. A socket that cannot be reached is reported in the log: systemd would wait
    /// for it in vain.
    pub(super) fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match connect(&path) {
            Ok(socket) => Self { socket: Some(Arc::new(socket)), watchdog },
            Err(error) => {
                tracing::warn!(
                    socket = %path.display(),
                    %error,
                    "cannot reach the supervisor (NOTIFY_SOCKET); it will not know that weir runs"
                );
                Self::default()
            }
        }
    }

    /// Captures, with what `status` says.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", status.replace('\n', " ")));
    }

    /// Reads its configuration again; [`Self::ready`] ends it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let now = now.unwrap_or_default().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}\n"));
    }

    /// Drains, for at most this long.
    pub(super) fn stopping(&self, deadline: Duration) {
        let limit = deadline.saturating_add(BEYOND).as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}\nSTATUS=draining\n"));
    }

    /// Sends signs of life for ever, each after a visit to the threads that serve connections. Ends at
    /// once where none are expected.
    pub(super) async fn watch<V: Future<Output = ()>>(self, visit: impl Fn() -> V) {
        let Some(limit) = self.watchdog else { return };
        // Half of it, as sd_watchdog_enabled(3) recommends.
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            ticks.tick().await;
            visit().await;
            self.send("WATCHDOG=1\n");
        }
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::warn!(%error, "cannot notify the supervisor");
        }
    }
}

// === helpers ===

/// A socket that does not wait for its reader.
fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(Path::new(path))?,
    }
    Ok(socket)
}

/// The limit of `WATCHDOG_USEC`, unless `WATCHDOG_PID` says that it is another process's.
fn watchdog(limit: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    let for_us = process.is_none_or(|pid| pid.parse() == Ok(own));
    let limit = limit?.parse().ok().filter(|limit| *limit > 0).map(Duration::from_micros);
    limit.filter(|_| for_us)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    fn pair(watchdog: Option<Duration>) -> (Supervisor, UnixDatagram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        reader.set_nonblocking(true).unwrap();
        let socket = connect(path.as_os_str()).unwrap();
        (Supervisor { socket: Some(Arc::new(socket)), watchdog }, reader)
    }

    fn next(reader: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 512];
        let length = reader.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[test]
    fn each_state_is_one_datagram() {
        let (supervisor, reader) = pair(None);
        supervisor.ready("captures a,\nb");
        assert_eq!(next(&reader).unwrap(), "READY=1\nSTATUS=captures a, b\n");
        supervisor.reloading();
        let reloading = next(&reader).unwrap();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0);
        supervisor.stopping(Duration::from_secs(30));
        let stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\nSTATUS=draining\n";
        assert_eq!(next(&reader).unwrap(), stopping);
        assert_eq!(next(&reader), None);
        // A reader that is gone is not an error of weir's.
        drop(reader);
        supervisor.ready("");
        Supervisor::default().ready("");
    }

    #[test]
    fn an_abstract_name_is_one_without_a_file() {
        let name = format!("weir-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let reader = UnixDatagram::bind_addr(&address).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        Supervisor { socket: Some(Arc::new(socket)), watchdog: None }.send("x");
        assert_eq!(next(&reader).unwrap(), "x");
        assert!(connect(OsStr::new("/nonexistent/notify")).is_err());
    }

    #[test]
    fn the_watchdog_is_the_one_of_this_process() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        for (limit, process) in
            [(Some("1000000"), Some("8")), (Some("0"), None), (Some("x"), None), (None, None)]
        {
            assert_eq!(watchdog(limit, process, 7), None, "{limit:?} {process:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_end_when_a_thread_is_not_passed() {
        let (supervisor, reader) = pair(Some(Duration::from_secs(10)));
        let hangs = Rc::new(Cell::new(false));
        let visit = || {
            let hangs = Rc::clone(&hangs);
            async move {
                if hangs.get() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let watch = supervisor.watch(visit);
        tokio::pin!(watch);
        let mut pass = async |time| {
            let _elapsed = tokio::time::timeout(Duration::from_secs(time), &mut watch).await;
            std::iter::from_fn(|| next(&reader)).filter(|it| it == "WATCHDOG=1\n").count()
        };
        assert_eq!(pass(21).await, 5);
        hangs.set(true);
        assert_eq!(pass(60).await, 0);
    }
}

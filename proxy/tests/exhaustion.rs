//! Accepting with no descriptors left, for real. The limit is the process's, so each test runs in a
//! process of its own: this binary again, with one test and a variable set. All that opens and
//! closes descriptors there runs on one thread, and so none takes the one that a test has just
//! given back, or lends one for a moment while a test takes all.

#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use nix::sys::resource::{Resource, setrlimit};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weir::accept::{Accept, AcceptOptions, Exhaustion, Slots, accept_loop};

const CHILD: &str = "WEIR_EXHAUSTION_CHILD";
/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(60);
const DESCRIPTORS: u64 = 64;

/// Runs a test in a process of its own, on a runtime, with few descriptors.
fn alone<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let child =
            Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let output = child.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LIMIT, test()).await.unwrap() });
}

/// A listener that counts how often it is asked.
struct Counted {
    listener: TcpListener,
    looks: Arc<AtomicU64>,
}

impl Accept for Counted {
    type Stream = tokio::net::TcpStream;
    type Address = SocketAddr;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>> {
        self.looks.fetch_add(1, SeqCst);
        Accept::poll_accept(&self.listener, cx)
    }

    fn is_waited_for(&self) -> bool {
        self.looks.fetch_add(1, SeqCst);
        self.listener.is_waited_for()
    }

    fn reset(stream: Self::Stream) {
        <TcpListener as Accept>::reset(stream);
    }
}

#[derive(Default)]
struct Counts {
    withdrawn: AtomicU64,
    offered: AtomicU64,
    errors: AtomicU64,
    shed: AtomicU64,
}

impl Slots for Counts {
    fn withdraw(&self) {
        self.withdrawn.fetch_add(1, SeqCst);
    }

    fn offer(&self) {
        self.offered.fetch_add(1, SeqCst);
    }

    fn exhausted(&self, error: &io::Error) {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        self.errors.fetch_add(1, SeqCst);
    }

    fn shed(&self, count: u64) {
        self.shed.fetch_add(count, SeqCst);
    }
}

/// A listener with its loop, which says `ok` to each connection and keeps it.
struct Server {
    address: SocketAddr,
    looks: Arc<AtomicU64>,
    counts: Arc<Counts>,
    exhaustion: Exhaustion,
    kept: Arc<Mutex<Vec<tokio::net::TcpStream>>>,
    stop: CancellationToken,
}

async fn server(room: u64) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        looks: Arc::default(),
        counts: Arc::default(),
        exhaustion: Exhaustion::new(),
        kept: Arc::default(),
        stop: CancellationToken::new(),
    };
    let listener = Counted { listener, looks: Arc::clone(&server.looks) };
    let (counts, kept) = (Arc::clone(&server.counts), Arc::clone(&server.kept));
    let options =
        AcceptOptions { room, exhaustion: server.exhaustion.clone(), ..AcceptOptions::captured() };
    let stop = server.stop.clone();
    std::mem::forget(server.exhaustion.register(Arc::<Counts>::clone(&counts)));
    tokio::spawn(async move {
        accept_loop(&listener, counts.as_ref(), &stop, options, |stream, _| {
            assert_eq!(stream.try_write(b"ok").unwrap(), 2);
            kept.lock().unwrap().push(stream);
        })
        .await;
    });
    server
}

/// Takes every descriptor that there is.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// What became of a connection: `ok`, or the error. Its descriptor is free afterwards, until the
/// caller waits for something else.
async fn outcome(client: TcpStream) -> io::Result<String> {
    client.set_nonblocking(true)?;
    let mut client = tokio::net::TcpStream::from_std(client)?;
    let mut text = [0; 2];
    client.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A connection whose own descriptor is not in the way: it takes the place of one of `files`.
fn connect(files: &mut Vec<File>, address: SocketAddr) -> TcpStream {
    files.pop();
    TcpStream::connect(address).unwrap()
}

#[test]
fn a_connection_made_during_exhaustion_is_served_afterwards() {
    alone("a_connection_made_during_exhaustion_is_served_afterwards", || async {
        let server = server(1).await;
        let first = TcpStream::connect(server.address).unwrap();
        assert_eq!(outcome(first).await.unwrap(), "ok");
        let mut files = take_all();
        let waiting = connect(&mut files, server.address);
        let counts = &server.counts;
        until(|| counts.errors.load(SeqCst) > 0).await;
        assert_eq!(counts.withdrawn.load(SeqCst), 1);
        let looks = server.looks.load(SeqCst);
        sleep(Duration::from_secs(2)).await;
        let looks = server.looks.load(SeqCst) - looks;
        // Two a turn, and turns after 50, 100, 200, 400, 800 ms.
        assert!((2..=16).contains(&looks), "{looks} looks in two seconds");
        drop(files);
        assert_eq!(outcome(waiting).await.unwrap(), "ok");
        until(|| !server.exhaustion.is_running()).await;
        let switched = (counts.withdrawn.load(SeqCst), counts.offered.load(SeqCst));
        assert_eq!((switched, counts.shed.load(SeqCst)), ((1, 1), 0));
        let after = TcpStream::connect(server.address).unwrap();
        assert_eq!(outcome(after).await.unwrap(), "ok");
    });
}

#[test]
fn who_waits_for_too_long_is_reset_and_the_loop_lives_on() {
    alone("who_waits_for_too_long_is_reset_and_the_loop_lives_on", || async {
        let server = server(1).await;
        let mut files = take_all();
        let waiting: Vec<_> = (0..3).map(|_| connect(&mut files, server.address)).collect();
        for client in waiting {
            let error = outcome(client).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            // What the client gave back must not be used to accept the next.
            files.extend(take_all());
        }
        let counts = &server.counts;
        assert_eq!(counts.shed.load(SeqCst), 3);
        assert_eq!((counts.withdrawn.load(SeqCst), counts.offered.load(SeqCst)), (1, 0));
        assert_eq!(server.kept.lock().unwrap().len(), 0);
        drop(files);
        until(|| counts.offered.load(SeqCst) == 1).await;
        let after = TcpStream::connect(server.address).unwrap();
        assert_eq!(outcome(after).await.unwrap(), "ok");
        assert_eq!(counts.withdrawn.load(SeqCst), 1);
    });
}

/// The dial failed: the listeners have not noticed anything yet.
#[test]
fn scarce_descriptors_are_left_to_the_connections_that_are_there() {
    alone("scarce_descriptors_are_left_to_the_connections_that_are_there", || async {
        let server = server(4).await;
        let mut files = take_all();
        let error = File::open("/dev/null").unwrap_err();
        assert!(server.exhaustion.report(&error));
        assert_eq!(server.counts.withdrawn.load(SeqCst), 1);
        let waiting = connect(&mut files, server.address);
        files.truncate(files.len() - 2);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(server.kept.lock().unwrap().len(), 0, "two are free, and four are wanted");
        assert_eq!(server.counts.errors.load(SeqCst), 0, "nothing has been tried");
        drop(files);
        assert_eq!(outcome(waiting).await.unwrap(), "ok");
        until(|| server.counts.offered.load(SeqCst) == 1).await;
    });
}

#[test]
fn the_stop_leaves_nobody_in_the_queue() {
    alone("the_stop_leaves_nobody_in_the_queue", || async {
        let server = server(1).await;
        let mut files = take_all();
        let mut waiting = connect(&mut files, server.address);
        until(|| server.counts.errors.load(SeqCst) > 0).await;
        server.stop.cancel();
        waiting.write_all(b"still there").unwrap();
        let error = outcome(waiting).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert_eq!(server.counts.shed.load(SeqCst), 1);
        // Counts are held by the loop too: it has ended when they are not any more.
        let counts = Arc::downgrade(&server.looks);
        until(|| counts.strong_count() == 1).await;
    });
}

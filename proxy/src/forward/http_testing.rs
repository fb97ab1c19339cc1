//! What the tests of both HTTP engines share: a proxied pair of loopback sockets, and a sink that
//! remembers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::http::{
    Exchange, ExchangeSink, HttpContext, HttpEnd, HttpLimits, HttpVersion, Limit, Side, Unpoolable,
    Untracked, serve,
};
use super::retries::Retry;
use crate::budget::Share;

/// A test that waits longer than this for a condition has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Recorder {
    /// Whom what engines keep is charged to.
    share: Option<Share>,
    seen: Mutex<(usize, Vec<Exchange>)>,
    downgrades: Mutex<Vec<Untracked>>,
    unpoolable: Mutex<Vec<Unpoolable>>,
    retries: Mutex<Vec<Retry>>,
    timeouts: Mutex<Vec<Limit>>,
    changed: Notify,
}

/// weir between a client's and an upstream's socket, both held by the test.
pub(super) struct Rig {
    pub(super) client: TcpStream,
    pub(super) upstream: TcpStream,
    pub(super) weir: JoinHandle<HttpEnd>,
    pub(super) sink: Arc<Recorder>,
    pub(super) drain: CancellationToken,
}

// === impl Recorder ===

impl ExchangeSink for Recorder {
    fn request_started(&self) {
        self.seen.lock().unwrap().0 += 1;
        self.changed.notify_waiters();
    }

    fn exchange(&self, exchange: Exchange) {
        self.seen.lock().unwrap().1.push(exchange);
        self.changed.notify_waiters();
    }

    fn downgraded(&self, untracked: Untracked) {
        self.downgrades.lock().unwrap().push(untracked);
    }

    fn unpoolable(&self, reason: Unpoolable) {
        self.unpoolable.lock().unwrap().push(reason);
    }

    fn retried(&self, retry: Retry) {
        self.retries.lock().unwrap().push(retry);
    }

    fn timed_out(&self, limit: Limit) {
        self.timeouts.lock().unwrap().push(limit);
    }

    fn share(&self) -> Option<Share> {
        self.share.clone()
    }
}

impl Recorder {
    /// Engines charge what they keep to this share.
    pub(super) fn charging(share: Option<Share>) -> Arc<Self> {
        Arc::new(Self { share, ..Self::default() })
    }

    /// The exchanges once there are `count`; all that were started must have been reported.
    pub(super) async fn exchanges(&self, count: usize) -> Vec<Exchange> {
        self.wait(|_, exchanges| exchanges.len() >= count).await;
        let seen = self.seen.lock().unwrap();
        assert_eq!((seen.0, seen.1.len()), (count, count), "{:?}", seen.1);
        seen.1.clone()
    }

    /// What the engine said of streams that it could not follow.
    pub(super) fn downgrades(&self) -> Vec<Untracked> {
        self.downgrades.lock().unwrap().clone()
    }

    /// Why the engine has given a connection an upstream connection of its own.
    pub(super) fn reasons(&self) -> Vec<Unpoolable> {
        self.unpoolable.lock().unwrap().clone()
    }

    /// What the engine said of requests that it was to send once more.
    pub(super) fn retries(&self) -> Vec<Retry> {
        self.retries.lock().unwrap().clone()
    }

    /// The time limits that have passed.
    pub(super) fn timeouts(&self) -> Vec<Limit> {
        self.timeouts.lock().unwrap().clone()
    }

    /// The exchanges reported so far.
    pub(super) fn so_far(&self) -> Vec<Exchange> {
        self.seen.lock().unwrap().1.clone()
    }

    /// Every request that was started has been reported.
    pub(super) fn is_settled(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.0 == seen.1.len()
    }

    pub(super) async fn settled(&self) {
        self.wait(|started, exchanges| started == exchanges.len()).await;
    }

    pub(super) async fn started(&self, count: usize) {
        self.wait(|started, _| started >= count).await;
    }

    async fn wait(&self, enough: impl Fn(usize, &[Exchange]) -> bool) {
        within(async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let seen = self.seen.lock().unwrap();
                    if enough(seen.0, &seen.1) {
                        return;
                    }
                }
                changed.await;
            }
        })
        .await;
    }
}

// === impl Rig ===

impl Rig {
    pub(super) async fn new(version: HttpVersion) -> Self {
        Self::with(version, HttpLimits::default()).await
    }

    pub(super) async fn with(version: HttpVersion, limits: HttpLimits) -> Self {
        let (client, weir_client) = pair().await;
        let (weir_upstream, upstream) = pair().await;
        let (weir_client, client_handle) = with_handle(weir_client);
        let (weir_upstream, upstream_handle) = with_handle(weir_upstream);
        let handles = Mutex::new((Some(client_handle), Some(upstream_handle)));
        let sink = Arc::new(Recorder::default());
        let mut context = HttpContext::new(Arc::clone(&sink) as Arc<dyn ExchangeSink>);
        context.limits = limits;
        context.on_abort = Some(Arc::new(move |side| {
            let mut handles = handles.lock().unwrap();
            let handle = match side {
                Side::Client => handles.0.take(),
                Side::Upstream => handles.1.take(),
            };
            handle.unwrap().set_linger(Some(Duration::ZERO)).unwrap();
        }));
        let drain = context.drain.clone();
        let weir = tokio::spawn(serve(version, weir_client, weir_upstream, context));
        Self { client, upstream, weir, sink, drain }
    }

    /// Checks that what the client says arrives as it is.
    pub(super) async fn say(&mut self, words: impl AsRef<[u8]>) {
        transfer(&mut self.client, &mut self.upstream, words.as_ref()).await;
    }

    /// Checks that what the upstream says arrives as it is.
    pub(super) async fn answer(&mut self, words: impl AsRef<[u8]>) {
        transfer(&mut self.upstream, &mut self.client, words.as_ref()).await;
    }

    pub(super) async fn end(self) -> HttpEnd {
        drop((self.client, self.upstream));
        within(self.weir).await.unwrap()
    }
}

// === helpers ===

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the condition did not come about")
}

pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    let (connected, (accepted, _)) = (connected.unwrap(), accepted.unwrap());
    connected.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (connected, accepted)
}

/// A second handle, through which the abort hook makes the close a reset.
fn with_handle(stream: TcpStream) -> (TcpStream, socket2::Socket) {
    let stream = stream.into_std().unwrap();
    let handle = socket2::Socket::from(stream.try_clone().unwrap());
    (TcpStream::from_std(stream).unwrap(), handle)
}

pub(super) async fn transfer(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    let send = async { from.write_all(words).await.unwrap() };
    let ((), ()) = within(async { tokio::join!(send, expect(to, words)) }).await;
}

/// Reads exactly `words`.
pub(super) async fn expect(stream: &mut TcpStream, words: &[u8]) {
    let mut seen = vec![0; words.len()];
    let mut at = 0;
    while at < words.len() {
        let read = within(stream.read(&mut seen[at..])).await.unwrap();
        let so_far = String::from_utf8_lossy(&seen[..at]);
        assert_ne!(read, 0, "closed after {so_far:?}, expected {}", String::from_utf8_lossy(words));
        at += read;
    }
    if seen != words {
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(words));
        panic!("bytes differ");
    }
}

/// Reads to an orderly end.
pub(super) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    within(stream.read_to_end(&mut seen)).await.unwrap();
    seen
}

/// Reads to a reset; returns what came before.
pub(super) async fn until_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    let error = within(stream.read_to_end(&mut seen)).await.expect_err("an orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    seen
}

/// Stops a paused clock altogether, until a test has waited for too long. By itself the runtime moves it
/// whenever it has nothing to do, also while bytes are on their way through a socket.
pub(super) fn hold_clock() {
    tokio::spawn(async {
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
    });
}

/// Time passes, and what it has woken runs.
pub(super) async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

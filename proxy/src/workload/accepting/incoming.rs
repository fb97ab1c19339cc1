//! A listener whose connections are served on another thread: they have no owner yet.
//!
//! Connections that are held are accepted by the dial that was made for them (`workload/holding.rs`), on
//! the thread that serves them. The event of their listener wakes the accept loop's thread meanwhile:
//! what it would accept first, it would have to hand over. So while dials accept, the loop leaves the
//! listener to them, and looks every few milliseconds for what else has come.

use std::{
    future::Future as _,
    io, mem,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Sleep, sleep},
};

use super::accept;
use crate::{
    accept::{Accept, is_readable},
    capture::Listening,
    sync::lock,
};

/// How often a listener is looked at that is not watched: what its dials do not accept waits as long. It
/// has been sent again, or comes from a client that has found the listener by itself.
const LOOK: Duration = Duration::from_millis(10);

/// What dials accept from a workload's listeners.
#[derive(Default)]
pub(in crate::workload) struct Elsewhere {
    /// Dials that are at it.
    accepting: AtomicU32,
    /// That have been since the last look.
    accepted: AtomicU32,
    /// That have found nothing: their connections are the accept loop's, as soon as they come.
    waiting: AtomicU32,
    accept_loop: AtomicWaker,
}

/// A dial that accepts.
pub(in crate::workload) struct Accepting<'a> {
    elsewhere: &'a Elsewhere,
    waits: bool,
}

/// See the [module](self).
pub(in crate::workload) struct Incoming {
    watch: Mutex<Watch>,
    pub(super) is_outbound: bool,
    elsewhere: Arc<Elsewhere>,
}

enum Watch {
    /// By the runtime.
    On(AsyncFd<TcpListener>),
    /// From time to time: the next time.
    Off(TcpListener, Pin<Box<Sleep>>),
    /// Between the two.
    Turning,
}

// === impl Incoming ===

impl Incoming {
    pub(in crate::workload) fn new(
        Listening { socket, is_outbound }: Listening,
        elsewhere: Arc<Elsewhere>,
    ) -> io::Result<Self> {
        let listener = watched(socket).map_err(|(_, error)| error)?;
        let watch = Mutex::new(Watch::On(listener));
        Ok(Self { watch, is_outbound, elsewhere })
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

impl Accept for Incoming {
    type Stream = TcpStream;
    type Address = SocketAddr;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>> {
        self.watch().poll_accept(cx, &self.elsewhere)
    }

    fn is_waited_for(&self) -> bool {
        match &*self.watch() {
            Watch::On(listener) => is_readable(listener.get_ref()),
            Watch::Off(listener, _) => is_readable(listener),
            Watch::Turning => false,
        }
    }

    /// The listener's connections are armed (`capture/listener.rs`): a close is a reset.
    fn reset(stream: TcpStream) {
        drop(stream);
    }

    /// A reset leaves a socket that has no peer any more: `inet_getname` in net/ipv4/af_inet.c.
    fn is_dead(stream: &TcpStream) -> bool {
        stream.peer_addr().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
    }
}

// === impl Elsewhere ===

impl Elsewhere {
    /// A dial begins to accept.
    pub(in crate::workload) fn begin(&self) -> Accepting<'_> {
        self.accepting.fetch_add(1, AcqRel);
        Accepting { elsewhere: self, waits: false }
    }

    /// Whether the listener is to be left to dials: they accept, or have since the last time.
    fn take(&self) -> bool {
        let were_there = self.accepted.swap(0, AcqRel) > 0;
        !self.is_waited() && (were_there || self.accepting.load(Acquire) > 0)
    }

    fn is_waited(&self) -> bool {
        self.waiting.load(Acquire) > 0
    }
}

// === impl Accepting ===

impl Accepting<'_> {
    /// Its connection was not there: it waits for the accept loop.
    pub(in crate::workload) fn waits(&mut self) {
        self.waits = true;
        self.elsewhere.waiting.fetch_add(1, AcqRel);
        self.elsewhere.accepting.fetch_sub(1, AcqRel);
        self.elsewhere.accept_loop.wake();
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        if self.waits {
            self.elsewhere.waiting.fetch_sub(1, AcqRel);
        } else {
            self.elsewhere.accepted.fetch_add(1, AcqRel);
            self.elsewhere.accepting.fetch_sub(1, AcqRel);
        }
    }
}

// === impl Watch ===

impl Watch {
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        elsewhere: &Elsewhere,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            match self {
                Self::On(listener) => {
                    let mut ready = ready!(listener.poll_read_ready(cx))?;
                    if elsewhere.take() {
                        drop(ready);
                        self.turn_off();
                        continue;
                    }
                    if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                        return Poll::Ready(accepted);
                    }
                }
                Self::Off(listener, look) => {
                    elsewhere.accept_loop.register(cx.waker());
                    if elsewhere.is_waited() {
                        self.turn_on();
                        continue;
                    }
                    ready!(look.as_mut().poll(cx));
                    match accept(listener) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        accepted => return Poll::Ready(accepted),
                    }
                    if elsewhere.take() {
                        *look = Box::pin(sleep(LOOK));
                    } else {
                        self.turn_on();
                    }
                }
                Self::Turning => return Poll::Pending,
            }
        }
    }

    fn turn_off(&mut self) {
        if let Self::On(listener) = mem::replace(self, Self::Turning) {
            *self = Self::Off(listener.into_inner(), Box::pin(sleep(LOOK)));
        }
    }

    fn turn_on(&mut self) {
        if let Self::Off(listener, _) = mem::replace(self, Self::Turning) {
            *self = match watched(listener) {
                Ok(listener) => Self::On(listener),
                // epoll_ctl(2) lacks memory.
                Err((listener, _)) => Self::Off(listener, Box::pin(sleep(LOOK))),
            };
        }
    }
}

// === helpers ===

/// Registered with the runtime; at once ready if a connection is in its queue.
fn watched(listener: TcpListener) -> Result<AsyncFd<TcpListener>, (TcpListener, io::Error)> {
    // SAFETY: a TcpListener owns its descriptor, and gives the same one until it is dropped.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }
        .map_err(|error| error.into_parts())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn listening() -> (Incoming, TcpListener) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let same = socket.try_clone().unwrap();
        let listening = Listening { socket, is_outbound: true };
        (Incoming::new(listening, Arc::default()).unwrap(), same)
    }

    fn is_off(incoming: &Incoming) -> bool {
        matches!(&*incoming.watch(), Watch::Off(..))
    }

    fn connect(listener: &TcpListener) -> TcpStream {
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    async fn accepted(incoming: &Incoming) -> SocketAddr {
        poll_fn(|cx| incoming.poll_accept(cx)).await.unwrap().1
    }

    #[tokio::test]
    async fn what_a_dial_accepts_is_left_to_it_and_what_else_has_come_is_found() {
        let (incoming, listener) = listening();
        let client = connect(&listener);
        assert_eq!(accepted(&incoming).await, client.local_addr().unwrap());
        assert!(!is_off(&incoming));

        let dial = incoming.elsewhere.begin();
        let by_dial = connect(&listener);
        let look = tokio::time::timeout(LOOK / 2, poll_fn(|cx| incoming.poll_accept(cx))).await;
        assert!(look.is_err() && is_off(&incoming), "it is the dial's");
        assert_eq!(listener.accept().unwrap().1, by_dial.local_addr().unwrap());
        // Its connection has not come yet.
        let mut late = incoming.elsewhere.begin();
        late.waits();
        let client = connect(&listener);
        assert_eq!(accepted(&incoming).await, client.local_addr().unwrap());
        assert!(!is_off(&incoming), "what a dial waits for is accepted at once");
        drop((dial, late));
        let client = connect(&listener);
        assert_eq!(accepted(&incoming).await, client.local_addr().unwrap());
        // Without dials it is watched again.
        let never = poll_fn(|cx| incoming.poll_accept(cx));
        assert!(tokio::time::timeout(10 * LOOK, never).await.is_err());
        assert!(!is_off(&incoming));
        let client = connect(&listener);
        assert_eq!(accepted(&incoming).await, client.local_addr().unwrap());
    }
}

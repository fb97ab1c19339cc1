//! The one accept loop of weir: captured connections, the control socket and the admin port are
//! accepted by the same code, so that running out of descriptors does the same to each. It never
//! spins, never gives a listener up, and leaves no client waiting for ever.
//!
//! It is fair: every listener has a loop of its own, and a loop that has accepted a few connections in
//! a row lets the others run. What a workload's budget has no room for stays in the kernel's queue of
//! that workload's listener, where it is in no other's way.
//!
//! accept(2) takes the new descriptor before it looks at the queue (`__sys_accept4` in
//! net/socket.c): a connection that could not be accepted stays in the queue, and EMFILE comes for
//! an empty queue too.

mod admission;
mod descriptors;
mod exhaustion;
mod flood;

use std::{
    future::poll_fn,
    io,
    os::fd::AsFd,
    task::{Context, Poll, Waker},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::admission::Admission;
use self::flood::Flood;
use crate::budget::{Budgets, Resource, is_exhaustion};
pub use exhaustion::{Episode, Exhaustion, NoSlots, Registered, Slots};

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest: what a connection in the queue waits at most after descriptors have come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Connections that have waited this long for a descriptor are reset. A direct connection to an
/// overloaded server hangs as well, but its client can try elsewhere when it is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// While descriptors are scarce one connection is accepted at a time, so that each has taken the
/// others that it needs before room for the next is looked for.
const PACE: Duration = Duration::from_millis(1);
/// Connections accepted in a row, after which the other loops run.
const BATCH: u32 = 16;
/// While a workload has as many connections being dialled as it may, a batch more is accepted this
/// often: where no upstream answers, dialling ends only after minutes.
const OVERFLOW: Duration = Duration::from_millis(10);
/// Errors of connections in a row that are taken for one that does not go away.
const ERRORS_IN_A_ROW: u32 = 64;
/// Lingering ends after this time even if connections keep coming. Longer than [`PATIENCE`], so
/// that no connection is left in the queue.
const LONGEST_LINGER: Duration = Duration::from_secs(10);

/// What the loop accepts from.
pub trait Accept: Send + Sync {
    /// An accepted connection.
    type Stream: Send;
    /// Who connected.
    type Address: Send;

    /// Takes a connection out of the queue, or has the task woken when there is one.
    ///
    /// # Errors
    /// As accept(2).
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>>;

    /// Whether there is a connection in the queue; takes no descriptor.
    fn is_waited_for(&self) -> bool;

    /// Closes a connection so that its client sees an error.
    fn reset(stream: Self::Stream);

    /// Whether the connection has ended already, by a reset that came while it was in the queue.
    fn is_dead(_: &Self::Stream) -> bool {
        false
    }
}

/// Settings of a loop.
#[derive(Clone, Debug)]
pub struct AcceptOptions {
    /// After the stop the loop goes on until no connection has come for this long. Zero returns at
    /// once.
    pub linger: Duration,
    /// While descriptors are scarce: how many must be free for a connection to be accepted.
    pub room: u64,
    /// What all loops of the process share.
    pub exhaustion: Exhaustion,
}

/// A listener being accepted from.
pub struct Acceptor<'a, L> {
    listener: &'a L,
    slots: &'a dyn Slots,
    stop: &'a CancellationToken,
    options: AcceptOptions,
    trouble: Option<Trouble>,
    errors_in_a_row: u32,
    /// Since the other loops ran.
    in_a_row: u32,
    admission: Admission,
    /// Set when the stop has been seen: when lingering ends in any case.
    end: Option<Instant>,
}

/// Connections can't be accepted.
#[derive(Clone, Copy)]
struct Trouble {
    /// Since when a client has been waiting in vain for descriptors.
    since: Instant,
    /// The next pause.
    pause: Duration,
}

/// What a look at the listener gave.
enum Look<L: Accept> {
    /// What accept(2) said.
    Accepted(io::Result<(L::Stream, L::Address)>),
    /// A client waits, but there would be no descriptors to serve them with, or the workload has as
    /// many connections as it may.
    NoRoom,
    /// A client waits, but too many connections before it are still being dialled.
    Full,
}

/// Hands connections to `on_connection` until `stop` is cancelled and `options.linger` is over. The
/// caller closes the listener.
///
/// Exhaustion is counted with `slots.exhausted`, connections that had to be reset with
/// `slots.shed`; withdrawing and offering is [`Exhaustion`]'s, which `slots` are registered with.
pub async fn accept_loop<L: Accept>(
    listener: &L,
    slots: &dyn Slots,
    stop: &CancellationToken,
    options: AcceptOptions,
    mut on_connection: impl FnMut(L::Stream, L::Address),
) {
    let mut acceptor = Acceptor::new(listener, slots, stop, options);
    while let Some((stream, address)) = acceptor.next().await {
        on_connection(stream, address);
    }
}

// === impl AcceptOptions ===

impl AcceptOptions {
    /// For listeners of captured connections.
    #[must_use]
    pub fn captured() -> Self {
        Self {
            // A connect(2) that has read the slot just before it was emptied is still coming.
            linger: Duration::from_millis(100),
            // A connection takes two, and others are on their way.
            room: 8,
            exhaustion: Exhaustion::process(),
        }
    }

    /// For the control socket and the admin port: they take the last descriptor, so that one can
    /// see what is the matter.
    #[must_use]
    pub fn admin() -> Self {
        Self { linger: Duration::ZERO, room: 1, exhaustion: Exhaustion::process() }
    }
}

// === impl Acceptor ===

impl<'a, L: Accept> Acceptor<'a, L> {
    /// Accepts from `listener`. See [`accept_loop`].
    pub fn new(
        listener: &'a L,
        slots: &'a dyn Slots,
        stop: &'a CancellationToken,
        options: AcceptOptions,
    ) -> Self {
        Self {
            listener,
            slots,
            stop,
            options,
            trouble: None,
            errors_in_a_row: 0,
            in_a_row: 0,
            admission: Admission::default(),
            end: None,
        }
    }

    /// The next connection; `None` after the stop. Cancelling it loses none.
    pub async fn next(&mut self) -> Option<(L::Stream, L::Address)> {
        loop {
            if self.is_over() {
                return None;
            }
            if self.options.exhaustion.is_running() {
                sleep(PACE).await;
            }
            if self.in_a_row >= BATCH {
                self.in_a_row = 0;
                yield_now().await;
            }
            let (stop, linger) = (self.stop, self.options.linger);
            let look = tokio::select! {
                biased;
                look = poll_fn(|cx| self.poll_look(cx)) => look,
                () = async { stop.cancelled().await; sleep(linger).await } => return None,
            };
            match look {
                Look::Accepted(Ok((stream, address))) => {
                    self.trouble = None;
                    self.errors_in_a_row = 0;
                    self.in_a_row += 1;
                    let dead = L::is_dead(&stream);
                    self.admission.took(self.slots, dead);
                    if !dead {
                        return Some((stream, address));
                    }
                    L::reset(stream);
                }
                Look::Accepted(Err(error)) => self.failed(&error).await,
                Look::NoRoom => self.back_off(true).await,
                Look::Full => self.wait_for_dialled().await,
            }
        }
    }

    fn is_over(&mut self) -> bool {
        if !self.stop.is_cancelled() {
            return false;
        }
        let now = Instant::now();
        let end = *self.end.get_or_insert(now + LONGEST_LINGER);
        self.options.linger.is_zero() || now >= end
    }

    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Look<L>> {
        if self.options.exhaustion.is_running()
            && descriptors::free() < self.options.room
            && self.listener.is_waited_for()
        {
            return Poll::Ready(Look::NoRoom);
        }
        if let Some(refused) = self.look_at_budget() {
            return Poll::Ready(refused);
        }
        let accepted = self.listener.poll_accept(cx);
        if accepted.is_pending() {
            // A descriptor was to be had, or no client is waiting.
            self.trouble = None;
            self.in_a_row = 0;
        }
        accepted.map(Look::Accepted)
    }

    /// Why a connection in the queue has to wait, if it has.
    fn look_at_budget(&self) -> Option<Look<L>> {
        let share = self.slots.share()?;
        Admission::look(self.slots, share);
        if !share.has_room() {
            return self.listener.is_waited_for().then_some(Look::NoRoom);
        }
        // After the stop the listener is about to close: better dialled late than never.
        let dialling = self.admission.is_full(share)
            && !self.stop.is_cancelled()
            && self.listener.is_waited_for();
        dialling.then(|| {
            share.exceeded(Resource::Dialling);
            Look::Full
        })
    }

    async fn wait_for_dialled(&mut self) {
        if let Some(share) = self.slots.share() {
            self.admission.wait(share, self.stop).await;
        }
    }

    async fn failed(&mut self, error: &io::Error) {
        if is_exhaustion(error) {
            self.slots.exhausted(error);
            self.options.exhaustion.report(error);
            return self.back_off(true).await;
        }
        if is_of_connection(error) {
            self.errors_in_a_row += 1;
            if self.errors_in_a_row < ERRORS_IN_A_ROW {
                return;
            }
        }
        if self.trouble.is_none() {
            tracing::error!(%error, "accept(2) failed; retrying");
        }
        self.back_off(false).await;
    }

    /// Resets who has waited for too long, if descriptors are what is lacking, and pauses.
    async fn back_off(&mut self, scarce: bool) {
        let now = Instant::now();
        let mut trouble = self.trouble.unwrap_or(Trouble { since: now, pause: FIRST_PAUSE });
        if !scarce || !self.listener.is_waited_for() {
            trouble.since = now;
        }
        let mut pause = trouble.pause;
        trouble.pause = (pause * 2).min(LONGEST_PAUSE);
        self.trouble = Some(trouble);
        if now.duration_since(trouble.since) >= PATIENCE && self.shed() > 0 {
            // There may be more of them than one turn of the runtime allows to be accepted.
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = self.stop.cancelled(), if !self.stop.is_cancelled() => {}
        }
    }

    /// Resets who is in the queue, with the reserved descriptor.
    fn shed(&mut self) -> u64 {
        let mut count = 0;
        self.options.exhaustion.with_reserve(|| {
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Ok((stream, _))) = self.listener.poll_accept(&mut cx) {
                L::reset(stream);
                count += 1;
            }
        });
        if count > 0 {
            tracing::warn!(count, "connections reset: no file descriptors left");
            self.slots.shed(count);
        }
        count
    }
}

impl<L> std::fmt::Debug for Acceptor<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("options", &self.options).finish_non_exhaustive()
    }
}

// === impl Accept ===

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Address = std::net::SocketAddr;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>> {
        Self::poll_accept(self, cx)
    }

    fn is_waited_for(&self) -> bool {
        is_readable(self)
    }

    fn reset(stream: TcpStream) {
        crate::forward::tcp::reset(stream);
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    type Address = tokio::net::unix::SocketAddr;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>> {
        Self::poll_accept(self, cx)
    }

    fn is_waited_for(&self) -> bool {
        is_readable(self)
    }

    /// A close is all there is; a client that has written gets `ECONNRESET` (unix(7)).
    fn reset(stream: UnixStream) {
        drop(stream);
    }
}

// === helpers ===

/// Tells the budgets how many descriptors there are for connections: what is not in use for
/// anything else, but for a reserve.
pub(crate) fn measure(budgets: &Budgets) {
    if let Some(count) = descriptors::for_connections(budgets.used(Resource::Descriptors)) {
        budgets.set_descriptors(count);
    }
}

/// poll(2): a listener is readable while there is a connection in its queue.
pub(crate) fn is_readable(listener: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Whether the error is a connection's that has come and gone, or was refused by a filter
/// (accept(2), "Error handling"): the next one may be well.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
        )
    )
}

#[cfg(test)]
mod tests;

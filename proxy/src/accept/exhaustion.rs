//! What the whole process does when it runs out of descriptors or of memory for sockets: new
//! connections go direct, in the kernel, until there is room again.
//!
//! The time from the first failure until connections are captured again is an episode. However many
//! loops and dials fail in it, slots are withdrawn once and offered once. Where the process's own
//! descriptors are lacking, those go first that have the most of them, and the next only if it goes
//! on failing: a workload with few is not cut off by others. It ends when descriptors
//! are free ([`descriptors::headroom`]) and nothing has failed for a while: a second, and twice as
//! long for each episode that follows another within a minute, so that a process that lives at its
//! limit does not switch to and fro all the time.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{FIRST_PAUSE, LONGEST_PAUSE, descriptors};
use crate::{
    budget::{Share, is_exhaustion},
    sync::lock,
};

/// How long nothing may have failed at the end of an episode.
const CALM: Duration = Duration::from_secs(1);
/// The same after many episodes in a row.
const LONGEST_CALM: Duration = Duration::from_secs(32);
/// An episode that begins sooner than this after the last one belongs to the same trouble.
const IN_A_ROW: Duration = Duration::from_secs(60);

/// How long failures must have gone on before the next slots are withdrawn.
const WIDEN: Duration = Duration::from_millis(200);

/// What has to be withdrawn while the process is exhausted: the kernel's way to a workload's
/// listeners. Also counts what an accept loop reports.
///
/// Called with a lock held: must not call [`Exhaustion`].
pub trait Slots: Send + Sync {
    /// New connections are to go direct from now on.
    fn withdraw(&self) {}
    /// New connections are welcome again.
    fn offer(&self) {}
    /// Descriptors of the connections that came through them.
    fn held(&self) -> u64 {
        0
    }
    /// The budget that their connections are taken from.
    fn share(&self) -> Option<&Share> {
        None
    }
    /// Hardly anything of the budget is left: new connections are to go direct until there is. Called
    /// again and again.
    fn crowded(&self) {}
    /// Most connections have ended before they were accepted, and they are many. Called again and
    /// again.
    fn flooded(&self) {}
    /// A connection had ended before it was accepted.
    fn dead(&self) {}
    /// An accept failed for want of descriptors or memory.
    fn exhausted(&self, error: &io::Error);
    /// Connections were reset because there was no descriptor for them for too long.
    fn shed(&self, count: u64);
}

/// For listeners that nothing leads to in the kernel, and where nothing counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSlots;

/// Whether the process is exhausted, and who has to know. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Exhaustion {
    inner: Arc<Inner>,
}

/// Takes slots out again when dropped; after that they are neither withdrawn nor offered any more.
#[must_use = "dropping it takes the slots out at once"]
pub struct Registered {
    inner: Weak<Inner>,
    id: u64,
}

/// The time in which new connections go direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When it began.
    pub since: Instant,
    /// The `errno` that began it.
    pub errno: i32,
}

struct Inner {
    /// Whether there is an episode, for those who ask often.
    running: AtomicBool,
    state: Mutex<State>,
    /// Kept open to be closed when a connection must be accepted only to be reset.
    reserve: Mutex<Option<OwnedFd>>,
}

struct State {
    slots: Vec<Member>,
    next_id: u64,
    running: Option<Running>,
    /// How long it must be calm at the end of this episode, or of the last.
    calm: Duration,
    ended: Option<Instant>,
    episodes: u64,
}

struct Member {
    id: u64,
    slots: Arc<dyn Slots>,
    withdrawn: bool,
}

struct Running {
    episode: Episode,
    /// When slots were withdrawn last.
    widened: Instant,
    /// When something failed last.
    failed: Instant,
    watch: JoinHandle<()>,
}

// === impl Slots ===

impl Slots for NoSlots {
    fn exhausted(&self, _: &io::Error) {}
    fn shed(&self, _: u64) {}
}

// === impl Exhaustion ===

impl Exhaustion {
    /// A state of its own, for tests. weir has one for the process.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            slots: Vec::new(),
            next_id: 0,
            running: None,
            calm: CALM,
            ended: None,
            episodes: 0,
        };
        let inner = Inner {
            running: AtomicBool::new(false),
            state: Mutex::new(state),
            reserve: Mutex::new(a_socket().ok()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The process's: its descriptors are one table for all users.
    #[must_use]
    pub fn process() -> Self {
        static PROCESS: OnceLock<Exhaustion> = OnceLock::new();
        PROCESS.get_or_init(Self::new).clone()
    }

    /// Has `slots` withdrawn and offered in every episode from now on, and withdrawn at once if
    /// there is one that all are in: call it when they have been offered. Drop the result before
    /// withdrawing them for good.
    pub fn register(&self, slots: Arc<dyn Slots>) -> Registered {
        let mut state = self.inner.lock();
        let withdrawn = state.running.as_ref().is_some_and(|it| !it.episode.is_own());
        if withdrawn {
            slots.withdraw();
        }
        let id = state.next_id;
        state.next_id += 1;
        state.slots.push(Member { id, slots, withdrawn });
        Registered { inner: Arc::downgrade(&self.inner), id }
    }

    /// Takes notice of a failed accept(2), socket(2) or connect(2). True if it failed for want of
    /// descriptors or memory; then new connections go direct from now on. Only on a runtime: on
    /// another thread nothing would end the episode, so none begins.
    pub fn report(&self, error: &io::Error) -> bool {
        if !is_exhaustion(error) {
            return false;
        }
        match Handle::try_current() {
            Ok(runtime) => self.inner.failed(error, &runtime),
            Err(_) => tracing::warn!(%error, "exhausted, on a thread without a runtime"),
        }
        true
    }

    /// Whether there is an episode. Cheap.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.inner.running.load(Ordering::Relaxed)
    }

    /// The episode, if there is one.
    #[must_use]
    pub fn episode(&self) -> Option<Episode> {
        self.inner.lock().running.as_ref().map(|running| running.episode)
    }

    /// How many there were.
    #[must_use]
    pub fn episodes(&self) -> u64 {
        self.inner.lock().episodes
    }

    /// Does something that takes a descriptor, and gives it back, with the reserved one.
    pub(super) fn with_reserve(&self, act: impl FnOnce()) {
        let mut reserve = lock(&self.inner.reserve);
        drop(reserve.take());
        act();
        // Where another thread has been faster, the watch gets it back.
        *reserve = a_socket().ok();
    }
}

impl Default for Exhaustion {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Exhaustion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exhaustion").field("episode", &self.episode()).finish_non_exhaustive()
    }
}

// === impl Registered ===

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().slots.retain(|member| member.id != self.id);
        }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Episode ===

impl Episode {
    /// Whether it is this process that has too many descriptors, and not the machine.
    const fn is_own(&self) -> bool {
        self.errno == libc::EMFILE
    }
}

// === impl State ===

impl State {
    /// Withdraws the slots whose connections have the most descriptors, and those that come close.
    fn withdraw_largest(&mut self) {
        let there = || self.slots.iter().filter(|member| !member.withdrawn);
        let Some(most) = there().map(|member| member.slots.held()).max() else { return };
        let large = |member: &&mut Member| member.slots.held().saturating_mul(2) >= most;
        self.slots
            .iter_mut()
            .filter(|member| !member.withdrawn)
            .filter(large)
            .for_each(Member::withdraw);
    }
}

// === impl Member ===

impl Member {
    fn withdraw(&mut self) {
        self.withdrawn = true;
        self.slots.withdraw();
    }

    fn offer(&mut self) {
        if std::mem::take(&mut self.withdrawn) {
            self.slots.offer();
        }
    }
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn failed(self: &Arc<Self>, error: &io::Error, runtime: &Handle) {
        let now = Instant::now();
        let watch = || runtime.spawn(watch(Arc::downgrade(self)));
        let mut state = self.lock();
        if let Some(running) = &mut state.running {
            running.failed = now;
            let widen = now.duration_since(running.widened) >= WIDEN;
            if widen {
                running.widened = now;
            }
            if running.watch.is_finished() {
                // Its runtime is gone.
                running.watch = watch();
            }
            if widen {
                state.withdraw_largest();
            }
            return;
        }
        tracing::warn!(
            %error,
            "out of file descriptors or memory: new connections go direct; raise the limit on open \
             files (LimitNOFILE= in a systemd unit, ulimit -n in a shell)"
        );
        let in_a_row = state.ended.is_some_and(|ended| now.duration_since(ended) < IN_A_ROW);
        state.calm = if in_a_row { (state.calm * 2).min(LONGEST_CALM) } else { CALM };
        state.episodes += 1;
        let episode = Episode { since: now, errno: error.raw_os_error().unwrap_or_default() };
        let running = Running { episode, widened: now, failed: now, watch: watch() };
        state.running = Some(running);
        self.running.store(true, Ordering::Relaxed);
        if episode.is_own() {
            state.withdraw_largest();
        } else {
            state.slots.iter_mut().for_each(Member::withdraw);
        }
    }

    /// Ends the episode if it is over.
    fn look(&self) -> bool {
        let free = self.has_headroom();
        let mut state = self.lock();
        let calm = state.calm;
        let Some(running) = &mut state.running else { return true };
        if !free {
            running.failed = Instant::now();
        }
        if running.failed.elapsed() < calm {
            return false;
        }
        let lasted = running.episode.since.elapsed();
        state.running = None;
        state.ended = Some(Instant::now());
        self.running.store(false, Ordering::Relaxed);
        state.slots.iter_mut().for_each(Member::offer);
        tracing::info!(?lasted, "file descriptors and memory are available again: capturing");
        true
    }

    fn has_headroom(&self) -> bool {
        let mut reserve = lock(&self.reserve);
        if reserve.is_none() {
            *reserve = a_socket().ok();
        }
        // A socket more: not only descriptors can be what there is too little of.
        reserve.is_some() && a_socket().is_ok() && descriptors::free() >= descriptors::headroom()
    }
}

/// Looks for the end of an episode.
async fn watch(inner: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(inner) = inner.upgrade() else { return };
        if inner.look() {
            return;
        }
    }
}

// === helpers ===

/// The cheapest descriptor that takes what a socket takes.
fn a_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

//! What one workload may take of what all workloads of the process share. A user that takes
//! something on a workload's behalf asks its [`Share`] first; what to do where it says no is the
//! caller's business: new connections go direct, messages are not followed, rows are summed up.
//!
//! There are two rules. Of some resources every workload has a number of its own. The others are
//! one pot, and a workload may take a part of what the *others* leave in it: there is always
//! something left for the next one, however many there are, and workloads need not be counted. The
//! rule is the dynamic threshold of shared packet buffers (Choudhury and Hahne, 1998).

mod charge;
mod memory;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::sync::lock;
pub(crate) use charge::Charge;
pub(crate) use memory::usual_memory;

/// Records that wait to be written. At about 400 bytes each they take a few MiB.
pub(crate) const RECORDS: usize = 8192;

/// Spans that wait to be exported. At about 300 bytes each they take less than a MiB.
pub(crate) const SPANS: usize = 2048;

/// What is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Proxied connections.
    Connections,
    /// Accepted connections whose upstream connection is not established yet.
    Dialling,
    /// Descriptors of the process; a connection takes [`PER_CONNECTION`].
    Descriptors,
    /// Bytes kept of what peers have sent: words of requests, header tables, pieces of heads, large
    /// copy buffers.
    Memory,
    /// Rows of `weir stat`.
    Rows,
    /// Access records that wait to be written; one with long words counts as several.
    Records,
    /// The same of spans that wait to be exported.
    Spans,
}

/// Descriptors of a proxied connection: the client's and the upstream's.
pub(crate) const PER_CONNECTION: u64 = 2;

/// Rows that a workload may have even if the others have left none.
const LEAST_ROWS: u64 = 16;

/// How much there is of each resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of each workload.
    pub connections: u64,
    /// Of each workload.
    pub dialling: u64,
    /// Of the process, in bytes.
    pub memory: u64,
    /// Of the process.
    pub rows: u64,
}

/// The budgets of a process. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Budgets {
    process: Arc<Process>,
}

/// The budget of a workload. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Share {
    inner: Arc<Inner>,
}

/// Something that was taken; dropping it gives it back.
#[must_use = "dropping it gives back what was taken"]
#[derive(Debug)]
pub struct Taken {
    share: Share,
    resource: Resource,
    count: u64,
}

/// One resource of one workload at one moment, as `weir status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The resource.
    pub budget: String,
    /// What the workload has of it.
    pub used: u64,
    /// What it may have now. Of a resource that is one pot, it changes with what the others have.
    pub limit: u64,
    /// How often it was refused more.
    pub exceeded: u64,
}

struct Process {
    pots: [Pot; Resource::ALL.len()],
    shares: Mutex<HashMap<Arc<str>, Weak<Inner>>>,
}

/// What there is of a resource, and what all workloads have of it.
#[derive(Debug)]
struct Pot {
    size: AtomicU64,
    used: AtomicU64,
}

struct Inner {
    process: Arc<Process>,
    uses: [Use; Resource::ALL.len()],
    /// An accept loop waits for connections to be dialled.
    waiting: AtomicBool,
    dialled: Notify,
}

#[derive(Debug, Default)]
struct Use {
    used: AtomicU64,
    exceeded: AtomicU64,
}

// === impl Resource ===

impl Resource {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Connections,
        Self::Dialling,
        Self::Descriptors,
        Self::Memory,
        Self::Rows,
        Self::Records,
        Self::Spans,
    ];

    /// The name in `weir status` and of the label `budget`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Dialling => "dialling",
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Rows => "stat_rows",
            Self::Records => "records",
            Self::Spans => "spans",
        }
    }

    /// What a workload may take of what the others leave, as a fraction. `None`: the size is each
    /// workload's own.
    const fn part(self) -> Option<(u64, u64)> {
        match self {
            Self::Connections | Self::Dialling => None,
            // Few processes have many workloads that are large, and a connection that goes direct is
            // one that is not seen: most of them to be asked for.
            Self::Descriptors => Some((3, 4)),
            Self::Memory | Self::Rows | Self::Records | Self::Spans => Some((1, 2)),
        }
    }

    const fn least(self) -> u64 {
        match self {
            Self::Rows => LEAST_ROWS,
            _ => 0,
        }
    }
}

// === impl Sizes ===

impl Default for Sizes {
    fn default() -> Self {
        Self { connections: 65_536, dialling: 512, memory: 64 << 20, rows: 2048 }
    }
}

// === impl Budgets ===

impl Budgets {
    /// Nothing is taken yet. Of descriptors there is any number until
    /// [`Budgets::set_descriptors`].
    #[must_use]
    pub fn new(sizes: &Sizes) -> Self {
        let pots = Resource::ALL.map(|resource| {
            let size = match resource {
                Resource::Connections => sizes.connections,
                Resource::Dialling => sizes.dialling,
                Resource::Descriptors => u64::MAX,
                Resource::Memory => sizes.memory,
                Resource::Rows => sizes.rows,
                Resource::Records => RECORDS as u64,
                Resource::Spans => SPANS as u64,
            };
            Pot { size: AtomicU64::new(size), used: AtomicU64::new(0) }
        });
        Self { process: Arc::new(Process { pots, shares: Mutex::default() }) }
    }

    /// The share of the workload of this name; everybody who asks while it is in use gets the same.
    #[must_use]
    pub fn share(&self, workload: &Arc<str>) -> Share {
        let mut shares = self.process.shares();
        if let Some(inner) = shares.get(workload).and_then(Weak::upgrade) {
            return Share { inner };
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let inner = Arc::new(Inner {
            process: Arc::clone(&self.process),
            uses: std::array::from_fn(|_| Use::default()),
            waiting: AtomicBool::new(false),
            dialled: Notify::new(),
        });
        shares.insert(Arc::clone(workload), Arc::downgrade(&inner));
        Share { inner }
    }

    /// How many descriptors there are for connections. To be called when the limit or what else has
    /// descriptors may have changed.
    pub fn set_descriptors(&self, count: u64) {
        self.process.pot(Resource::Descriptors).size.store(count, Relaxed);
    }

    /// What all workloads have.
    #[must_use]
    pub fn used(&self, resource: Resource) -> u64 {
        self.process.pot(resource).used.load(Relaxed)
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(&Sizes::default())
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").field("pots", &self.process.pots).finish_non_exhaustive()
    }
}

// === impl Process ===

impl Process {
    fn pot(&self, resource: Resource) -> &Pot {
        &self.pots[resource as usize]
    }

    /// A poisoned lock guards a map in which every change is whole.
    fn shares(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Inner>>> {
        lock(&self.shares)
    }
}

// === impl Share ===

impl Share {
    /// Takes so much until the result is dropped; `None`, and counted, where that is more than the
    /// workload may have.
    pub fn take(&self, resource: Resource, count: u64) -> Option<Taken> {
        let taken = self.add(resource, count);
        if !taken {
            self.exceeded(resource);
        }
        taken.then(|| Taken { share: self.clone(), resource, count })
    }

    /// Takes so much whatever the limit: for what is there already.
    pub fn occupy(&self, resource: Resource, count: u64) -> Taken {
        self.inner.of(resource).used.fetch_add(count, Relaxed);
        self.inner.process.pot(resource).used.fetch_add(count, Relaxed);
        Taken { share: self.clone(), resource, count }
    }

    /// The same as [`Share::take`] where a smaller piece does as well: nothing is counted.
    pub fn take_if_plenty(&self, resource: Resource, count: u64) -> Option<Taken> {
        self.add(resource, count).then(|| Taken { share: self.clone(), resource, count })
    }

    /// Takes so much, to be given back by [`Share::give`]; false where that is too much.
    #[must_use]
    pub(crate) fn add(&self, resource: Resource, count: u64) -> bool {
        let used = self.inner.of(resource).used.fetch_add(count, Relaxed) + count;
        let all = self.inner.process.pot(resource).used.fetch_add(count, Relaxed) + count;
        let fits = used <= self.limit_at(resource, used, all);
        if !fits {
            self.give(resource, count);
        }
        fits
    }

    pub(crate) fn give(&self, resource: Resource, count: u64) {
        let used = self.inner.of(resource).used.fetch_sub(count, Relaxed) - count;
        self.inner.process.pot(resource).used.fetch_sub(count, Relaxed);
        if resource == Resource::Dialling
            && self.inner.waiting.load(Relaxed)
            && used <= self.enough_to_go_on()
        {
            self.inner.waiting.store(false, Relaxed);
            self.inner.dialled.notify_waiters();
        }
    }

    /// Counts that the workload was refused more.
    pub(crate) fn exceeded(&self, resource: Resource) {
        self.inner.of(resource).exceeded.fetch_add(1, Relaxed);
    }

    /// What the workload has.
    #[must_use]
    pub fn used(&self, resource: Resource) -> u64 {
        self.inner.of(resource).used.load(Relaxed)
    }

    /// What it may have now.
    #[must_use]
    pub fn limit(&self, resource: Resource) -> u64 {
        let all = self.inner.process.pot(resource).used.load(Relaxed);
        self.limit_at(resource, self.used(resource), all)
    }

    /// Whether it may not have so many more.
    #[must_use]
    pub fn is_full(&self, resource: Resource, count: u64) -> bool {
        self.used(resource).saturating_add(count) > self.limit(resource)
    }

    /// Whether another connection is within the budget.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.is_full(Resource::Connections, 1)
            && !self.is_full(Resource::Descriptors, PER_CONNECTION)
    }

    /// Whether so little is left that new connections had better go direct, while those that are on
    /// their way still fit: an eighth.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        [Resource::Connections, Resource::Descriptors].into_iter().any(|it| self.is_scarce_of(it))
    }

    /// The same of one of the two.
    #[must_use]
    pub fn is_scarce_of(&self, resource: Resource) -> bool {
        self.is_beyond(resource, 7, 8)
    }

    /// Whether there is enough again: a quarter.
    #[must_use]
    pub fn is_plenty(&self) -> bool {
        let resources = [Resource::Connections, Resource::Descriptors];
        !resources.into_iter().any(|resource| self.is_beyond(resource, 3, 4))
    }

    fn is_beyond(&self, resource: Resource, part: u128, of: u128) -> bool {
        u128::from(self.used(resource)) * of >= u128::from(self.limit(resource)) * part
    }

    /// Completes when some of the connections that are being dialled have been.
    pub async fn dialled(&self) {
        let dialled = self.inner.dialled.notified();
        tokio::pin!(dialled);
        dialled.as_mut().enable();
        self.inner.waiting.store(true, Relaxed);
        // One may have been before there was a waiter.
        if self.used(Resource::Dialling) > self.enough_to_go_on() {
            dialled.await;
        }
    }

    /// Not just one below the limit: each wake-up accepts several.
    fn enough_to_go_on(&self) -> u64 {
        let limit = self.limit(Resource::Dialling);
        limit - (limit / 8).max(1).min(limit)
    }

    /// Every resource, for `weir status` and the metrics.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures> {
        let figures = |resource: Resource| Figures {
            budget: resource.name().to_owned(),
            used: self.used(resource),
            limit: self.limit(resource),
            exceeded: self.inner.of(resource).exceeded.load(Relaxed),
        };
        Resource::ALL.map(figures).into()
    }

    fn limit_at(&self, resource: Resource, used: u64, all: u64) -> u64 {
        let size = self.inner.process.pot(resource).size.load(Relaxed);
        let Some((part, of)) = resource.part() else { return size };
        let left = size.saturating_sub(all.saturating_sub(used));
        // Without a bound, half of it is one as well.
        (left / of * part + left % of * part / of).max(resource.least())
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("uses", &self.inner.uses).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn of(&self, resource: Resource) -> &Use {
        &self.uses[resource as usize]
    }
}

/// What is still taken belongs to no workload any more.
impl Drop for Inner {
    fn drop(&mut self) {
        for resource in Resource::ALL {
            let used = self.of(resource).used.load(Relaxed);
            self.process.pot(resource).used.fetch_sub(used, Relaxed);
        }
    }
}

// === impl Taken ===

impl Drop for Taken {
    fn drop(&mut self) {
        self.share.give(self.resource, self.count);
    }
}

// === helpers ===

/// Whether descriptors or memory were lacking: accept(2), socket(2); `ENOSPC` is epoll_ctl(2)'s.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}

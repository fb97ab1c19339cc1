//! All workloads of the process: which there are, how they come and go, and what is found again
//! after a restart.

mod acceleration;
mod ending;
mod error;
mod handover;
mod pods;
mod shares;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tokio::sync::{Mutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_common::WorkloadId;

pub use acceleration::Acceleration;
pub use ending::Ending;
pub use error::WorkloadError;

use self::acceleration::accelerate;
use crate::{
    accept::{Exhaustion, measure},
    capture::{
        self, CaptureError, DirectClose, Events, Heartbeat, Instance, InstanceOptions, Lock,
        Originals, Remembered, coexist, lock_directory,
    },
    config::{Config, Switch, WorkloadSettings, fail_name},
    telemetry::{PodLabels, Telemetry, WorkloadFacts},
    workers::Workers,
    workload::{
        Description, Origin, Pod, Shared, Start, Workload, cgroup_of, restore_client_ip, skipped,
    },
};

/// A connect that was never accepted is not coming any more.
const PENDING_AGE: Duration = Duration::from_secs(120);
/// How often slots are looked after, see [`Workload::guard_slots`].
const GUARD: Duration = Duration::from_secs(1);

/// How to begin.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The instance's name; `None` for one that vanishes with the process.
    pub instance: Option<String>,
    /// A running weir is to be taken over from: it still has the locks.
    pub takeover: bool,
}

/// The workloads of a process.
pub struct Workloads {
    shared: Arc<Shared>,
    acceleration: Acceleration,
    running: RwLock<BTreeMap<Arc<str>, Arc<Workload>>>,
    /// Names of all workloads that there were, for events that come late.
    names: RwLock<HashMap<WorkloadId, Arc<str>>>,
    /// Held while a workload is added or removed; the number of the next one.
    next: Mutex<WorkloadId>,
    /// A number was given out.
    added: Notify,
    removals: TaskTracker,
    /// Stops heartbeat and guard.
    retired: CancellationToken,
    events: Mutex<Option<Following>>,
}

/// The task that reads the kernel's close events.
struct Following {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

// === impl Workloads ===

impl Workloads {
    /// Opens the instance, captures `own` and what an earlier weir was told to capture at run time.
    ///
    /// # Errors
    /// Where the kernel refuses the instance or `own`. What else was remembered and can't be
    /// captured any more is said in the log and forgotten.
    pub async fn start(
        config: Arc<Config>,
        telemetry: Telemetry,
        own: Option<WorkloadSettings>,
        plan: Plan,
    ) -> Result<Arc<Self>, WorkloadError> {
        let instance = Arc::new(Instance::open(&InstanceOptions {
            name: plan.instance,
            log_level: config.log.bpf as u8,
            unlocked: plan.takeover,
        })?);
        if let Err(error) = instance.attach_proxy_side() {
            tracing::warn!(%error, "original destinations are looked up by address and port only");
        }
        let acceleration = accelerate(&instance, config.runtime.sk_msg == Switch::On);
        let workers = Workers::start(config.runtime.workers).map_err(CaptureError::workers)?;
        Heartbeat::beat(&instance)?;
        let remembered = instance.recall();
        let last = remembered.workloads.iter().map(|(id, _)| *id).max().unwrap_or(0);
        let shared = Shared {
            originals: Originals::new(&instance)?,
            workers,
            config,
            telemetry,
            instance,
            sk_msg: acceleration == Acceleration::On,
            exhaustion: Exhaustion::process(),
        };
        let workloads = Arc::new(Self {
            shared: Arc::new(shared),
            acceleration,
            running: RwLock::default(),
            names: RwLock::default(),
            next: Mutex::new(last + 1),
            added: Notify::new(),
            removals: TaskTracker::new(),
            retired: CancellationToken::new(),
            events: Mutex::default(),
        });
        if let Err(error) = workloads.restore(own, &remembered, plan.takeover).await {
            if remembered.workloads.is_empty() && !plan.takeover {
                workloads.shared.instance.remove_pins();
            }
            return Err(error);
        }
        Instance::trim_memory();
        workloads.spawn_tasks();
        if !plan.takeover {
            workloads.follow_events().await?;
        }
        Ok(workloads)
    }

    /// Captures what is wanted, under the numbers that it had before.
    async fn restore(
        &self,
        own: Option<WorkloadSettings>,
        remembered: &Remembered,
        takeover: bool,
    ) -> Result<(), WorkloadError> {
        let known: Vec<(WorkloadId, Description)> = remembered
            .workloads
            .iter()
            .filter_map(|(id, text)| Some((*id, serde_json::from_slice(text).ok()?)))
            .collect();
        let start = |settings, origin, before: Option<&(WorkloadId, Description)>, next| Start {
            settings,
            origin,
            id: before.map_or(next, |(id, _)| *id),
            fresh: before.is_none() || !remembered.same_maps,
            ports: before.and_then(|(id, _)| remembered.ports.get(id).cloned()).unwrap_or_default(),
            client_ip: before.and_then(|(_, description)| description.client_ip),
            programs: before.and_then(|(_, description)| description.programs),
            pod: before.and_then(|(_, description)| description.pod.clone()),
            claim: None,
        };
        if let Some(own) = own {
            let before = known.iter().find(|(_, it)| {
                it.origin != Origin::Removed && it.settings.workload.name == own.workload.name
            });
            let mut next = self.next.lock().await;
            self.add_locked(start(own, Origin::Config, before, *next), takeover).await?;
            *next += u32::from(before.is_none());
        }
        for entry in known.iter().filter(|(_, it)| it.origin.comes_back()) {
            let settings = entry.1.settings.clone();
            let name = settings.workload.name.clone();
            if self.get(&name).is_some() {
                continue;
            }
            let _one_at_a_time = self.next.lock().await;
            let start = start(settings, entry.1.origin, Some(entry), 0);
            if let Err(error) = self.add_locked(start, takeover).await {
                tracing::warn!(%error, workload = name, "not captured any more");
            }
        }
        self.clear_up(&known, remembered.same_maps).await;
        Ok(())
    }

    /// Forgets what was remembered and is not captured.
    async fn clear_up(&self, known: &[(WorkloadId, Description)], same_maps: bool) {
        let wanted: Vec<_> = self.list().iter().map(|it| it.kernel().workload()).collect();
        for (id, description) in known.iter().filter(|(id, _)| !wanted.contains(id)) {
            if let Some(installed) = &description.client_ip
                && let Some(netns) = capture::Netns::find(description.netns_inode)
            {
                restore_client_ip(&netns, installed).await;
            }
            if same_maps {
                capture::Kernel::new(Arc::clone(&self.shared.instance), *id, false).forget();
            }
        }
        self.shared.instance.remove_stale_links(&wanted);
        self.shared.instance.all_found();
    }

    fn spawn_tasks(self: &Arc<Self>) {
        let (shared, retired) = (Arc::clone(&self.shared), self.retired.clone());
        tokio::spawn(async move {
            let beats = Heartbeat::run(&shared.instance, || shared.workers.visit());
            retired.run_until_cancelled(beats).await
        });
        let (workloads, retired) = (Arc::downgrade(self), self.retired.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(GUARD);
            while retired.run_until_cancelled(ticks.tick()).await.is_some() {
                let Some(workloads) = workloads.upgrade() else { return };
                for workload in workloads.list() {
                    workload.guard_slots();
                }
                measure(workloads.shared.telemetry.budgets());
                workloads.shared.instance.remove_other_schemas();
            }
        });
        self.keep_shares();
        let workloads = Arc::downgrade(self);
        self.shared.telemetry.set_workloads(move || {
            workloads.upgrade().map_or_else(Vec::new, |workloads| workloads.facts())
        });
    }

    async fn follow_events(self: &Arc<Self>) -> Result<(), CaptureError> {
        let mut events = Events::new(&self.shared.instance)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let workloads = Arc::downgrade(self);
        let report = move |event: DirectClose| {
            let Some(workloads) = workloads.upgrade() else { return };
            let name = read(&workloads.names).get(&event.captured.workload).cloned();
            if let Some(name) = name {
                workloads.shared.telemetry.skipped(&skipped(&name, &event));
            }
        };
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(events.run(&report)).await;
            events.drain(&report);
        });
        *self.events.lock().await = Some(Following { stop, task });
        Ok(())
    }

    /// Accounts for every close event that the kernel has sent so far, and reads no more.
    async fn settle_events(&self) {
        if let Some(Following { stop, task }) = self.events.lock().await.take() {
            stop.cancel();
            let _ = task.await;
        }
    }

    /// Captures one more workload.
    ///
    /// # Errors
    /// Where its name is taken, a setting is out of range, or the kernel refuses it. Nothing is
    /// changed then.
    pub async fn add(&self, settings: WorkloadSettings) -> Result<Arc<Workload>, WorkloadError> {
        self.add_new(settings, Origin::Cli, None).await
    }

    async fn add_new(
        &self,
        mut settings: WorkloadSettings,
        origin: Origin,
        pod: Option<Pod>,
    ) -> Result<Arc<Workload>, WorkloadError> {
        settings.resolve();
        settings.validate()?;
        let mut next = self.next.lock().await;
        let start = Start {
            settings,
            origin,
            id: *next,
            fresh: true,
            ports: Vec::new(),
            client_ip: None,
            programs: None,
            pod,
            claim: None,
        };
        let workload = self.add_locked(start, false).await?;
        *next += 1;
        Ok(workload)
    }

    /// Starts a workload; `next` is locked.
    async fn add_locked(
        &self,
        mut start: Start,
        takeover: bool,
    ) -> Result<Arc<Workload>, WorkloadError> {
        let name = start.settings.workload.name.clone();
        if self.get(&name).is_some() {
            return Err(WorkloadError::Exists(name));
        }
        if !takeover {
            start.claim = Some(self.claim(&start)?);
        }
        let (id, fresh) = (start.id, start.fresh);
        self.shared.telemetry.label(&name, start.pod.as_ref().map(PodLabels::from));
        let workload = Workload::start(Arc::clone(&self.shared), start).await;
        if workload.is_err() && fresh {
            // The next one may get the same number.
            capture::Kernel::new(Arc::clone(&self.shared.instance), id, true).forget();
        }
        let workload = workload?;
        write(&self.names).insert(id, Arc::clone(workload.name()));
        write(&self.running).insert(Arc::clone(workload.name()), Arc::clone(&workload));
        Ok(workload)
    }

    /// The right to capture a cgroup, which one process can have at a time.
    fn claim(&self, start: &Start) -> Result<Lock, WorkloadError> {
        let cgroup = cgroup_of(&start.settings)?;
        let lock = lock_directory(&cgroup).map_err(|source| CaptureError::Cgroup {
            action: "lock",
            path: cgroup.clone(),
            source,
            hint: "",
        })?;
        let Some(lock) = lock else {
            let holder = self
                .list()
                .iter()
                .find(|it| it.settings().workload.cgroup.as_deref() == Some(&*cgroup))
                .map(|it| it.name().to_string());
            return Err(match holder {
                Some(name) => WorkloadError::CapturedAs { cgroup, name },
                None => CaptureError::taken(cgroup).into(),
            });
        };
        // Its own programs of before are there to be replaced.
        let mine = |overlap: &coexist::Overlap| {
            overlap.relation == coexist::Relation::Same
                && self.shared.instance.owns(start.id, overlap.program)
        };
        match coexist::overlaps(&cgroup)?.into_iter().find(|overlap| !mine(overlap)) {
            Some(overlap) => Err(WorkloadError::Overlap { cgroup, overlap }),
            None => Ok(lock),
        }
    }

    /// Captures a workload no more; its connections may finish. Returns at once.
    ///
    /// # Errors
    /// Where there is none of this name.
    pub fn remove(self: &Arc<Self>, name: &str) -> Result<(), WorkloadError> {
        let Some(workload) = write(&self.running).remove(name) else {
            return Err(self.unknown(name));
        };
        let deadline = self.shared.config.drain.deadline;
        let (workloads, name) = (Arc::downgrade(self), name.to_owned());
        if let Err(error) = workload.forget_at_restart() {
            tracing::warn!(%error, workload = %workload.name(), "a restart soon would capture it again");
        }
        workload.kernel().stop_capturing();
        workload.release_claim();
        self.removals.spawn(async move {
            workload.drain(deadline, false).await;
            workload.kernel().detach();
            workload.kernel().forget();
            workload.restore_client_ip().await;
            // Another one of this name may be there already.
            if let Some(workloads) = workloads.upgrade()
                && workloads.get(&name).is_none()
            {
                workloads.shared.telemetry.forget_workload(&name);
            }
        });
        Ok(())
    }

    /// The workload of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Workload>> {
        read(&self.running).get(name).cloned()
    }

    /// The workload that is meant: the one of this name, or the only one.
    ///
    /// # Errors
    /// Where there is none of this name, or it is not clear which is meant.
    pub fn meant(&self, name: Option<&str>) -> Result<Arc<Workload>, WorkloadError> {
        match (name, &self.list()[..]) {
            (Some(name), _) => self.get(name).ok_or_else(|| self.unknown(name)),
            (None, [only]) => Ok(Arc::clone(only)),
            (None, []) => Err(WorkloadError::None),
            (None, _) => Err(WorkloadError::Unclear(self.names())),
        }
    }

    /// Every workload, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Workload>> {
        read(&self.running).values().cloned().collect()
    }

    /// Whether `sk_msg` is on.
    #[must_use]
    pub const fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }

    /// Says where this process is spoken to, for one that wants to take over.
    ///
    /// # Errors
    /// Where that cannot be kept with the pins.
    pub fn announce(&self, control: &std::path::Path) -> Result<(), CaptureError> {
        let pins = self.shared.instance.pins();
        if pins.is_private() { Ok(()) } else { pins.announce(control) }
    }

    /// The kernel side that they share.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.shared.instance
    }

    fn unknown(&self, name: &str) -> WorkloadError {
        WorkloadError::Unknown { name: name.to_owned(), known: self.names() }
    }

    fn names(&self) -> Vec<String> {
        self.list().iter().map(|it| it.name().to_string()).collect()
    }

    fn facts(&self) -> Vec<WorkloadFacts> {
        let facts = |workload: &Arc<Workload>| WorkloadFacts {
            workload: Arc::clone(workload.name()),
            pod: workload.pod().map(PodLabels::from),
            fail: fail_name(workload.settings().workload.fail),
            learn: workload.settings().workload.learn.name(),
            inbound: workload.settings().inbound.capture && !workload.kernel().is_inbound_off(),
            capturing: workload.phase() == "capturing",
            decisions: workload.kernel().counters(),
            budget: workload.budget(),
        };
        self.list().iter().map(facts).collect()
    }
}

// === helpers ===

/// A poisoned lock guards a map in which every change is a single insertion or removal.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

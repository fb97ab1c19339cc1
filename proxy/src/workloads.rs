//! All workloads of the process: which there are, how they come and go, and what is found again
//! after a restart.

mod acceleration;
mod ending;
mod error;
mod events;
mod facts;
mod guard;
mod handover;
mod holding;
mod options;
mod overlap;
mod pods;
mod restore;
mod shares;
mod tapping;
mod waiting;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex as StdMutex, RwLock},
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_common::WorkloadId;

pub use acceleration::Acceleration;
pub use ending::Ending;
pub use error::WorkloadError;
pub use handover::Handover;
pub use waiting::WaitingWorkload;

use self::{
    acceleration::accelerate, events::CloseEvents, handover::Reign, overlap::Claimed,
    waiting::Waiting,
};
use crate::{
    accept::Exhaustion,
    blocking::blocking,
    capture::{
        CaptureError, DirectClose, Heartbeat, Instance, InstanceOptions, Lock, Originals,
        WorkloadMaps, foreign, lock_directory,
    },
    config::{ProcessConfig, Switch, Traffic, WorkloadSettings},
    connection::OptionsByWorkload,
    host::HostError,
    pod::Pod,
    service::Services,
    sync::{lock, read, write},
    telemetry::{PodLabels, Telemetry},
    workers::Workers,
    workload::{Holdings, Origin, Shared, Tapping, Workload, WorkloadSpec, cgroup_of, skipped},
};

/// A connect that was never accepted is not coming any more.
const PENDING_AGE: Duration = Duration::from_secs(120);

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// The instance's name; `None` for one that vanishes with the process.
    pub instance: Option<String>,
    /// An old process hands over: it still has the locks.
    pub handover: bool,
    /// Which destinations are services.
    pub services: Arc<Services>,
}

/// The workloads of a process.
pub struct Workloads {
    shared: Arc<Shared>,
    acceleration: Acceleration,
    running: RwLock<BTreeMap<Arc<str>, Arc<Workload>>>,
    /// Those that are wanted and cannot be captured now.
    waiting: RwLock<BTreeMap<Arc<str>, Waiting>>,
    /// Numbers of those whose last connections are being finished.
    removing: StdMutex<HashSet<WorkloadId>>,
    /// Names of all workloads that there were, for events that come late.
    names: RwLock<HashMap<WorkloadId, Arc<str>>>,
    /// Held while a workload is added or removed; the number of the next one.
    next: Mutex<WorkloadId>,
    /// A number was given out.
    added: Notify,
    removals: TaskTracker,
    reign: StdMutex<Reign>,
    /// Locks and events are still an old process's.
    unsettled: StdMutex<bool>,
    /// Stops the heartbeat.
    retired: CancellationToken,
    /// Stops the guard.
    guarding: CancellationToken,
    /// Has the guard look at once.
    woken: Arc<Notify>,
    /// Read what the kernel tells of connections that are held, and of options that are set, until the
    /// process ends.
    told: StdMutex<JoinSet<()>>,
    events: Mutex<Option<CloseEvents>>,
}

// === impl Workloads ===

impl Workloads {
    /// Opens the instance, captures `own` and what an earlier weir was told to capture at run time.
    ///
    /// # Errors
    /// Where the kernel refuses the instance or `own`. What else was remembered and can't be
    /// captured any more is said in the log and forgotten.
    pub async fn start(
        process: Arc<ProcessConfig>,
        traffic: Traffic,
        telemetry: Telemetry,
        own: Option<WorkloadSettings>,
        options: StartOptions,
    ) -> Result<Arc<Self>, WorkloadError> {
        let services = options.services;
        let instance = Arc::new(Instance::open(&InstanceOptions {
            name: options.instance,
            log_level: process.log.bpf as u8,
            unlocked: options.handover,
            sk_msg: process.runtime.sk_msg == Switch::On,
        })?);
        if let Err(error) = instance.attach_proxy_side() {
            tracing::warn!(%error, "original destinations are looked up by address and port only");
        }
        let acceleration = accelerate(&instance, process.runtime.sk_msg == Switch::On);
        let hold = holding::support(&traffic.now());
        let workers = Workers::start(process.runtime.workers).map_err(CaptureError::workers)?;
        Heartbeat::beat(&instance)?;
        let remembered = instance.recall();
        let numbers = remembered.workloads.iter().map(|(id, _)| id).chain(&remembered.here);
        let last = numbers.max().copied().unwrap_or(0);
        let shared = Shared {
            originals: Originals::new(&instance)?,
            workers,
            process,
            traffic,
            telemetry,
            instance,
            sk_msg: acceleration == Acceleration::On,
            exhaustion: Exhaustion::process(),
            hold,
            holdings: Holdings::default(),
            options: OptionsByWorkload::default(),
            services,
            tapping: Tapping::default(),
        };
        let workloads = Arc::new(Self {
            shared: Arc::new(shared),
            acceleration,
            running: RwLock::default(),
            waiting: RwLock::default(),
            removing: StdMutex::default(),
            reign: StdMutex::default(),
            unsettled: StdMutex::new(options.handover),
            guarding: CancellationToken::new(),
            woken: Arc::default(),
            told: StdMutex::default(),
            names: RwLock::default(),
            next: Mutex::new(last + 1),
            added: Notify::new(),
            removals: TaskTracker::new(),
            retired: CancellationToken::new(),
            events: Mutex::default(),
        });
        workloads.beat();
        workloads.follow_holds()?;
        workloads.follow_options();
        if let Err(error) = workloads.restore(own, &remembered, options.handover).await {
            if remembered.workloads.is_empty() && !options.handover {
                workloads.shared.instance.remove_pins();
            }
            return Err(error);
        }
        Instance::trim_memory();
        workloads.spawn_tasks();
        if !options.handover {
            workloads.follow_events().await?;
        }
        Ok(workloads)
    }

    /// Which destinations are services.
    #[must_use]
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.shared.services)
    }

    /// Completes once every thread that serves connections has run something.
    pub async fn visit_workers(&self) {
        self.shared.workers.visit().await;
    }

    fn beat(&self) {
        let (shared, retired) = (Arc::clone(&self.shared), self.retired.clone());
        tokio::spawn(async move {
            let beats = Heartbeat::run(&shared.instance, || async {
                shared.telemetry.worker_delayed(shared.workers.visit().await);
            });
            retired.run_until_cancelled(beats).await
        });
    }

    fn spawn_tasks(self: &Arc<Self>) {
        tokio::spawn(Self::guard(Arc::downgrade(self)));
        self.keep_shares();
        let services = self.services();
        let (known, routes) = (Arc::clone(&services), Arc::clone(&services));
        self.shared.telemetry.set_services(move || services.facts());
        self.shared.telemetry.set_service_of(move |address| known.name_of(address));
        self.shared.telemetry.set_routes(move || routes.route_facts());
        self.shared.telemetry.set_maps(facts::maps(Arc::downgrade(&self.shared)));
        let workloads = Arc::downgrade(self);
        self.shared.telemetry.set_workloads(move || {
            workloads.upgrade().map_or_else(Vec::new, |workloads| workloads.facts())
        });
    }

    /// Reads the kernel's close events from here on.
    async fn follow_events(self: &Arc<Self>) -> Result<(), CaptureError> {
        let workloads = Arc::downgrade(self);
        let report = move |event: DirectClose| {
            let Some(workloads) = workloads.upgrade() else { return };
            let name = read(&workloads.names).get(&event.captured.workload).cloned();
            if let Some(name) = name.filter(|_| !tapping::tells(&event)) {
                workloads.shared.telemetry.skipped(&skipped(&name, &event));
            }
        };
        *self.events.lock().await = Some(CloseEvents::follow(&self.shared.instance, report)?);
        Ok(())
    }

    /// Accounts for every close event that the kernel has sent so far, and reads no more.
    async fn settle_events(&self) {
        if let Some(events) = self.events.lock().await.take() {
            events.settle().await;
        }
        self.shared.tapping.settle().await;
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
        self.changeable()?;
        if read(&self.waiting).contains_key(&*settings.workload.name) {
            return Err(WorkloadError::Exists(settings.workload.name));
        }
        let start = WorkloadSpec {
            settings,
            origin,
            id: *next,
            fresh: true,
            ports: Vec::new(),
            client_ip: None,
            programs: None,
            pod,
            claim: None,
            in_own_netns: true,
        };
        let workload = self.add_locked(start, false).await?;
        *next += 1;
        Ok(workload)
    }

    /// Starts a workload; `next` is locked.
    async fn add_locked(
        &self,
        mut start: WorkloadSpec,
        handover: bool,
    ) -> Result<Arc<Workload>, WorkloadError> {
        let name = start.settings.workload.name.clone();
        if self.get(&name).is_some() {
            return Err(WorkloadError::Exists(name));
        }
        if !handover {
            start.claim = Some(self.claim(&start).await?);
        }
        let (id, fresh) = (start.id, start.fresh);
        self.shared.telemetry.label(&name, start.pod.as_ref().map(PodLabels::from));
        let workload = Workload::start(Arc::clone(&self.shared), start).await;
        if workload.is_err() && fresh {
            // The next one may get the same number.
            let instance = Arc::clone(&self.shared.instance);
            blocking(move || WorkloadMaps::new(instance, id, true).forget()).await;
        }
        let workload = workload?;
        write(&self.names).insert(id, Arc::clone(workload.name()));
        write(&self.running).insert(Arc::clone(workload.name()), Arc::clone(&workload));
        Ok(workload)
    }

    /// The right to capture a cgroup, which one process can have at a time.
    async fn claim(&self, start: &WorkloadSpec) -> Result<Lock, WorkloadError> {
        let (id, settings) = (start.id, start.settings.clone());
        let (instance, others) = (Arc::clone(&self.shared.instance), self.claimed());
        blocking(move || {
            let cgroup = cgroup_of(&settings)?;
            Claimed::new(id, &settings.workload.name, &cgroup).refuse_beside(&others)?;
            let lock = lock_directory(&cgroup).map_err(|source| {
                CaptureError::Host(HostError::Cgroup {
                    action: "lock",
                    path: cgroup.clone(),
                    source,
                    hint: "",
                })
            })?;
            let Some(lock) = lock else { return Err(CaptureError::taken(cgroup).into()) };
            // Its own programs of before are there to be replaced.
            let mine = |overlap: &foreign::Overlap| {
                overlap.relation == foreign::Relation::Same && instance.owns(id, overlap.program)
            };
            match foreign::overlaps(&cgroup)?.into_iter().find(|overlap| !mine(overlap)) {
                Some(overlap) => Err(WorkloadError::Overlap { cgroup, overlap }),
                None => Ok(lock),
            }
        })
        .await
    }

    /// The cgroups that this process captures, or waits for.
    fn claimed(&self) -> Vec<Claimed> {
        let mut claimed: Vec<Claimed> =
            read(&self.waiting).values().map(|it| Claimed::from(it.start())).collect();
        claimed.extend(self.list().iter().filter_map(|it| {
            let settings = it.settings();
            let cgroup = settings.workload.cgroup.as_deref()?;
            Some(Claimed::new(it.kernel().workload(), it.name(), cgroup))
        }));
        claimed
    }

    /// Numbers that are in use.
    fn numbers(&self) -> Vec<WorkloadId> {
        let mut numbers: Vec<_> = self.list().iter().map(|it| it.kernel().workload()).collect();
        numbers.extend(read(&self.waiting).values().map(|it| it.start().id));
        numbers.extend(lock(&self.removing).iter());
        numbers
    }

    fn is_waiting(&self) -> bool {
        !read(&self.waiting).is_empty()
    }

    /// Captures a workload no more; its connections may finish. Returns at once.
    ///
    /// # Errors
    /// Where there is none of this name.
    pub fn remove(self: &Arc<Self>, name: &str) -> Result<(), WorkloadError> {
        self.changeable()?;
        let waiting = write(&self.waiting).remove(name);
        if let Some(waiting) = waiting {
            self.forget(waiting.start().id, name.to_owned());
            return Ok(());
        }
        let Some(workload) = write(&self.running).remove(name) else {
            return Err(self.unknown(name));
        };
        let deadline = self.shared.process.drain.deadline;
        let (workloads, name) = (Arc::downgrade(self), name.to_owned());
        if let Err(error) = workload.forget_at_restart() {
            tracing::warn!(%error, workload = %workload.name(), "cannot forget a workload: a \
                 restart would capture it again");
        }
        workload.kernel().stop_capturing();
        workload.release_claim();
        lock(&self.removing).insert(workload.kernel().workload());
        self.removals.spawn(async move {
            workload.drain(deadline, false).await;
            workload.kernel().links.detach();
            workload.restore_client_ip().await;
            if let Some(workloads) = workloads.upgrade() {
                workloads.forget(workload.kernel().workload(), name);
            }
        });
        Ok(())
    }

    /// Takes everything out of the maps that is there under a number; nothing is attached.
    fn forget(self: &Arc<Self>, id: WorkloadId, name: String) {
        let workloads = Arc::clone(self);
        lock(&self.removing).insert(id);
        self.removals.spawn(async move {
            let instance = Arc::clone(&workloads.shared.instance);
            blocking(move || {
                let kernel = WorkloadMaps::new(instance, id, false);
                kernel.links.detach();
                kernel.forget();
            })
            .await;
            lock(&workloads.removing).remove(&id);
            // Another one of this name may be there already.
            if workloads.get(&name).is_none() && !read(&workloads.waiting).contains_key(&*name) {
                workloads.shared.telemetry.forget_workload(&name);
            }
        });
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
            (Some(name), _) => self.get(name).ok_or_else(|| self.absent(name)),
            (None, [only]) if !self.is_waiting() => Ok(Arc::clone(only)),
            (None, []) => match &self.waiting()[..] {
                [] => Err(WorkloadError::None),
                [only] => Err(self.absent(&only.settings.workload.name)),
                _ => Err(WorkloadError::Unclear(self.names())),
            },
            (None, _) => Err(WorkloadError::Unclear(self.names())),
        }
    }

    /// Why there is none of this name.
    fn absent(&self, name: &str) -> WorkloadError {
        match read(&self.waiting).get(name) {
            Some(waiting) => {
                WorkloadError::Waits { name: name.to_owned(), why: waiting.wait().why.clone() }
            }
            None => self.unknown(name),
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
        let mut names: Vec<String> = self.list().iter().map(|it| it.name().to_string()).collect();
        names.extend(read(&self.waiting).keys().map(ToString::to_string));
        names.sort_unstable();
        names
    }
}

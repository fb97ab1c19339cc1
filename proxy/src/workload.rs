//! One captured workload: its kernel side, listeners, port policy and connections, from attach to
//! the end of the drain.

mod accepting;
mod configure;
mod ending;
mod facts;
mod feedback;
mod guard;
mod holding;
mod place;
mod skipped;
mod slots;
mod start;
mod tapping;
mod temporary;
mod update;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

pub use guard::{Look, Missing, Wait};
pub use holding::Holdings;
pub use place::cgroup_of;
pub use skipped::skipped;
pub use start::{Description, Origin, Residue, WorkloadSpec};
pub use tapping::Tapping;
pub use temporary::TemporaryPort;
use tokio::{runtime::Handle, sync::mpsc::UnboundedReceiver};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    accepting::Incoming,
    configure::{configure, policy},
    feedback::KernelFeedback,
    holding::{Held, Holding},
    place::Place,
    slots::WorkloadSlots,
    tapping::WorkloadTap,
    temporary::Temporary,
};
use crate::{
    accept::{AcceptOptions, Exhaustion, Registered, Slots},
    blocking::blocking,
    capture::{
        AttachOptions, CaptureError, ClientIp, ClientIpUser, Heartbeat, Installed, Instance, Lock,
        Netns, Originals, RouteWatch, WorkloadMaps,
    },
    config::{EngineName, Fail, ProcessConfig, Switch, Traffic, WorkloadSettings},
    connection::{Context, Engines, OptionsByWorkload},
    learn::Learning,
    pod::Pod,
    ports::PortPolicy,
    service::{Services, ToEndpoints, WorkloadMode},
    stop::Stop,
    sync::lock,
    telemetry::Telemetry,
    workers::Workers,
};

/// What all workloads of the process share.
pub struct Shared {
    /// Settings of the process.
    pub process: Arc<ProcessConfig>,
    /// How connections are served.
    pub traffic: Traffic,
    /// Where everything is counted.
    pub telemetry: Telemetry,
    /// The kernel side that they share.
    pub instance: Arc<Instance>,
    /// Original destinations of redirected connections.
    pub originals: Originals,
    /// Who serves connections.
    pub workers: Workers,
    /// Whether `sk_msg` is on.
    pub sk_msg: bool,
    /// Whether the process is out of descriptors.
    pub exhaustion: Exhaustion,
    /// Whether connections are held, or why not.
    pub hold: Result<(), String>,
    /// Who holds which.
    pub holdings: Holdings,
    /// What applications set on captured sockets after connect(2).
    pub options: OptionsByWorkload,
    /// Which destinations are services.
    pub services: Arc<Services>,
    /// The tap, once a workload has asked for it.
    pub tapping: Tapping,
}

/// A workload whose connections are being captured.
pub struct Workload {
    pub(crate) kernel: Arc<WorkloadMaps>,
    settings: Mutex<Arc<WorkloadSettings>>,
    origin: Origin,
    pod: Option<Pod>,
    netns: Netns,
    /// Of the cgroup that it is attached to.
    cgroup_id: u64,
    wait: Mutex<Option<Wait>>,
    /// Programs of others that filter its packets, by direction.
    filters: Mutex<[Vec<String>; 2]>,
    shared: Arc<Shared>,
    slots: Arc<WorkloadSlots>,
    policy: Mutex<PortPolicy>,
    /// Of its states those that do not last.
    temporary: Mutex<Temporary>,
    /// Held while the policy or the settings are changed in the kernel, which can take a while;
    /// `policy` itself is what accepting asks.
    changing: Mutex<()>,
    context: Arc<Context>,
    balance: Arc<WorkloadMode>,
    tap: WorkloadTap,
    /// What is held, or why nothing is.
    holding: Option<Arc<Holding>>,
    not_held: String,
    stop_accepting: CancellationToken,
    stop_holding: CancellationToken,
    stop_following: CancellationToken,
    accepting: TaskTracker,
    accepting_held: TaskTracker,
    connections: TaskTracker,
    claim: Mutex<Option<Lock>>,
    client_ip: Option<Installed>,
    client_ip_user: Mutex<Option<ClientIpUser>>,
    _registered: Registered,
}

// === impl Workload ===

impl Workload {
    /// Attaches and begins to accept. On an error nothing new is left attached.
    ///
    /// # Errors
    /// The first step that the kernel refuses.
    pub async fn start(
        shared: Arc<Shared>,
        start: WorkloadSpec,
    ) -> Result<Arc<Self>, CaptureError> {
        let (found, start) = {
            let instance = Arc::clone(&shared.instance);
            let hold = shared.hold.clone();
            blocking(move || (Place::find(instance, &start, hold), start)).await
        };
        let Place { cgroup, cgroup_id, netns, kernel, listeners, hold } = found?;
        let (holding, queue, not_held) = match hold {
            Ok(raw) => {
                let sockets = listeners.hold_sockets().map_err(unwatched)?;
                let (holding, queue) =
                    Holding::new(&shared, netns.cookie(), sockets, raw).map_err(unwatched)?;
                (Some(holding), Some(queue), String::new())
            }
            Err(why) => (None, None, why),
        };
        let WorkloadSpec {
            settings, origin, fresh, ports, client_ip, programs, claim, pod, ..
        } = start;
        let policy = policy(&settings, origin.source(), &ports);
        let mut client_ip_user = None;
        let client_ip = if settings.inbound.capture && settings.inbound.preserve_client_ip {
            if !shared.instance.knows_ingress_ifindex() {
                return Err(CaptureError::NoIngressIfindex);
            }
            client_ip_user = Some(ClientIpUser::of(&netns).await?);
            let installed = ClientIp::install(&netns).await?;
            // What an earlier weir found is what was there before.
            Some(client_ip.unwrap_or(installed))
        } else {
            None
        };
        let own = shared.instance.programs();
        // A new process must put its own in their place, so that the old process's can go.
        let keep = !fresh && claim.is_some() && programs == Some(own);
        let mut description = Description {
            settings: settings.clone(),
            origin,
            netns_inode: netns.inode(),
            client_ip,
            programs: keep.then_some(own),
            pod: pod.clone(),
            temporary: Vec::new(),
        };
        // First: what is under an unknown number would never be cleared up.
        description.keep(&kernel)?;
        kernel.flags.confine(netns.cookie())?;
        let tap = WorkloadTap::of(&shared, &settings, &cgroup).await;
        configure(&kernel, &settings, &policy, tap.switches(shared.sk_msg)).await?;
        let routes =
            RouteWatch::start(Arc::clone(&kernel), netns.clone(), shared.services.unrouted())
                .await?;

        let name: Arc<str> = settings.workload.name.as_str().into();
        let fails_closed = settings.workload.fail == Fail::Closed;
        let slots = WorkloadSlots::new(listeners, &shared.telemetry, &name, fails_closed);
        let balance = Arc::new(WorkloadMode::new(settings.outbound.balance));
        shared.telemetry.set_record_format(&name, settings.workload.record_format);
        let namespace = pod.as_ref().map(|pod| pod.namespace.as_str().into());
        let upstream =
            ToEndpoints::new(Arc::clone(&shared.services), Arc::clone(&balance), namespace);
        let feedback = KernelFeedback::new(&kernel, &netns, &cgroup, &shared);
        let registered = shared.exhaustion.register(Arc::clone(&slots) as Arc<dyn Slots>);
        let workload = Arc::new(Self {
            context: Arc::new(Context {
                workload: name,
                telemetry: shared.telemetry.clone(),
                share: slots.share.clone(),
                own: slots.listeners.own().clone(),
                netns: netns.clone(),
                preserve_client_ip: client_ip.is_some(),
                dials: Arc::default(),
                options: shared.options.of(kernel.workload()),
                upstream: Arc::new(upstream),
                engine: settings.outbound.engine.map(EngineName::engine),
                engines: Engines::default(),
                learning: Learning::new(settings.workload.learn),
                drain: Stop::new(),
                leaving: Stop::new(),
                abort: Stop::new(),
                splice: shared.process.runtime.sk_msg == Switch::Off,
                config: shared.traffic.clone(),
                feedback: Box::new(feedback),
            }),
            balance,
            tap,
            kernel,
            settings: Mutex::new(Arc::new(settings)),
            origin,
            pod,
            netns,
            cgroup_id,
            wait: Mutex::default(),
            filters: Mutex::default(),
            shared,
            slots,
            policy: Mutex::new(policy),
            temporary: Mutex::default(),
            changing: Mutex::default(),
            holding,
            not_held,
            stop_accepting: CancellationToken::new(),
            stop_holding: CancellationToken::new(),
            stop_following: CancellationToken::new(),
            accepting: TaskTracker::new(),
            accepting_held: TaskTracker::new(),
            connections: TaskTracker::new(),
            claim: Mutex::new(claim),
            client_ip,
            client_ip_user: Mutex::new(client_ip_user),
            _registered: registered,
        });
        workload.tap.begin(workload.kernel.workload(), &workload.context);
        let looked_at = Arc::clone(&workload);
        blocking(move || {
            looked_at.look_at_ports();
            looked_at.look_at_filters(true);
        })
        .await;
        workload
            .begin(routes, cgroup, keep, queue)
            .await
            .inspect_err(|_| workload.give_up(fresh))?;
        if !keep {
            description.programs = Some(own);
            // Without it the next weir just takes longer to start.
            let _ = description.keep(&workload.kernel);
        }
        Ok(workload)
    }

    async fn begin(
        self: &Arc<Self>,
        routes: RouteWatch,
        cgroup: PathBuf,
        keep: bool,
        queue: Option<UnboundedReceiver<Held>>,
    ) -> Result<(), CaptureError> {
        for socket in self.slots.listeners.sockets().map_err(unwatched)? {
            let listener = Incoming::new(socket, Arc::default()).map_err(unwatched)?;
            let stop = self.stop_accepting.clone();
            let linger = AcceptOptions::captured().linger;
            self.accepting.spawn(Arc::clone(self).accept(listener, stop, linger));
        }
        for socket in self.slots.listeners.hold_sockets().map_err(unwatched)? {
            let elsewhere = self.holding.as_ref().map(|it| Arc::clone(&it.elsewhere));
            let listener =
                Incoming::new(socket, elsewhere.unwrap_or_default()).map_err(unwatched)?;
            let stop = self.stop_holding.clone();
            // Nothing is held any more when they are stopped.
            self.accepting_held.spawn(Arc::clone(self).accept(listener, stop, Duration::ZERO));
        }
        if let (Some(queue), Some(holding)) = (queue, &self.holding) {
            self.accepting_held.spawn(Arc::clone(self).hold(queue));
            let (holding, stop) = (Arc::clone(holding), self.stop_holding.clone());
            self.accepting_held
                .spawn(async move { stop.run_until_cancelled(holding.look()).await });
        }
        let stop = self.stop_following.clone();
        tokio::spawn(async move { stop.run_until_cancelled(routes.run()).await });
        Heartbeat::beat(&self.shared.instance)?;
        self.slots.withdrawn.store(false, Ordering::Release);
        self.slots.listeners.offer()?;
        self.attach(cgroup, keep).await
    }

    /// On a thread of its own: the kernel verifies programs for tens of milliseconds, in which
    /// connections would have to wait.
    async fn attach(&self, cgroup: PathBuf, keep: bool) -> Result<(), CaptureError> {
        let kernel = Arc::clone(&self.kernel);
        let inbound = self.settings().inbound.capture && !self.kernel.flags.is_inbound_off();
        let netns = self.netns.clone();
        let runtime = Handle::current();
        blocking(move || {
            let options =
                AttachOptions { inbound: inbound.then_some(&netns), held: Some(&netns), keep };
            kernel.attach(&cgroup, options, |followed| {
                if inbound {
                    runtime.block_on(kernel.listening.seed(&netns, &cgroup, followed))
                } else {
                    Ok(())
                }
            })
        })
        .await
    }

    /// Undoes a start that failed, but for what is in the maps.
    fn give_up(&self, fresh: bool) {
        self.slots.withdraw();
        self.stop_accepting.cancel();
        self.stop_holding.cancel();
        self.stop_following.cancel();
        if let Some(holding) = &self.holding {
            holding.close();
        }
        if fresh {
            self.kernel.links.detach();
        }
    }

    /// Takes back what was changed in its namespace for `preserve_client_ip`, unless it is
    /// needed, in this process or another. Call it when no connection is left.
    pub async fn restore_client_ip(&self) {
        let Some(installed) = self.client_ip else { return };
        *lock(&self.client_ip_user) = None;
        restore_client_ip(&self.netns, &installed).await;
    }

    /// Takes slots back that are empty although they should not be: a new process has died.
    pub fn guard_slots(&self) {
        if !self.slots.withdrawn.load(Ordering::Acquire)
            && let Err(error) = self.slots.listeners.offer_where_empty()
        {
            tracing::warn!(%error, workload = &**self.name(), "cannot fill listener slots");
        }
    }

    /// Says in what is kept for a restart that it is not wanted any more.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget_at_restart(&self) -> Result<(), CaptureError> {
        self.description(&self.settings(), Origin::Removed, None).keep(&self.kernel)
    }

    fn description(
        &self,
        settings: &WorkloadSettings,
        origin: Origin,
        programs: Option<u64>,
    ) -> Description {
        Description {
            settings: settings.clone(),
            origin,
            netns_inode: self.netns.inode(),
            client_ip: self.client_ip,
            programs,
            pod: self.pod.clone(),
            temporary: lock(&self.temporary).all(),
        }
    }

    /// Lets another process capture the cgroup.
    pub fn release_claim(&self) {
        *lock(&self.claim) = None;
    }

    /// Takes the right to capture the cgroup, which an old process has just let go.
    pub fn take_claim(&self, claim: Lock) {
        *lock(&self.claim) = Some(claim);
    }
}

// === helpers ===

/// Takes back what `preserve_client_ip` has changed in a namespace, unless it is needed.
pub async fn restore_client_ip(netns: &Netns, installed: &Installed) {
    if let Err(error) = ClientIp::remove_unless_used(netns, installed).await {
        tracing::warn!(%error, "cannot undo the changes of --preserve-client-ip");
    }
}

fn unwatched(source: std::io::Error) -> CaptureError {
    CaptureError::Socket { action: "watch the listener", source, hint: "" }
}

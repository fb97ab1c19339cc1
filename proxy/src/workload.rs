//! One captured workload: its kernel side, listeners, port policy and connections, from attach to
//! the end of the drain.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_common::{Reason, WorkloadConfig, flags};

use crate::{
    capture::{
        self, AttachOptions, CaptureError, DirectClose, Events, Heartbeat, Kernel, KernelOptions,
        Listeners, Originals, RouteWatch, cgroup,
    },
    config::{Config, Switch},
    connection::Context,
    decision::{Direction, PortState, Source},
    ports::{PortChange, PortPolicy, PortSet},
    telemetry::{KernelCount, SkippedConnection, Telemetry},
};

/// The only workload of this process.
const WORKLOAD: u32 = 1;
/// How long retries of a destination that could not be reached go direct: long enough for a retry,
/// short enough that a server just starting is captured soon.
const LET_FAIL: Duration = Duration::from_secs(5);
/// A connect that was never accepted is not coming any more.
const PENDING_AGE: Duration = Duration::from_secs(120);
/// How long an accept loop pauses where the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A connect that has read the slot just before it was emptied arrives well within this.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// A workload whose connections are being captured.
pub struct Workload {
    kernel: Arc<Kernel>,
    listeners: Listeners,
    policy: Mutex<PortPolicy>,
    context: Arc<Context>,
    events: Mutex<Option<tokio::task::JoinHandle<Events>>>,
    events_stop: CancellationToken,
    accepting: CancellationToken,
    connections: TaskTracker,
    cgroup: PathBuf,
    sk_msg: Acceleration,
}

/// Whether `sk_msg` moves the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// Not asked for.
    Off,
    /// On: the self-test passed.
    On,
    /// Asked for, and refused by the self-test, for this reason.
    Refused(String),
}

// === impl Workload ===

impl Workload {
    /// Loads, attaches and begins to accept. On an error nothing is left attached.
    ///
    /// # Errors
    /// The first step that the kernel refuses.
    pub async fn start(
        config: Arc<Config>,
        telemetry: Telemetry,
        name: &str,
        cgroup: &Path,
    ) -> Result<Arc<Self>, CaptureError> {
        if cgroup::own()? == cgroup {
            return Err(CaptureError::OwnCgroup(cgroup.into()));
        }
        let own_id = cgroup::id(&cgroup::own()?)?;
        cgroup::id(cgroup)?;
        let kernel = Arc::new(Kernel::load(KernelOptions {
            workload: WORKLOAD,
            log_level: config.log.bpf as u8,
        })?);
        let sk_msg = accelerate(&kernel, config.runtime.sk_msg == Switch::On);
        let policy = config.port_policy();
        configure(&kernel, &config, &policy, own_id, sk_msg == Acceleration::On)?;
        let listeners = Listeners::open(&kernel)?;
        let originals = Arc::new(Originals::new(&kernel, listeners.netns_cookie)?);
        let events = Events::new(&kernel)?;
        Heartbeat::beat(&kernel)?;
        let routes = RouteWatch::start(Arc::clone(&kernel)).await?;

        let workload = Arc::new(Self {
            context: Arc::new(Context {
                workload: name.into(),
                telemetry,
                own: listeners.addresses(),
                drain: CancellationToken::new(),
                abort: CancellationToken::new(),
                config,
                on_unreachable: let_fail(Arc::clone(&kernel)),
            }),
            kernel,
            listeners,
            policy: Mutex::new(policy),
            events: Mutex::new(None),
            events_stop: CancellationToken::new(),
            accepting: CancellationToken::new(),
            connections: TaskTracker::new(),
            cgroup: cgroup.into(),
            sk_msg,
        });
        workload.spawn(originals, routes, events)?;
        workload.listeners.offer()?;
        let own = cgroup::own()?;
        let proxy_cgroup = (workload.sk_msg == Acceleration::On).then_some(own.as_path());
        capture::attach(&workload.kernel, cgroup, AttachOptions { proxy_cgroup })?;
        Ok(workload)
    }

    fn spawn(
        self: &Arc<Self>,
        originals: Arc<Originals>,
        routes: RouteWatch,
        mut events: Events,
    ) -> Result<(), CaptureError> {
        let error =
            |source| CaptureError::Socket { action: "watch the listener", source, hint: "" };
        for socket in self.listeners.sockets().map_err(error)? {
            let listener = TcpListener::from_std(socket).map_err(error)?;
            tokio::spawn(Arc::clone(self).accept(listener, Arc::clone(&originals)));
        }
        tokio::spawn(Heartbeat::run(Arc::clone(&self.kernel)));
        tokio::spawn(routes.run());
        tokio::spawn(sweep(originals));
        let (telemetry, name) =
            (self.context.telemetry.clone(), Arc::clone(&self.context.workload));
        let stop = self.events_stop.clone();
        let task = tokio::spawn(async move {
            let report = |event: DirectClose| telemetry.skipped(&skipped(&name, &event));
            tokio::select! {
                () = events.run(report) => {}
                () = stop.cancelled() => {}
            }
            events.drain(report);
            events
        });
        *lock(&self.events) = Some(task);
        let (kernel, name) = (Arc::clone(&self.kernel), Arc::clone(&self.context.workload));
        self.context.telemetry.set_kernel_counters(move || {
            kernel
                .counters()
                .into_iter()
                .map(|(reason, count)| KernelCount { workload: Arc::clone(&name), reason, count })
                .collect()
        });
        Ok(())
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, originals: Arc<Originals>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.accepting.cancelled() => return,
            };
            match accepted {
                Ok((client, peer)) => self.admit(client, peer, &originals),
                // accept(2): these are errors of the connection, not of the listener.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; pausing");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, client: TcpStream, peer: SocketAddr, originals: &Originals) {
        let captured = match originals.take(peer) {
            Ok(captured) => captured,
            Err(error) => {
                tracing::error!(%error, client.addr = %peer, "original destination not read");
                None
            }
        };
        let limit = self.context.config.forward.max_connections;
        if self.connections.len() >= limit {
            return self.context.shed(client, peer, captured);
        }
        let context = Arc::clone(&self.context);
        self.connections.spawn(async move { context.outbound(client, peer, captured).await });
    }

    /// Puts ports into a state; new connections get it at once, in the kernel.
    ///
    /// # Errors
    /// Where a map cannot be written; ports before the failing one keep their new state, in the
    /// policy as in the kernel.
    pub fn set_ports(
        &self,
        direction: Direction,
        ports: &PortSet,
        state: PortState,
        source: Source,
    ) -> Result<Vec<PortChange>, CaptureError> {
        let mut policy = lock(&self.policy);
        let mut next = policy.clone();
        let changes = next.set(direction, ports, state, source);
        for change in &changes {
            let after = change.after;
            let written = self.kernel.set_port(
                direction,
                change.port,
                after.state,
                after.source,
                after.included,
            );
            if let Err(error) = written {
                self.revert(&changes, change.port);
                return Err(error);
            }
        }
        *policy = next;
        Ok(changes)
    }

    /// Takes back the changes up to the port at which writing failed.
    fn revert(&self, changes: &[PortChange], failed: u16) {
        for change in changes.iter().take_while(|change| change.port != failed) {
            let before = change.before;
            let _ = self.kernel.set_port(
                change.direction,
                change.port,
                before.state,
                before.source,
                before.included,
            );
        }
    }

    /// The policy as it stands.
    #[must_use]
    pub fn policy(&self) -> PortPolicy {
        lock(&self.policy).clone()
    }

    /// Its name in metrics and records.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.context.workload
    }

    /// True once the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.context.drain.is_cancelled()
    }

    /// True where connections to loopback are captured too.
    #[must_use]
    pub fn captures_loopback(&self) -> bool {
        self.context.config.outbound.capture_loopback
    }

    /// The kernel side.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The addresses of weir's listeners.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Whether `sk_msg` is on.
    #[must_use]
    pub fn acceleration(&self) -> &Acceleration {
        &self.sk_msg
    }

    /// The workload's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Stops capturing, lets open connections finish until the deadline, then cuts them.
    /// Returns how many had to be cut.
    pub async fn drain(&self, deadline: Duration) -> usize {
        if let Err(error) = self.listeners.withdraw() {
            tracing::warn!(%error, "listener slots not emptied");
        }
        tokio::time::sleep(STRAGGLERS).await;
        self.accepting.cancel();
        self.context.drain.cancel();
        self.connections.close();
        let finished = tokio::time::timeout(deadline, self.connections.wait()).await;
        let cut = self.connections.len();
        if finished.is_err() {
            self.context.abort.cancel();
            self.connections.wait().await;
        }
        self.settle_events().await;
        cut
    }

    /// Accounts for every close event that the kernel has sent so far.
    async fn settle_events(&self) {
        self.events_stop.cancel();
        let task = lock(&self.events).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

// === helpers ===

fn configure(
    kernel: &Kernel,
    config: &Config,
    policy: &PortPolicy,
    own_cgroup: u64,
    sk_msg: bool,
) -> Result<(), CaptureError> {
    for direction in [Direction::Outbound, Direction::Inbound] {
        for (port, status) in policy.rules(direction) {
            kernel.set_port(direction, port, status.state, status.source, status.included)?;
        }
    }
    for cidr in &config.outbound.skip_cidrs.0 {
        kernel.skip_prefix(cidr.address, cidr.length)?;
    }
    let flag = |on, flag| if on { flag } else { 0 };
    kernel.configure(WorkloadConfig {
        exempt_cgroup: own_cgroup,
        heartbeat_limit_ns: Heartbeat::LIMIT_NS,
        flags: flag(config.outbound.capture_loopback, flags::CAPTURE_LOOPBACK)
            | flag(policy.has_include_list(Direction::Outbound), flags::INCLUDE_OUTBOUND)
            | flag(policy.has_include_list(Direction::Inbound), flags::INCLUDE_INBOUND)
            | flag(sk_msg, flags::SK_MSG),
        _pad: 0,
    })
}

/// Switches `sk_msg` on if it is wanted and the self-test passes; says so where it does not.
fn accelerate(kernel: &Kernel, wanted: bool) -> Acceleration {
    if !wanted {
        return Acceleration::Off;
    }
    match capture::sk_msg_self_test().and_then(|()| kernel.accelerate()) {
        Ok(()) => Acceleration::On,
        Err(error) => {
            tracing::warn!(%error, "going on without sk_msg");
            Acceleration::Refused(error.to_string())
        }
    }
}

/// Lets retries of a destination that could not be reached go direct.
fn let_fail(kernel: Arc<Kernel>) -> Box<dyn Fn(SocketAddr) + Send + Sync> {
    Box::new(move |destination| {
        if let Err(error) = kernel.let_fail(destination, LET_FAIL) {
            tracing::warn!(%error, "a retry will not see the true error");
        }
    })
}

async fn sweep(originals: Arc<Originals>) {
    let mut ticks = tokio::time::interval(PENDING_AGE);
    loop {
        ticks.tick().await;
        let swept = originals.sweep(PENDING_AGE);
        if swept > 0 {
            tracing::debug!(swept, "connections that were never accepted");
        }
    }
}

fn skipped(name: &Arc<str>, event: &DirectClose) -> SkippedConnection {
    let by_port = matches!(event.reason, Reason::SkipPort);
    SkippedConnection {
        workload: Arc::clone(name),
        direction: Direction::Outbound,
        destination: event.captured.destination,
        source: match event.reason {
            Reason::SkipCidr | Reason::NotIncluded => Source::Config,
            Reason::FailedBefore => Source::Learned,
            _ if by_port => event.captured.state_source,
            _ => Source::Default,
        },
        reason: event.reason,
        bytes_sent: event.bytes_sent,
        bytes_received: event.bytes_received,
        duration: event.duration,
        srtt: event.srtt,
        retransmits: event.retransmits,
        established: event.established,
    }
}

fn is_of_connection(error: &std::io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL | libc::EBADF
        )
    )
}

/// A poisoned lock guards a whole value: every change is made on a copy and then stored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

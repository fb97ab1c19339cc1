//! Whether a workload's outbound connections are tapped, and the tap that all share: loaded when the first
//! workload asks for it, and read by one task.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weir_common::WorkloadId;

use super::{Shared, Workload, configure::Switches, lock};
use crate::{
    blocking::blocking,
    capture::{CaptureError, Instance, MapMemory, Tap, TapEvents, TapLinks},
    config::{EngineName, Fail, HttpEngine, WorkloadSettings},
    connection::{Context, Tapped, TappedConnections},
    service::Services,
};

/// How often the services are compared with those that the hooks know.
const SERVICES_EVERY: Duration = Duration::from_millis(500);
/// How long the end is waited for of connections that the workload has closed.
const CLOSING: Duration = Duration::from_secs(1);

/// The tap of the process.
#[derive(Default)]
pub struct Tapping {
    running: OnceCell<Result<Running, String>>,
}

/// The tap, and who reads it.
struct Running {
    tap: Tap,
    tapped: Arc<Tapped>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The tap of one workload.
pub enum WorkloadTap {
    /// Another engine is in effect, and wanted.
    Unwanted,
    /// It was asked for, and connections are passed through: why.
    Refused(String),
    /// Outbound connections are tapped.
    On {
        /// The programs on its cgroup; none while a new process has its own there.
        links: Mutex<Option<TapLinks>>,
        /// To attach them again.
        shared: Weak<Shared>,
        /// Who counts its connections.
        tapped: Arc<Tapped>,
    },
}

// === impl Tapping ===

impl Tapping {
    async fn running(&self, shared: &Arc<Shared>) -> Result<&Running, String> {
        let running = self.running.get_or_init(|| async {
            let short = |error: CaptureError| {
                // With the verifier's log it is many lines.
                let text = error.to_string();
                tracing::debug!(error = text, "the tap does not load");
                text.split(" Verifier output").next().unwrap_or_default().to_owned()
            };
            let started = Running::start(shared).await.map_err(short);
            if let Err(error) = &started {
                tracing::warn!(error, "the tap does not work here: connections are passed through");
            }
            started
        });
        running.await.as_ref().map_err(Clone::clone)
    }

    /// What the kernel has allocated for its maps; nothing where it is not loaded.
    pub fn map_memory(&self) -> Vec<MapMemory> {
        match self.running.get() {
            Some(Ok(running)) => running.tap.map_memory().collect(),
            _ => Vec::new(),
        }
    }

    /// Accounts for all that was tapped, and reads no more.
    pub async fn settle(&self) {
        let Some(Ok(running)) = self.running.get() else { return };
        running.stop.cancel();
        let task = lock(&running.task).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

// === impl Running ===

impl Running {
    async fn start(shared: &Arc<Shared>) -> Result<Self, CaptureError> {
        let (instance, services) = (Arc::clone(&shared.instance), Arc::clone(&shared.services));
        let tap = {
            let instance = Arc::clone(&instance);
            blocking(move || Tap::load(&instance)).await?
        };
        let events = tap.events()?;
        // What an earlier weir has left is not known to be right.
        let mut known = instance.proxied();
        keep_proxied(&instance, &services, &mut known)?;
        let tapped = Arc::<Tapped>::default();
        let stop = CancellationToken::new();
        let task = tokio::spawn(read(events, Arc::clone(&tapped), stop.clone()));
        tokio::spawn(follow_services(instance, services, known, stop.clone()));
        tracing::info!("the tap is loaded");
        Ok(Self { tap, tapped, stop, task: Mutex::new(Some(task)) })
    }
}

async fn read(mut events: TapEvents, tapped: Arc<Tapped>, stop: CancellationToken) {
    let mut connections = TappedConnections::new(tapped);
    stop.run_until_cancelled(events.run(|id, moment, news| connections.tell(id, moment, news)))
        .await;
    let since = Instant::now();
    loop {
        events.settle(|id, moment, news| connections.tell(id, moment, news));
        if !connections.is_closing() || since.elapsed() > CLOSING {
            return connections.leave();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Weir chooses the endpoints of services, which the tap cannot.
fn keep_proxied(
    instance: &Instance,
    services: &Services,
    known: &mut HashSet<SocketAddr>,
) -> Result<(), CaptureError> {
    let now = services.addresses();
    if now != *known {
        instance.set_proxied(known, &now)?;
        *known = now;
    }
    Ok(())
}

async fn follow_services(
    instance: Arc<Instance>,
    services: Arc<Services>,
    mut known: HashSet<SocketAddr>,
    stop: CancellationToken,
) {
    let mut failed = false;
    while !stop.is_cancelled() {
        let kept = keep_proxied(&instance, &services, &mut known);
        if let Err(error) = &kept
            && !failed
        {
            tracing::warn!(%error, "some services are tapped instead of being balanced");
        }
        failed = kept.is_err();
        let _ = tokio::time::timeout(SERVICES_EVERY, stop.cancelled()).await;
    }
}

// === impl WorkloadTap ===

impl WorkloadTap {
    /// Attaches the tap to a workload's cgroup, where it is asked for and can be.
    pub(super) async fn of(
        shared: &Arc<Shared>,
        settings: &WorkloadSettings,
        cgroup: &Path,
    ) -> Self {
        let wanted = settings.outbound.engine.unwrap_or(shared.traffic.now().http.engine);
        if EngineName::engine(wanted) != HttpEngine::Tap {
            return Self::Unwanted;
        }
        if settings.workload.fail == Fail::Closed {
            let why = "fail is closed, which only a proxy can enforce";
            return Self::Refused(why.to_owned());
        }
        let running = match shared.tapping.running(shared).await {
            Ok(running) => running,
            Err(why) => return Self::Refused(why),
        };
        match running.tap.attach(cgroup) {
            Ok(links) => {
                let links = Mutex::new(Some(links));
                let tapped = Arc::clone(&running.tapped);
                Self::On { links, shared: Arc::downgrade(shared), tapped }
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    workload = settings.workload.name,
                    "the tap cannot be attached: connections are passed through"
                );
                Self::Refused(error.to_string())
            }
        }
    }

    /// Counts its connections for this one, from before the first.
    pub(super) fn begin(&self, workload: WorkloadId, context: &Arc<Context>) {
        if let Self::On { tapped, .. } = self {
            tapped.begin(workload, context);
        }
    }

    pub(super) const fn switches(&self, sk_msg: bool) -> Switches {
        Switches { sk_msg, tap: self.is_on() }
    }

    /// Outbound connections are tapped.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        matches!(self, Self::On { .. })
    }

    /// Why they are not, where that was asked for.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        match self {
            Self::Refused(why) => Some(why),
            Self::Unwanted | Self::On { .. } => None,
        }
    }

    /// Names of the hooks that are attached.
    #[must_use]
    pub fn hooks(&self) -> Vec<String> {
        match self {
            Self::On { links, .. } => lock(links).as_ref().map_or_else(Vec::new, TapLinks::hooks),
            Self::Unwanted | Self::Refused(_) => Vec::new(),
        }
    }

    /// A new process taps new connections from now on.
    pub(super) fn cede(&self) {
        if let Self::On { links, .. } = self
            && let Some(links) = &mut *lock(links)
        {
            links.begin_no_more();
        }
    }

    /// It has not come to do so.
    pub(super) fn take_back(&self, cgroup: Option<&Path>) {
        let Self::On { links, shared, .. } = self else { return };
        let (Some(shared), Some(cgroup)) = (shared.upgrade(), cgroup) else { return };
        let Some(Ok(running)) = shared.tapping.running.get() else { return };
        match running.tap.attach(cgroup) {
            Ok(new) => *lock(links) = Some(new),
            Err(error) => tracing::warn!(%error, "connections are not tapped any more"),
        }
    }
}

// === impl Workload ===

impl Workload {
    pub(super) fn switches(&self) -> Switches {
        self.tap.switches(self.shared.sk_msg)
    }

    /// How the workload's outbound connections are seen: the tap, or why not where it was asked for.
    #[must_use]
    pub const fn tap(&self) -> &WorkloadTap {
        &self.tap
    }
}

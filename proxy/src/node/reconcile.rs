//! Makes what is captured what is wanted, pod by pod: each for itself, so that one that cannot be
//! captured does not keep another from it.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use weir_manifest::{BY_SIDECAR, INJECT};

use super::{
    LOOK, Options, RETRY,
    cgroups::Touched,
    events::{Reason, Reports},
    seen::{Place, Seen},
    wish::{Wish, at, wish},
};
use crate::{
    admin::{
        node::NodeState,
        protocol::{PodState, PodStatus},
    },
    blocking::blocking,
    capture::{CaptureError, Netns},
    config::WorkloadSettings,
    host::{
        pods::{find_pod, is_populated},
        sidecar_runs_in,
    },
    workload::Workload,
    workloads::{WorkloadError, Workloads},
};

/// Longest time between two attempts to capture a pod that cannot be.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The shortest time between two looks at a sandbox that a process is entering: no event tells of that,
/// and it takes a container runtime some milliseconds.
const SOON: Duration = Duration::from_millis(5);
/// One look more for as many of the time that it has taken so far.
const PACE: u32 = 10;
/// A capture that is to be made anew, or that another weir has had, ends with its last connection,
/// at the latest at the drain deadline; only then it has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Keeps workloads in step with pods.
pub(super) struct Reconciler {
    options: Options,
    workloads: Arc<Workloads>,
    state: Arc<NodeState>,
    reports: Reports,
    stop: CancellationToken,
    /// What was reported of each pod, by UID: not again unless it changes.
    reported: HashMap<String, String>,
    failures: HashMap<String, Failure>,
    /// When each pod's sandbox was looked at.
    looked: HashMap<String, Instant>,
    /// Pods that a process is in, and none in a network namespace of the pod's.
    entered: HashMap<String, Entered>,
    /// Pods in which a sidecar was seen at work.
    themselves: HashSet<String>,
}

/// A pod whose first process is on its way.
#[derive(Clone, Debug)]
struct Entered {
    cgroup: PathBuf,
    since: Instant,
}

/// What is known of pods' cgroups besides what is there.
#[derive(Clone, Copy)]
struct Word<'a> {
    /// Those that have changed.
    touched: &'a Touched,
    /// Whether each change is told.
    watched: bool,
}

/// A pod that could not be captured.
#[derive(Clone, Debug)]
struct Failure {
    settings: WorkloadSettings,
    since: Instant,
    again: Instant,
    backoff: Duration,
    why: String,
    /// Another capture of the cgroup is in the way, perhaps only until it is drained.
    overlaps: bool,
}

/// How far one pod has come.
enum Progress {
    /// Looked at again after this time.
    Captured(Duration),
    /// It is left to its own weir.
    Itself(String),
    /// Nothing is wrong yet; looked at again after this time.
    Waiting(String, Duration),
    /// It cannot be captured as things are; tried again.
    Failed(String),
    /// It will not be captured unless its annotations change.
    Refused(Reason, String),
}

// === impl Reconciler ===

impl Reconciler {
    pub(super) fn new(
        options: Options,
        workloads: Arc<Workloads>,
        state: Arc<NodeState>,
        reports: Reports,
        stop: CancellationToken,
    ) -> Self {
        Self {
            options,
            workloads,
            state,
            reports,
            stop,
            reported: HashMap::new(),
            failures: HashMap::new(),
            looked: HashMap::new(),
            entered: HashMap::new(),
            themselves: HashSet::new(),
        }
    }

    /// Returns when to do so again, unless something changes before; `watched` says that a change of
    /// a cgroup is told.
    pub(super) async fn reconcile(
        &mut self,
        pods: &[Seen],
        touched: &Touched,
        watched: bool,
    ) -> Duration {
        let word = Word { touched, watched };
        let wishes: Vec<_> = pods
            .iter()
            .map(|seen| (seen, wish(seen, &self.options.defaults, self.options.linkerd)))
            .collect();
        self.remove_unwanted(&wishes);
        let (mut states, mut again) = (Vec::new(), LOOK);
        for (seen, wish) in wishes {
            if self.stop.is_cancelled() {
                return LOOK;
            }
            let progress = match wish {
                Wish::Nothing => continue,
                Wish::CapturesItself(how) => Progress::Itself(how),
                Wish::HostNetwork => Progress::Refused(
                    Reason::HostNetwork,
                    "hostNetwork: weir does not capture pods in the node's network".to_owned(),
                ),
                Wish::Bad(error) => Progress::Refused(Reason::BadAnnotation, error.to_string()),
                Wish::Capture(settings) => self.capture(seen, &settings, word).await,
            };
            again = again.min(progress.again());
            states.push(self.told(seen, progress));
        }
        let known: HashSet<&str> = pods.iter().map(|seen| &*seen.pod.uid).collect();
        self.reported.retain(|uid, _| known.contains(&**uid));
        self.failures.retain(|uid, _| known.contains(&**uid));
        self.looked.retain(|uid, _| known.contains(&**uid));
        self.entered.retain(|uid, _| known.contains(&**uid));
        self.themselves.retain(|uid| known.contains(&**uid));
        self.state.set(states);
        again
    }

    fn remove_unwanted(&self, wishes: &[(&Seen, Wish)]) {
        let wanted: HashSet<_> = wishes
            .iter()
            .filter(|(_, wish)| matches!(wish, Wish::Capture(_)))
            .map(|(seen, _)| (seen.workload(), &*seen.pod.uid))
            .collect();
        for workload in self.workloads.pods() {
            let uid = workload.pod().map(|pod| &*pod.uid).unwrap_or_default();
            if !wanted.contains(&(workload.name().to_string(), uid)) {
                remove(&self.workloads, &workload, "no longer selected");
            }
        }
    }

    async fn capture(
        &mut self,
        seen: &Seen,
        settings: &WorkloadSettings,
        word: Word<'_>,
    ) -> Progress {
        let uid = &seen.pod.uid;
        if self.themselves.contains(uid) {
            return Progress::Itself("a sidecar runs in it".to_owned());
        }
        if let Some(workload) = self.workloads.get(&settings.workload.name) {
            let Some(progress) = self.keep(seen, settings, &workload, word.touched).await else {
                self.failures.remove(uid);
                return Progress::Captured(LOOK);
            };
            return progress;
        }
        if let Some(failure) = self.failures.get(uid)
            && failure.again > Instant::now()
            && failure.settings == *settings
        {
            return failure.progress();
        }
        let cgroup = match self.locate(seen).await {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => {
                let again = seen.place.told(word.watched);
                return Progress::Waiting("its cgroup does not exist yet".to_owned(), again);
            }
            Err(error) => {
                let why = format!(
                    "cannot search for its cgroup below {}: {error}",
                    self.options.cgroup_root.display()
                );
                return self.failed(uid, settings, why, false);
            }
        };
        match self.workloads.add_pod(at(settings, &cgroup), seen.pod.clone()).await {
            Ok(workload) => {
                tracing::info!(
                    workload = &**workload.name(),
                    cgroup = %cgroup.display(),
                    "captured"
                );
                self.failures.remove(uid);
                self.entered.remove(uid);
                Progress::Captured(LOOK)
            }
            // Its sandbox is being made. (Processes that weir cannot see are another error.)
            Err(WorkloadError::Capture(CaptureError::NoProcess(_))) => {
                let again = self.first_process(seen, cgroup, word.watched).await;
                Progress::Waiting("its cgroup has no process yet".to_owned(), again)
            }
            Err(error @ WorkloadError::BeingReplaced) => {
                Progress::Waiting(error.to_string(), RETRY)
            }
            Err(error) if error.is_overlap() => {
                if blocking(move || sidecar_runs_in(&cgroup)).await {
                    self.failures.remove(uid);
                    self.themselves.insert(uid.clone());
                    return Progress::Itself("a sidecar runs in it".to_owned());
                }
                let why = format!(
                    "{error}; if the pod has a weir sidecar, annotate the pod {INJECT}: \
                     {BY_SIDECAR}"
                );
                self.failed(uid, settings, why, true)
            }
            Err(error) => self.failed(uid, settings, error.to_string(), false),
        }
    }

    /// How soon a pod without a process in a network namespace of its own is looked at again.
    async fn first_process(&mut self, seen: &Seen, cgroup: PathBuf, watched: bool) -> Duration {
        let (uid, looked) = (&seen.pod.uid, cgroup.clone());
        if !blocking(move || is_populated(&looked)).await {
            self.entered.remove(uid);
            return seen.place.told(watched);
        }
        let now = Instant::now();
        let entered = self.entered.entry(uid.clone()).or_insert(Entered { cgroup, since: now });
        (entered.since.elapsed() / PACE).clamp(SOON, RETRY)
    }

    /// What is captured already: `None` where it is as it should be now.
    async fn keep(
        &mut self,
        seen: &Seen,
        settings: &WorkloadSettings,
        workload: &Arc<Workload>,
        touched: &Touched,
    ) -> Option<Progress> {
        let now = workload.settings();
        if workload.pod().is_none() {
            let why = format!(
                "a workload {:?} has been added by hand; remove it (`weir workload remove {0}`)",
                workload.name()
            );
            return Some(Progress::Failed(why));
        }
        let workloads = Arc::clone(&self.workloads);
        let anew = |why: &str| {
            remove(&workloads, workload, why);
            Some(Progress::Waiting(format!("restarting capture: {why}"), RETRY))
        };
        if workload.pod() != Some(&seen.pod) {
            return anew("another pod has the name now");
        }
        if seen.ending {
            workload.let_clients_leave();
        }
        let cgroup = now.workload.cgroup.clone().unwrap_or_default();
        let due = self.looked.get(&seen.pod.uid).is_none_or(|last| last.elapsed() >= LOOK);
        let entered = self.entered.remove(&seen.pod.uid);
        if due || entered.is_some() || touched.has(&cgroup) {
            match sandbox(cgroup.clone()).await {
                Ok(Sandbox::In(netns)) if netns == workload.netns().inode() => {}
                Ok(Sandbox::In(_)) => return anew("it has another network namespace"),
                // Between two sandboxes.
                Ok(Sandbox::Empty) => {
                    self.entered.extend(entered.map(|it| (seen.pod.uid.clone(), it)));
                    let again = self.first_process(seen, cgroup.clone(), true).await;
                    if again < LOOK {
                        return Some(Progress::Captured(again));
                    }
                }
                Ok(Sandbox::Gone) => return anew("its cgroup no longer exists"),
                Err(error) => tracing::debug!(%error, "cannot inspect the sandbox"),
            }
            self.looked.insert(seen.pod.uid.clone(), Instant::now());
        }
        let wanted = at(settings, &cgroup);
        if *now == wanted {
            return None;
        }
        if let Err(error) = self.workloads.changeable() {
            return Some(Progress::Waiting(error.to_string(), RETRY));
        }
        if !workload.can_change_to(&wanted) {
            return anew("its settings");
        }
        match workload.change(wanted).await {
            Ok(()) => {
                tracing::info!(workload = &**workload.name(), "has other settings");
                None
            }
            Err(error) => Some(Progress::Failed(format!("its settings are as before: {error}"))),
        }
    }

    async fn locate(&self, seen: &Seen) -> io::Result<Option<PathBuf>> {
        match &seen.place {
            Place::Path(path) => Ok(path.is_dir().then(|| path.clone())),
            Place::Uid(uid) => {
                if let Some(entered) = self.entered.get(&seen.pod.uid)
                    && entered.cgroup.is_dir()
                {
                    return Ok(Some(entered.cgroup.clone()));
                }
                let (root, uid) = (self.options.cgroup_root.clone(), uid.clone());
                blocking(move || find_pod(&root, &uid)).await
            }
        }
    }

    fn failed(
        &mut self,
        uid: &str,
        settings: &WorkloadSettings,
        why: String,
        overlaps: bool,
    ) -> Progress {
        let now = Instant::now();
        let before = self.failures.get(uid).filter(|before| before.settings == *settings);
        let longer = |before: &Failure| (before.backoff * 2).min(MAX_BACKOFF);
        let backoff = before.filter(|_| !overlaps).map_or(RETRY, longer);
        let failure = Failure {
            settings: settings.clone(),
            since: before.map_or(now, |before| before.since),
            again: now + backoff,
            backoff,
            why,
            overlaps,
        };
        let progress = failure.progress();
        self.failures.insert(uid.to_owned(), failure);
        progress
    }

    /// Says what is new, and how the pod stands.
    fn told(&mut self, seen: &Seen, progress: Progress) -> PodStatus {
        let (state, why, reason) = match progress {
            Progress::Captured(_) => (PodState::Captured, None, None),
            Progress::Itself(how) => (PodState::CapturesItself, Some(how), None),
            Progress::Waiting(why, _) => (PodState::Waiting, Some(why), None),
            Progress::Failed(why) => (PodState::Failed, Some(why), Some(Reason::CaptureFailed)),
            Progress::Refused(reason, why) => (PodState::Refused, Some(why), Some(reason)),
        };
        match (reason, &why) {
            (Some(reason), Some(why)) if self.reported.get(&seen.pod.uid) != Some(why) => {
                self.reports.refused(&seen.pod, reason, why);
                self.reported.insert(seen.pod.uid.clone(), why.clone());
            }
            (Some(_), _) => {}
            (None, _) => drop(self.reported.remove(&seen.pod.uid)),
        }
        PodStatus {
            namespace: seen.pod.namespace.clone(),
            name: seen.pod.name.clone(),
            uid: seen.pod.uid.clone(),
            missing: seen.running && matches!(state, PodState::Waiting | PodState::Failed),
            state,
            why,
        }
    }
}

// === impl Progress ===

impl Progress {
    /// When the pod is looked at again, unless something changes before.
    const fn again(&self) -> Duration {
        match self {
            Self::Captured(again) | Self::Waiting(_, again) => *again,
            Self::Failed(_) => RETRY,
            Self::Itself(_) | Self::Refused(..) => LOOK,
        }
    }
}

// === impl Place ===

impl Place {
    /// When to look for what is not there yet. Only cgroups that are named by a UID are watched.
    const fn told(&self, watched: bool) -> Duration {
        match self {
            Self::Uid(_) if watched => LOOK,
            Self::Uid(_) | Self::Path(_) => RETRY,
        }
    }
}

// === impl Failure ===

impl Failure {
    fn progress(&self) -> Progress {
        if self.overlaps && self.since.elapsed() < PATIENCE {
            let why = "connections of an earlier capture are draining";
            Progress::Waiting(why.to_owned(), RETRY)
        } else {
            Progress::Failed(self.why.clone())
        }
    }
}

// === helpers ===

fn remove(workloads: &Arc<Workloads>, workload: &Workload, why: &str) {
    match workloads.remove(workload.name()) {
        Ok(()) => {
            tracing::info!(workload = &**workload.name(), why, "no longer captured");
        }
        // Another process was faster, or a successor will see the same.
        Err(error) => tracing::debug!(%error, workload = &**workload.name(), "cannot remove"),
    }
}

/// What is in a pod's cgroup.
enum Sandbox {
    /// Processes in a network namespace with this inode.
    In(u64),
    /// No process.
    Empty,
    /// There is no such cgroup.
    Gone,
}

async fn sandbox(cgroup: PathBuf) -> Result<Sandbox, CaptureError> {
    blocking(move || {
        if !Path::is_dir(&cgroup) {
            return Ok(Sandbox::Gone);
        }
        let netns = Netns::of_pod(&cgroup)?;
        Ok(netns.map_or(Sandbox::Empty, |netns| Sandbox::In(netns.inode())))
    })
    .await
}

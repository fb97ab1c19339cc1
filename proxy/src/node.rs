//! `weir node`: keeps what is captured in step with the pods of one Kubernetes node.
//!
//! A source ([`cluster`], or [`directory`] without an API server) says which pods there are;
//! [`wish`] says what their annotations ask for; [`reconcile`] makes it so, and says what came of
//! it to [`NodeState`] (for `weir status` and `/ready`) and to [`events`].

mod cgroups;
mod cluster;
mod directory;
mod events;
mod reconcile;
mod route_status;
mod seen;
mod services;
mod wish;

pub(crate) use cluster::ClusterError;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    cgroups::{Cgroups, Touched},
    events::Reports,
    reconcile::Reconciler,
    seen::Seen,
};
use crate::{admin::node::NodeState, config::WorkloadSettings, workloads::Workloads};

/// How soon what failed is tried again, and what is waited for is looked for where nothing tells.
const RETRY: Duration = Duration::from_millis(500);
/// How often what is not reported is looked for: a sandbox that was made anew, a cgroup that is
/// gone.
const LOOK: Duration = Duration::from_secs(5);
/// Changes come in bursts.
const BURST: Duration = Duration::from_millis(20);

/// Where the pods are told from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From an API server.
    Cluster {
        /// The kubeconfig; `None` for the service account's, or where kubectl would look.
        kubeconfig: Option<PathBuf>,
        /// The node whose pods are meant.
        node: String,
    },
    /// From manifests in a directory.
    Directory(PathBuf),
}

/// How pods are captured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What a pod without annotations of its own gets.
    pub defaults: WorkloadSettings,
    /// Whether Linkerd's annotations count too.
    pub linkerd: bool,
    /// The cgroup below which the pods' are looked for.
    pub cgroup_root: PathBuf,
}

/// All pods that a source knows; `None` before it knows them all.
type Pods = Option<Arc<Vec<Seen>>>;

/// Follows a source until told to stop.
#[derive(Debug)]
pub(crate) struct Node {
    /// What tells of pods and reports on them.
    tasks: JoinSet<()>,
    stop: CancellationToken,
    reconciling: JoinHandle<()>,
}

// === impl Node ===

impl Node {
    /// Begins to follow. Must be called within a runtime.
    ///
    /// # Errors
    /// Where the source cannot be asked at all, such as for a kubeconfig that cannot be read. An API
    /// server that does not answer is none: it is asked again.
    pub(crate) async fn start(
        source: Source,
        options: Options,
        workloads: Arc<Workloads>,
        state: Arc<NodeState>,
    ) -> Result<Self, ClusterError> {
        let known = workloads.services();
        let mut tasks = JoinSet::new();
        let (sender, pods) = watch::channel::<Pods>(None);
        let reports = match source {
            Source::Cluster { kubeconfig, node } => {
                let server = cluster::server(kubeconfig.as_deref()).await?;
                let (reports, publish) = Reports::to_cluster(server.clone(), &node);
                tasks.spawn(publish);
                tasks.spawn(services::follow(&server, &known, reports.clone(), options.linkerd));
                let state = Arc::clone(&state);
                tasks.spawn(async move { cluster::follow(server, &node, sender, &state).await });
                reports
            }
            Source::Directory(path) => {
                let state = Arc::clone(&state);
                tasks.spawn(async move { directory::follow(&path, sender, &state).await });
                Reports::to_log()
            }
        };
        tasks.spawn(Arc::clone(&workloads).keep_spares());
        let stop = CancellationToken::new();
        let cgroups = Cgroups::below(options.cgroup_root.clone());
        let reconciler = Reconciler::new(options, workloads, state, reports, stop.clone());
        let reconciling = tokio::spawn(run(reconciler, pods, cgroups, stop.clone()));
        Ok(Self { tasks, stop, reconciling })
    }

    /// Follows no more. What is captured stays captured; no pod is left half captured.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
        if let Err(error) = self.reconciling.await {
            tracing::error!(%error, "reconciliation failed");
        }
    }
}

// === helpers ===

async fn run(
    mut reconciler: Reconciler,
    mut pods: watch::Receiver<Pods>,
    mut cgroups: Cgroups,
    stop: CancellationToken,
) {
    let mut touched = Touched::default();
    while !stop.is_cancelled() {
        let known = pods.borrow_and_update().clone();
        let wait = match known {
            None => LOOK,
            Some(known) => {
                let touched = std::mem::take(&mut touched);
                reconciler.reconcile(&known, &touched, cgroups.are_watched()).await
            }
        };
        let reported = tokio::select! {
            () = stop.cancelled() => continue,
            () = tokio::time::sleep(wait) => continue,
            more = cgroups.changed() => {
                touched.add(more);
                continue;
            }
            reported = pods.changed() => reported,
        };
        if reported.is_err() {
            return;
        }
        // A pod that has just begun does not wait for others to be reported.
        tokio::select! {
            () = tokio::time::sleep(BURST) => {}
            more = cgroups.changed() => touched.add(more),
        }
    }
}

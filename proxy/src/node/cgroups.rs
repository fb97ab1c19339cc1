//! When to look at pods' cgroups: when the kernel says that they have changed, or, where it cannot be
//! asked to, again and again.

use std::{collections::HashSet, future, path::PathBuf, time::Duration};

use tokio::time::Instant;

use super::RETRY;
use crate::host::pods::Watch;

/// How soon it is tried again to watch what could not be.
const AGAIN: Duration = Duration::from_secs(60);

/// The cgroups of a node's pods.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    watch: Option<Watch>,
    /// Why they are not watched, as it was said.
    problem: Option<String>,
    again: Instant,
}

/// Pods whose cgroups are worth a look.
#[derive(Debug, Default)]
pub(super) struct Touched {
    all: bool,
    pods: HashSet<PathBuf>,
}

// === impl Cgroups ===

impl Cgroups {
    /// Needs a tokio runtime.
    pub(super) fn below(root: PathBuf) -> Self {
        let mut cgroups = Self { root, watch: None, problem: None, again: Instant::now() };
        cgroups.begin();
        cgroups
    }

    /// Whether [`Self::changed`] tells of every change at once.
    pub(super) const fn are_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits for a change. Safe to be given up.
    pub(super) async fn changed(&mut self) -> Touched {
        if let Some(watch) = &mut self.watch {
            match watch.changed().await {
                Ok(pods) => return Touched { all: false, pods },
                Err(error) => {
                    tracing::debug!(%error, "watching cgroups again");
                    self.watch = None;
                }
            }
        } else {
            tokio::time::sleep_until(self.again).await;
        }
        self.begin();
        if self.watch.is_some() {
            return Touched { all: true, pods: HashSet::new() };
        }
        // The caller looks by itself.
        future::pending().await
    }

    fn begin(&mut self) {
        self.again = Instant::now() + AGAIN;
        let problem = match Watch::new(&self.root) {
            Ok(watch) => {
                self.watch = Some(watch);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        match &problem {
            Some(problem) if self.problem.as_ref() != Some(problem) => tracing::warn!(
                problem,
                cgroup_root = %self.root.display(),
                looked_every = ?RETRY,
                "cannot watch cgroups: new pods are captured later; raise fs.inotify.max_user_instances or \
                 max_user_watches"
            ),
            None if self.problem.is_some() => tracing::info!("cgroups are watched again"),
            _ => {}
        }
        self.problem = problem;
    }
}

// === impl Touched ===

impl Touched {
    /// Whether a pod at this cgroup is among them.
    pub(super) fn has(&self, cgroup: &std::path::Path) -> bool {
        self.all || self.pods.contains(cgroup)
    }

    /// These too.
    pub(super) fn add(&mut self, more: Self) {
        self.all |= more.all;
        self.pods.extend(more.pods);
    }
}

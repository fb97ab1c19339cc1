//! Whether a workload is captured, measured: its cgroup, its network namespace, and the programs on
//! its hooks. What was put in another's place is put back; what does not exist is let go.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{Origin, TemporaryPort, Workload, WorkloadSpec, configure::configure_anew, lock};
use crate::{
    accept::Slots,
    blocking::blocking,
    capture::{CaptureError, RememberedPort, Residence, foreign, residence},
    config::WorkloadSettings,
    decision::{Direction, Source, direction_name},
};

/// What a workload has to have before it is captured; the `reason` of `weir_workload_waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its cgroup is not there, or not the one that it was.
    Cgroup,
    /// Its network namespace is not there, or not the one that it was.
    Netns,
    /// No process tells its network namespace.
    Process,
    /// Programs are not on its hooks and could not be put there.
    Hooks,
    /// Capturing it has failed.
    Start,
}

/// Why a workload is not captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What it waits for.
    pub missing: Missing,
    /// The same for people: the object, and what is wrong with it.
    pub why: String,
}

/// What a look at a workload has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is captured.
    Sound,
    /// Another program, or none, is on this hook.
    Changed(&'static str),
    /// What it was attached to is gone.
    Gone(Wait),
}

// === impl Missing ===

impl Missing {
    /// The names of all, in their order.
    pub const NAMES: [&'static str; 5] = ["cgroup", "netns", "process", "hooks", "start"];

    /// As a label has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

// === impl Wait ===

impl Wait {
    pub(crate) fn new(missing: Missing, why: impl Into<String>) -> Self {
        Self { missing, why: why.into() }
    }

    /// What of its place is not there yet, as far as paths tell.
    #[must_use]
    pub fn of(settings: &WorkloadSettings) -> Option<Self> {
        let cgroup = settings.workload.cgroup.as_deref()?;
        if inode(cgroup) == Ok(None) {
            let why = format!("cgroup {} does not exist", cgroup.display());
            return Some(Self::new(Missing::Cgroup, why));
        }
        let netns = settings.workload.netns.as_deref()?;
        (inode(netns) == Ok(None)).then(|| {
            let why = format!("network namespace {} does not exist", netns.display());
            Self::new(Missing::Netns, why)
        })
    }
}

// === impl Workload ===

impl Workload {
    /// Looks whether it is captured. `thorough` asks its processes too which namespace they are in,
    /// where nothing else tells. Blocks.
    #[must_use]
    pub fn look(&self, thorough: bool) -> Look {
        let gone = self.look_at_cgroup().or_else(|| self.look_at_netns(thorough));
        if let Some(wait) = gone {
            return Look::Gone(wait);
        }
        self.kernel.links.changed_hook().map_or(Look::Sound, Look::Changed)
    }

    /// Looks whether foreign programs filter what the workload's cgroup sends and receives. weir's
    /// own connections would not pass them: where there are any, the workload's go direct. What they do
    /// is not known, so that one that only counts is taken for a filter too. `thorough` looks at the cgroups
    /// below as well, and at the programs on the connect hooks. Blocks.
    pub fn look_at_filters(&self, thorough: bool) {
        let settings = self.settings();
        let Some(cgroup) = settings.workload.cgroup.as_deref() else { return };
        // A cgroup that cannot be asked is asked again.
        let found = foreign::filters(cgroup, thorough).into_iter().flatten();
        for (direction, found) in found {
            if direction == Direction::Outbound
                && let Err(error) = self.kernel.flags.set_egress_shared(found.shared)
            {
                tracing::warn!(%error, "cannot store the packet filters of a cgroup");
            }
            self.filters_found(direction, found.apart, thorough);
        }
        if thorough && let Ok(apart) = foreign::apart(cgroup) {
            self.kernel.set_apart(apart);
        }
    }

    /// Looks how many source ports its namespace has. Blocks.
    pub fn look_at_ports(&self) {
        if let Err(error) = self.kernel.flags.count_source_ports(&self.netns) {
            tracing::debug!(%error, workload = &**self.name(), "cannot count source ports");
        }
    }

    fn filters_found(&self, direction: Direction, found: Vec<String>, thorough: bool) {
        let mut known = lock(&self.filters);
        let known = &mut known[direction as usize];
        // Those of a cgroup below are seen by a thorough look only: another look has nothing to say
        // where there are any.
        if !thorough && !known.is_empty() {
            return;
        }
        // Also what an earlier weir has left in the map.
        if let Err(error) = self.kernel.flags.set_filtered(direction, !found.is_empty()) {
            return tracing::warn!(%error, "cannot store a packet filter of a cgroup");
        }
        if *known == found {
            return;
        }
        let (workload, direction) = (&**self.name(), direction_name(direction));
        if found.is_empty() {
            tracing::info!(
                workload,
                direction,
                "the cgroup has no packet filters any more: capturing"
            );
        } else {
            tracing::warn!(
                workload,
                direction,
                programs = found.join(", "),
                "connections are not captured: programs filter the packets of the cgroup, but not \
                 weir's; detach them, or run weir in a cgroup below the same programs"
            );
        }
        *known = found;
    }

    fn look_at_cgroup(&self) -> Option<Wait> {
        let settings = self.settings();
        let path = settings.workload.cgroup.as_deref()?;
        let what = match inode(path) {
            Ok(Some(inode)) if inode != self.cgroup_id => "was recreated",
            Ok(None) => "does not exist",
            _ => return None,
        };
        Some(Wait::new(Missing::Cgroup, format!("cgroup {} {what}", path.display())))
    }

    fn look_at_netns(&self, thorough: bool) -> Option<Wait> {
        let settings = self.settings();
        let path = settings.workload.netns.as_deref();
        // What is in /proc goes with a process; others may be in its namespace still.
        if let Some(path) = path.filter(|path| !path.starts_with("/proc")) {
            let what = match inode(path) {
                Ok(Some(inode)) if inode != self.netns.inode() => "was recreated",
                Ok(None) => "does not exist",
                _ => return None,
            };
            let why = format!("network namespace {} {what}", path.display());
            return Some(Wait::new(Missing::Netns, why));
        }
        // Pods are looked at by `node/reconcile.rs`.
        if !thorough || self.origin == Origin::Pod {
            return None;
        }
        let cgroup = settings.workload.cgroup.as_deref()?;
        match residence(cgroup, self.netns.inode()) {
            Residence::Here => None,
            Residence::Elsewhere if path.is_some() && self.netns.is_own() => None,
            Residence::Empty if self.netns.is_own() => None,
            Residence::Elsewhere => {
                let why = format!(
                    "the processes of cgroup {} are in another network namespace than before",
                    cgroup.display()
                );
                Some(Wait::new(Missing::Netns, why))
            }
            Residence::Empty => {
                let why = format!(
                    "cgroup {} has no process from which to find its network namespace",
                    cgroup.display()
                );
                Some(Wait::new(Missing::Process, why))
            }
        }
    }

    /// Puts this weir's programs back onto the hooks.
    ///
    /// # Errors
    /// The first one that the kernel refuses; and where nothing of the instance is pinned any more.
    pub async fn put_programs_back(&self) -> Result<(), CaptureError> {
        if !self.shared.instance.is_pinned() {
            // This one has no pin that was removed.
            self.kernel.links.ignore_options();
            return Err(CaptureError::Unpinned);
        }
        let cgroup = self.settings().workload.cgroup.clone().unwrap_or_default();
        self.attach(cgroup, false).await
    }

    /// Why it is not captured as it should be; `None` where it is.
    #[must_use]
    pub fn wait(&self) -> Option<Wait> {
        lock(&self.wait).clone()
    }

    /// Says why it is not captured. Returns whether that is new.
    pub fn set_wait(&self, wait: Option<Wait>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.wait), wait.clone());
        before != wait
    }

    /// A new process writes what the hooks know from now on.
    pub fn cede(&self) {
        self.kernel.flags.cede();
        self.tap.cede();
    }

    /// No more changes of the namespace's routes are followed.
    pub fn stop_following(&self) {
        self.stop_following.cancel();
    }

    /// Takes everything back that a new process which has not come to serve may have changed.
    ///
    /// # Errors
    /// Where a map cannot be written or a program not be attached.
    pub async fn take_back(&self) -> Result<(), CaptureError> {
        let (settings, policy) = (self.settings(), self.policy());
        let own = Some(self.shared.instance.programs());
        self.description(&settings, self.origin, own).keep(&self.kernel)?;
        configure_anew(&self.kernel, &settings, &policy, self.switches()).await?;
        self.tap.take_back(settings.workload.cgroup.as_deref());
        if !self.slots.withdrawn.load(Ordering::Acquire) {
            self.slots.listeners.offer()?;
        }
        let kernel = Arc::clone(&self.kernel);
        if blocking(move || kernel.links.changed_hook()).await.is_some() {
            self.put_programs_back().await?;
        }
        Ok(())
    }

    /// Takes it off a place that does not exist any more. Its connections go on; they are to be
    /// [drained](Self::drain) as those whose slots are another's.
    pub fn let_go(&self) {
        self.slots.over.store(true, Ordering::Release);
        self.slots.withdraw();
        self.stop_accepting.cancel();
        self.stop_following.cancel();
        self.kernel.links.detach();
        self.release_claim();
    }

    /// What it takes to capture it again, under the same number.
    #[must_use]
    pub fn start_again(&self) -> WorkloadSpec {
        let policy = self.policy();
        let directions = [Direction::Outbound, Direction::Inbound];
        let rules = directions.into_iter().flat_map(|direction| {
            policy.rules(direction).map(move |(port, status)| (direction, port, status))
        });
        let set = rules.filter(|(.., status)| status.source == Source::Cli);
        let found: Vec<_> = set
            .map(|(direction, port, status)| RememberedPort {
                direction,
                port,
                state: status.state,
            })
            .collect();
        let temporary = lock(&self.temporary).all();
        WorkloadSpec {
            settings: WorkloadSettings::clone(&self.settings()),
            origin: self.origin,
            id: self.kernel.workload(),
            fresh: false,
            ports: TemporaryPort::lasting(&temporary, &found),
            client_ip: None,
            programs: None,
            claim: None,
            pod: self.pod.clone(),
            in_own_netns: self.netns.is_own(),
        }
    }
}

// === helpers ===

/// `None` where nothing is there.
fn inode(path: &Path) -> Result<Option<u64>, io::ErrorKind> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.kind()),
    }
}

//! Pods as the kubelet and a container runtime make them: a cgroup with the pod's UID in its name, a
//! pause process that holds the network namespace, an application in a container's cgroup.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::object::{Qos, qos};
use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::process::{Process, wait_until};
use crate::site::{PATIENCE, Site};

/// Who names the cgroups: the kubelet's driver, and the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// systemd's slices and scopes, containerd.
    SystemdContainerd,
    /// systemd's slices and scopes, CRI-O.
    SystemdCrio,
    /// Plain directories, containerd.
    CgroupfsContainerd,
    /// Plain directories, CRI-O.
    CgroupfsCrio,
    /// A node that is a container itself, as kind has them: slices below the kubelet's own.
    Nested,
}

/// A running pod. On drop its processes are killed, and its cgroups and namespace go.
#[derive(Debug)]
pub struct Pod {
    object: Value,
    inside: Inside,
    /// Held for their drop, as the application's are.
    _pause: (Process, Cgroup),
    group: Cgroup,
    addresses: Addresses,
}

/// Where a pod and the test's host meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The pod's, IPv4; empty without a cable.
    pub pod: String,
    /// The host's, IPv4; empty without a cable.
    pub host: String,
}

/// What the application is.
#[derive(Debug)]
enum Inside {
    /// A process that makes sockets for the test.
    Site(Site),
    /// One that only waits.
    Idle { netns: Netns, _app: Process, _container: Cgroup },
}

/// What there is of a pod before the runtime has entered its namespaces.
#[derive(Debug)]
pub struct Beginning {
    _init: Process,
    _containers: [Cgroup; 2],
    _group: Cgroup,
}

// === impl Layout ===

impl Layout {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::SystemdContainerd,
        Self::SystemdCrio,
        Self::CgroupfsContainerd,
        Self::CgroupfsCrio,
        Self::Nested,
    ];

    /// The directory of a pod, below the root of the cgroups (kubelet,
    /// `pkg/kubelet/cm/cgroup_manager_linux.go`, `ToSystemd` and `ToCgroupfs`).
    #[must_use]
    pub fn pod_dir(self, qos: Qos, uid: &str) -> String {
        let class = match qos {
            Qos::Guaranteed => None,
            Qos::Burstable => Some("burstable"),
            Qos::BestEffort => Some("besteffort"),
        };
        let escaped = uid.replace('-', "_");
        let slices = |parents: &str, name: &str| match class {
            None => format!("{parents}/{name}-pod{escaped}.slice"),
            Some(class) => {
                format!("{parents}/{name}-{class}.slice/{name}-{class}-pod{escaped}.slice")
            }
        };
        match self {
            Self::SystemdContainerd | Self::SystemdCrio => slices("kubepods.slice", "kubepods"),
            Self::Nested => slices("kubelet.slice/kubelet-kubepods.slice", "kubelet-kubepods"),
            Self::CgroupfsContainerd | Self::CgroupfsCrio => match class {
                None => format!("kubepods/pod{uid}"),
                Some(class) => format!("kubepods/{class}/pod{uid}"),
            },
        }
    }

    /// The directory of a container, below its pod's.
    #[must_use]
    pub fn container_dir(self, id: &str) -> String {
        match self {
            Self::SystemdContainerd | Self::Nested => format!("cri-containerd-{id}.scope"),
            Self::SystemdCrio => format!("crio-{id}.scope"),
            Self::CgroupfsContainerd => id.to_owned(),
            Self::CgroupfsCrio => format!("crio-{id}"),
        }
    }
}

// === impl Pod ===

impl Pod {
    /// Runs a pod whose application makes sockets for the test.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub(super) fn run(
        object: &Value,
        layout: Layout,
        (netns, addresses): (Netns, Addresses),
        (root, dir): (&Cgroup, &Path),
    ) -> Result<Self> {
        let (group, [pause, container]) = groups(object, layout, root)?;
        let role = role(object);
        let _pause = (sleeper(&netns, &pause, &format!("pause-{role}"), dir)?, pause);
        let inside = Inside::Site(Site::container(netns, container, &role, dir)?);
        Ok(Self { object: object.clone(), inside, _pause, group, addresses })
    }

    /// A process as a container runtime starts it: in the cgroup of a container of the pod, and in a
    /// network namespace that is not the pod's yet, or in the test's own.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub(super) fn begin(
        object: &Value,
        layout: Layout,
        netns: Option<&Netns>,
        (root, dir): (&Cgroup, &Path),
    ) -> Result<Beginning> {
        let (group, containers) = groups(object, layout, root)?;
        let name = format!("init-{}", role(object));
        let init = match netns {
            Some(netns) => sleeper(netns, &containers[0], &name, dir)?,
            None => {
                let mut sleep = Command::new("setpriv");
                sleep.args(["--pdeathsig", "KILL", "--", "sleep", "infinity"]);
                Process::start(&name, containers[0].wrap(&sleep), dir)?
            }
        };
        wait_until("the process on its way", PATIENCE, || {
            Ok(!containers[0].processes().is_empty())
        })?;
        Ok(Beginning { _init: init, _containers: containers, _group: group })
    }

    /// Runs a pod whose application does nothing.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub(super) fn idle(
        object: &Value,
        layout: Layout,
        (mut netns, addresses): (Netns, Addresses),
        (root, dir): (&Cgroup, &Path),
    ) -> Result<Self> {
        let (group, [pause, container]) = groups(object, layout, root)?;
        let role = role(object);
        let _pause = (sleeper(&netns, &pause, &format!("pause-{role}"), dir)?, pause);
        let _app = sleeper(&netns, &container, &format!("app-{role}"), dir)?;
        netns.join(&container);
        let inside = Inside::Idle { netns, _app, _container: container };
        Ok(Self { object: object.clone(), inside, _pause, group, addresses })
    }

    /// The object that it was made from.
    #[must_use]
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// What weir calls it: `NAMESPACE.POD`.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("{}.{}", text(&self.object, "namespace"), text(&self.object, "name"))
    }

    /// Where its sockets are made.
    ///
    /// # Panics
    ///
    /// Panics when it is idle.
    #[must_use]
    pub fn site(&self) -> &Site {
        match &self.inside {
            Inside::Site(site) => site,
            Inside::Idle { .. } => panic!("{} is idle", self.workload()),
        }
    }

    /// Its network namespace; commands that run there belong to the application's container.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        match &self.inside {
            Inside::Site(site) => &site.netns,
            Inside::Idle { netns, .. } => netns,
        }
    }

    /// The pod's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.group
    }

    /// Where it and the host meet.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Kills every process in it, as a container runtime does when the pod has to go; cgroups and
    /// namespace stay.
    ///
    /// # Errors
    ///
    /// Fails when one does not go.
    pub fn kill(&self) -> Result<()> {
        wait_until("the pod's processes to go", PATIENCE, || {
            let left = self.group.processes();
            for pid in &left {
                let _gone_already = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            Ok(left.is_empty())
        })
    }
}

/// A name for files and sockets, of a bounded length whatever the pod is called.
fn role(object: &Value) -> String {
    format!("pod-{}", text(object, "uid").split('-').next().unwrap_or_default())
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The pod's cgroup, and those of the pause container and of the application's.
fn groups(object: &Value, layout: Layout, root: &Cgroup) -> Result<(Cgroup, [Cgroup; 2])> {
    let group = root.below(&layout.pod_dir(qos(object), text(object, "uid")))?;
    let container = || {
        let id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        group.below(&layout.container_dir(&id))
    };
    let containers = [container()?, container()?];
    Ok((group, containers))
}

fn sleeper(netns: &Netns, cgroup: &Cgroup, name: &str, dir: &Path) -> Result<Process> {
    let mut command = netns.command_in(cgroup.path(), "sleep");
    command.arg("infinity");
    let process = Process::start(name, command, dir)?;
    wait_until("the process in its cgroup", PATIENCE, || {
        Ok(cgroup.processes().contains(&process.pid()))
    })?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2d4f60-1111-4222-8333-0123456789ab";

    #[test]
    fn directories_are_those_of_the_drivers() {
        let escaped = "0b2d4f60_1111_4222_8333_0123456789ab";
        for (layout, qos, expected) in [
            (
                Layout::SystemdContainerd,
                Qos::Burstable,
                format!(
                    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice"
                ),
            ),
            (
                Layout::SystemdCrio,
                Qos::Guaranteed,
                format!("kubepods.slice/kubepods-pod{escaped}.slice"),
            ),
            (Layout::CgroupfsContainerd, Qos::BestEffort, format!("kubepods/besteffort/pod{UID}")),
            (Layout::CgroupfsCrio, Qos::Guaranteed, format!("kubepods/pod{UID}")),
            (
                Layout::Nested,
                Qos::BestEffort,
                format!(
                    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
                     kubelet-kubepods-besteffort-pod{escaped}.slice"
                ),
            ),
        ] {
            assert_eq!(layout.pod_dir(qos, UID), expected);
        }
        assert_eq!(Layout::SystemdCrio.container_dir("ab"), "crio-ab.scope");
        assert_eq!(Layout::CgroupfsContainerd.container_dir("ab"), "ab");
    }
}

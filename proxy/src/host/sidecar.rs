//! Where a weir that runs in a container of the pod which it captures is: the pod's cgroup, and its
//! own below that.
//!
//! In a cgroup namespace of its own (containerd and CRI-O give one to every container that is not
//! privileged) a process sees its own cgroup as the root, `/proc/self/cgroup` says `/`, and the pod
//! is visible only in a mount of the node's hierarchy. `cgroup.procs` lists process ids as the
//! reader's PID namespace has them (`cgroup_procs_show` in kernel/cgroup/cgroup.c), so that one's
//! own id is in one's own cgroup only, whatever the namespaces.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use super::{
    HostError,
    cgroup::{holder, processes},
    mounts,
    pods::{self, containers, find_pod},
};

/// How the instance of a sidecar is called, before the pod's UID.
const INSTANCE: &str = "pod-";

/// The pod that weir runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// The mount in which it was found.
    root: PathBuf,
    pod: PathBuf,
    own: PathBuf,
    uid: String,
}

// === impl Sidecar ===

impl Sidecar {
    /// Looks for the pod, by its UID where that is known.
    ///
    /// # Errors
    /// Where no mount of cgroup2 shows it, where the pod of this UID is another, and for what is no
    /// UID.
    pub fn locate(uid: Option<&str>) -> Result<Self, HostError> {
        let mounts = mounts::all("cgroup2")?;
        if mounts.is_empty() {
            return Err(HostError::NoCgroup2);
        }
        Self::locate_in(&mounts, uid, process::id())
    }

    fn locate_in(mounts: &[PathBuf], uid: Option<&str>, pid: u32) -> Result<Self, HostError> {
        let mut other = None;
        for root in mounts {
            let failed = |source| HostError::Cgroup {
                action: "search for the pod below",
                path: root.clone(),
                source,
                hint: "",
            };
            let found = match uid {
                Some(uid) => find_pod(root, uid).map(|pod| pod.into_iter().collect()),
                None => pods::all(root),
            };
            for pod in found.map_err(failed)? {
                let Some(own) = holder(&pod, pid) else {
                    other = Some(pod);
                    continue;
                };
                let named = || pod.file_name()?.to_str().and_then(pods::uid);
                let uid = uid.map(str::to_owned).or_else(named).unwrap_or_default();
                return Ok(Self { root: root.clone(), pod, own, uid });
            }
        }
        Err(HostError::NoPod(match (uid, other) {
            (Some(uid), Some(pod)) => format!(
                "the pod with UID {uid} is {}, but does not contain weir; pass --pod-uid (or \
                 POD_UID) from the downward API's metadata.uid",
                pod.display()
            ),
            (uid, _) => {
                let mounts: Vec<_> =
                    mounts.iter().map(|mount| mount.display().to_string()).collect();
                let uid = uid.map_or_else(String::new, |uid| format!(" with UID {uid}"));
                format!(
                    "no pod{uid} that contains weir below {}: the node's cgroups are not visible \
                     in this container; mount the node's /sys/fs/cgroup into it (a hostPath \
                     volume, read-only will do), or make it privileged",
                    mounts.join(" or ")
                )
            }
        }))
    }

    /// The pod's cgroup.
    #[must_use]
    pub fn pod(&self) -> &Path {
        &self.pod
    }

    /// The cgroup of weir's container.
    #[must_use]
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// The name of what it keeps in the bpffs, which the node's pods share: no other pod's, and the
    /// same after a restart.
    #[must_use]
    pub fn instance(&self) -> String {
        format!("{INSTANCE}{}", self.uid)
    }

    /// True where only the pause container is left of the pod: a single process that is older than
    /// weir's container. False where that cannot be told.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let look = || -> io::Result<bool> {
            let own = fs::metadata(&self.own)?;
            let mut others = Vec::new();
            for container in containers(&self.pod)? {
                let number = fs::metadata(&container)?.ino();
                let processes = count(&container)?;
                if number != own.ino() && processes > 0 {
                    others.push((number, processes));
                }
            }
            // The kernel numbers cgroups in the order in which they are made (`kernfs_new_node`).
            Ok(match others[..] {
                [] => true,
                [(number, 1)] => number < own.ino(),
                _ => false,
            })
        };
        look().unwrap_or(false)
    }

    /// Whether an instance was that of another pod's sidecar, and the pod is gone. False where only a part
    /// of the hierarchy is seen: it does not show all pods.
    #[must_use]
    pub fn is_of_gone_pod(&self, instance: &str) -> bool {
        // kernel/cgroup/cgroup.c: every cgroup has this file but the root.
        !self.root.join("cgroup.events").exists()
            && instance
                .strip_prefix(INSTANCE)
                .is_some_and(|uid| matches!(find_pod(&self.root, uid), Ok(None)))
    }
}

/// Whether a process in a pod's cgroup is `weir run --sidecar`, as its command line tells: of processes
/// that weir sees.
#[must_use]
pub fn runs_in(pod: &Path) -> bool {
    processes(pod).unwrap_or_default().into_iter().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_sidecar(&line)
    })
}

/// Whether a command line, as `/proc/PID/cmdline` has it, is a sidecar's.
fn is_sidecar(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().and_then(|path| path.rsplit(|byte| *byte == b'/').next());
    program == Some(b"weir") && words.any(|word| word == b"--sidecar")
}

/// Processes in a cgroup and below it, those of other PID namespaces too.
fn count(cgroup: &Path) -> io::Result<usize> {
    let mut number = fs::read_to_string(cgroup.join("cgroup.procs"))?.lines().count();
    for below in containers(cgroup)? {
        number += count(&below)?;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cgroup::Transient;

    const UID: &str = "0ff2a1b8-3c4d-4e5f-8a9b-c0d1e2f30415";

    /// A tree of plain files that reads as cgroups do.
    fn tree(procs: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, procs) in procs {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), procs).unwrap();
        }
        root
    }

    fn pod(name: &str) -> String {
        format!("kubepods.slice/kubepods-pod{}.slice/{name}", UID.replace('-', "_"))
    }

    #[test]
    fn weir_is_where_its_process_is_listed() {
        let (app, weir) = (pod("cri-containerd-a.scope"), pod("cri-containerd-b.scope"));
        let other = "kubepods.slice/kubepods-pod00000000000000000000000000000000.slice/x";
        let root = tree(&[(&app, "0\n0\n"), (&weir, "0\n17\n"), (other, "0\n")]);
        let mounts = [root.path().to_owned()];
        for uid in [None, Some(UID)] {
            let found = Sidecar::locate_in(&mounts, uid, 17).unwrap();
            assert_eq!(found.pod(), root.path().join(pod("")).components().as_path());
            assert_eq!(found.own(), root.path().join(&weir));
            assert_eq!(found.instance(), format!("pod-{UID}"));
        }
    }

    #[test]
    fn a_sidecar_is_told_by_its_command_line() {
        assert!(is_sidecar(b"/usr/local/bin/weir\0run\0--sidecar\0--admin=0.0.0.0:4191\0"));
        assert!(is_sidecar(b"weir\0run\0--sidecar\0"));
        for other in [&b"weir\0run\0"[..], b"sh\0-c\0weir run --sidecar\0", b"", b"\0--sidecar\0"] {
            assert!(!is_sidecar(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tree(&[(&pod("a"), "0\n")]);
        let own = tree(&[]);
        let error = |mounts: &[&Path], uid| {
            let mounts: Vec<_> = mounts.iter().map(|path| path.to_path_buf()).collect();
            Sidecar::locate_in(&mounts, uid, 17).unwrap_err().to_string()
        };
        // A private cgroup namespace, without a mount of the node's hierarchy.
        assert!(error(&[own.path()], None).contains("mount the node's /sys/fs/cgroup into it"));
        assert!(error(&[own.path()], Some(UID)).contains(&format!("with UID {UID}")));
        let another = error(&[own.path(), root.path()], Some(UID));
        assert!(another.contains("does not contain weir"), "{another}");
        assert!(error(&[root.path()], Some("a/b")).contains("not a pod UID"));
    }

    /// Needs root, as all that makes cgroups.
    #[test]
    fn weir_is_alone_with_an_older_cgroup_of_one_process() {
        let make = |name: &str| Transient::create(&format!("weir-test-alone{name}")).unwrap();
        let pod = make("");
        let [pause, own, app] = ["/1", "/2", "/3"].map(make);
        let sleep = |cgroup: &Transient| {
            let mut command = process::Command::new("sleep");
            cgroup.enter(&mut command).unwrap();
            command.arg("600").spawn().unwrap()
        };
        let sidecar = Sidecar {
            root: PathBuf::new(),
            pod: pod.path().to_owned(),
            own: own.path().to_owned(),
            uid: String::new(),
        };
        let end = |mut child: process::Child| {
            child.kill().unwrap();
            child.wait().unwrap();
        };
        let mut seen = vec![sidecar.is_alone()];
        let mut children = vec![sleep(&pause), sleep(&own)];
        seen.push(sidecar.is_alone());
        let first = sleep(&app);
        seen.push(sidecar.is_alone());
        end(children.remove(0));
        // Without a pause container, and with one process in the application's.
        seen.push(sidecar.is_alone());
        end(first);
        seen.push(sidecar.is_alone());
        children.into_iter().for_each(end);
        drop((pause, own, app));
        assert_eq!(seen, [true, true, false, false, true]);
    }
}

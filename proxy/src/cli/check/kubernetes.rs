//! What a node has to have for weir's DaemonSet, and who else takes its pods' connections.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::Finding;
use crate::{
    capture::Netns,
    check::coexist::{self, Mesh},
    host::{
        cgroup::{self, processes},
        pods::{self, Driver, Kubepods, Runtime},
    },
};

const HOST_CGROUPS: &str = "in a container, mount the node's /sys/fs/cgroup into it (a hostPath \
                            volume); on the node, check that the kubelet runs with cgroup v2";
const HOST_PID: &str = "give the pod hostPID: true, so that weir finds the network namespaces of \
                        pods by their processes";

/// Looks below a cgroup, or below every mount of cgroup2.
pub(super) fn findings(root: Option<&Path>) -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut findings = vec![hierarchy(&mounts)];
    let roots = match root {
        Some(root) => vec![root.to_owned()],
        None => pods::roots().unwrap_or_default(),
    };
    let kubelets: Vec<Kubepods> =
        roots.iter().flat_map(|root| pods::layout(root).unwrap_or_default()).collect();
    findings.push(layout(&kubelets, &roots));
    if !kubelets.is_empty() {
        findings.push(runtime(&kubelets));
    }
    let pods: Vec<PathBuf> =
        kubelets.iter().flat_map(|kubelet| pods::all(&kubelet.path).unwrap_or_default()).collect();
    let running: Vec<Vec<u32>> =
        pods.iter().map(|pod| processes(pod).unwrap_or_default()).collect();
    findings.push(pid_namespace(&running));
    findings.push(namespaces(&running));
    findings.push(balancer(kubelets.first().map(|it| &*it.path).or(roots.first().map(|it| &**it))));
    findings.push(mesh(&running));
    findings
}

/// With cgroup v1 beside it, the kubelet and the container runtime use that.
fn hierarchy(mounts: &str) -> Finding {
    let name = "cgroup hierarchy";
    let v1 = mounts.lines().filter(|line| line.contains(" - cgroup ")).count();
    if v1 == 0 {
        return Finding::ok(name, "unified (cgroup v2 alone)");
    }
    Finding::warn(
        name,
        format!("hybrid: {v1} hierarchies of cgroup v1 beside cgroup2; pods may be in those"),
        "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all",
    )
}

fn layout(kubelets: &[Kubepods], roots: &[PathBuf]) -> Finding {
    let name = "pods";
    if kubelets.is_empty() {
        let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
        let place = if roots.is_empty() { "anywhere".into() } else { roots.join(", ") };
        return Finding::fail(name, format!("no kubepods cgroup below {place}"), HOST_CGROUPS);
    }
    let described = kubelets.iter().map(|Kubepods { path, driver, pods, .. }| {
        let driver = match driver {
            Driver::Systemd => "systemd",
            Driver::Cgroupfs => "cgroupfs",
        };
        let plural = if *pods == 1 { "" } else { "s" };
        format!("{pods} pod{plural} below {} (cgroup driver {driver})", path.display())
    });
    Finding::ok(name, described.collect::<Vec<_>>().join(", "))
}

fn runtime(kubelets: &[Kubepods]) -> Finding {
    let name = "container runtime";
    let mut all: BTreeMap<Runtime, usize> = BTreeMap::new();
    for (runtime, number) in kubelets.iter().flat_map(|kubelet| &kubelet.containers) {
        *all.entry(*runtime).or_default() += number;
    }
    if all.is_empty() {
        return Finding::warn(
            name,
            "no pod has a container cgroup",
            "check that pods run here; weir recognises the cgroup names of containerd, CRI-O and \
             Docker",
        );
    }
    let described = all.iter().map(|(runtime, number)| {
        let runtime = match runtime {
            Runtime::Containerd => "containerd",
            Runtime::CriO => "CRI-O",
            Runtime::Docker => "Docker",
            Runtime::Unnamed => "containerd or Docker (cgroupfs names)",
        };
        format!("{runtime}: {number} containers")
    });
    Finding::ok(name, described.collect::<Vec<_>>().join(", "))
}

/// Processes of other PID namespaces are listed as 0.
fn pid_namespace(running: &[Vec<u32>]) -> Finding {
    let name = "host PID namespace";
    let seen = running.iter().flatten().filter(|pid| **pid != 0).count();
    let all = running.iter().map(Vec::len).sum::<usize>();
    if all == 0 {
        // No process to look at. The first process of a container is whatever was started in it.
        let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
        let own = std::process::id() == 1;
        return if own {
            Finding::fail(name, "weir is process 1, in a separate PID namespace", HOST_PID)
        } else {
            Finding::ok(name, format!("no pod has a process; process 1 is {}", init.trim()))
        };
    }
    match seen {
        0 => {
            Finding::fail(name, format!("none of the {all} processes of pods is visible"), HOST_PID)
        }
        _ if seen < all => Finding::warn(
            name,
            format!("{seen} of the {all} processes of pods are visible"),
            HOST_PID,
        ),
        _ => Finding::ok(name, format!("all {all} processes of pods are visible")),
    }
}

/// A pod's network namespace is found by a process; to open that of a process with more
/// capabilities is tracing (ptrace(2), `PTRACE_MODE_READ_FSCREDS`).
fn namespaces(running: &[Vec<u32>]) -> Finding {
    let name = "network namespaces";
    let visible = || running.iter().flatten().filter(|pid| **pid != 0);
    let is_closed = |pid: &u32| {
        let netns = fs::metadata(format!("/proc/{pid}/ns/net"));
        netns.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    match (visible().filter(|pid| is_closed(pid)).count(), visible().count()) {
        (0, all) if Netns::of_machine().is_empty() => Finding::warn(
            name,
            format!(
                "those of all {all} visible processes can be opened, but not that of process 1: \
                 weir may take the node's namespace for that of a starting pod"
            ),
            "allow it in the security module of the node (AppArmor: unconfined)",
        ),
        (0, all) => {
            Finding::ok(name, format!("those of all {all} visible processes can be opened"))
        }
        (closed, all) => Finding::fail(
            name,
            format!("those of {closed} of {all} visible processes cannot be opened"),
            "run as root, or grant CAP_SYS_PTRACE: the manifests in deploy/ do",
        ),
    }
}

/// Cilium's, which takes the place of kube-proxy.
fn balancer(cgroup: Option<&Path>) -> Finding {
    let name = "socket load balancer";
    let Some(cgroup) = cgroup else {
        return Finding::warn(name, "unknown: no cgroup to query", HOST_CGROUPS);
    };
    let programs = match coexist::cilium(cgroup) {
        Ok(programs) if programs.is_empty() => return Finding::ok(name, "no program of Cilium"),
        Ok(programs) => programs,
        Err(error) => {
            let detail = format!("unknown: {}: {error}", cgroup.display());
            return Finding::warn(name, detail, "run as root to read it");
        }
    };
    let named: Vec<_> =
        programs.iter().map(|program| format!("{} (id {})", program.name, program.id)).collect();
    let named = format!("Cilium's ({})", named.join(", "));
    let own = cgroup::own().ok().and_then(|own| coexist::cilium(&own).ok()).unwrap_or_default();
    if programs.iter().all(|program| own.contains(program)) {
        return Finding::ok(
            name,
            format!(
                "{named} runs after weir's programs: weir sees the address of a service, and \
                 weir's dial is translated"
            ),
        );
    }
    Finding::warn(
        name,
        format!(
            "{named} does not see weir's own connections: weir cannot reach addresses that it \
             translates"
        ),
        "run weir in a pod of this node, or below the cgroup of Cilium's programs",
    )
}

/// Each network namespace once; not the node's.
fn mesh(running: &[Vec<u32>]) -> Finding {
    let name = "another mesh";
    let mut seen = Netns::of_node();
    let (mut looked, mut blind) = (0, None);
    let mut found: BTreeMap<Mesh, usize> = BTreeMap::new();
    for pid in running.iter().filter_map(|pids| pids.iter().find(|pid| **pid != 0)) {
        let path = format!("/proc/{pid}/ns/net");
        // A process that has ended has nothing to say.
        let Ok(netns) = File::open(&path) else { continue };
        if netns.metadata().is_ok_and(|metadata| !seen.insert(metadata.ino())) {
            continue;
        }
        match coexist::meshes(netns.as_fd()) {
            Ok(meshes) => {
                looked += 1;
                meshes.into_iter().for_each(|mesh| *found.entry(mesh).or_default() += 1);
            }
            Err(error) => blind = Some(error),
        }
    }
    if let (0, Some(error)) = (looked, blind) {
        let hint = "run as root, or grant CAP_NET_ADMIN and CAP_SYS_ADMIN";
        return Finding::warn(name, format!("unknown: rules of pods: {error}"), hint);
    }
    if found.is_empty() {
        return Finding::ok(name, format!("no rules of Istio or Linkerd in {looked} pods"));
    }
    let described: Vec<_> = found
        .iter()
        .map(|(mesh, pods)| format!("{} in {pods} of {looked} pods", mesh.name()))
        .collect();
    Finding::warn(
        name,
        format!(
            "{}: it redirects connections after weir's hooks, so that they pass both proxies",
            described.join(", ")
        ),
        "use one of the two for those pods: annotate them weir.dev/inject: disabled, or remove \
         them from the mesh",
    )
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn hybrid_hierarchies_are_told() {
        let v2 = "31 24 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        let v1 = "32 24 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
        assert_eq!(hierarchy(v2).level, Level::Ok);
        assert_eq!(hierarchy(&[v2, v1].concat()).level, Level::Warn);
    }

    #[test]
    fn processes_tell_the_pid_namespace() {
        let level = |running: &[&[u32]]| {
            let running: Vec<_> = running.iter().map(|pids| pids.to_vec()).collect();
            pid_namespace(&running).level
        };
        assert_eq!(level(&[&[17, 18], &[19]]), Level::Ok);
        assert_eq!(level(&[&[0, 0], &[0]]), Level::Fail);
        assert_eq!(level(&[&[0, 17]]), Level::Warn);
        assert_eq!(level(&[]), Level::Ok);
    }

    #[test]
    fn a_node_without_pods_fails_and_says_where_it_looked() {
        let finding = layout(&[], &["/sys/fs/cgroup".into()]);
        assert_eq!(finding.level, Level::Fail);
        assert_eq!(finding.detail, "no kubepods cgroup below /sys/fs/cgroup");
    }
}

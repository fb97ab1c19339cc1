//! Where the cgroups of Kubernetes' pods are: found by a pod's UID, for either cgroup driver of
//! the kubelet, at any depth (a kubelet with `--cgroup-root`, kind's nodes in containers). Only
//! reads directories; `capture/netns.rs` finds what runs in a pod.
//!
//! Names (kubelet's `pkg/kubelet/cm/cgroup_manager_linux.go`, `pod_container_manager_linux.go`):
//! with the cgroupfs driver `kubepods/burstable/pod<uid>`, with systemd's
//! `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _ for ->.slice`. Pods
//! of class Guaranteed lie directly below `kubepods`. The UID of a static pod is the hash in its
//! annotation `kubernetes.io/config.hash`; that of its mirror in the API server is another.

mod watch;

pub use watch::Watch;

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use super::{HostError, mounts};

/// Levels below the root that are looked at. kind's pods are at most at 6.
const DEPTH: usize = 12;
/// Hexadecimal digits of a UID, with or without dashes between them.
const UID_DIGITS: usize = 32;

/// How the kubelet names and makes cgroups (`cgroupDriver`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Driver {
    /// As slices of systemd.
    Systemd,
    /// As plain directories.
    Cgroupfs,
}

/// What made a container's cgroup, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    /// `cri-containerd-<id>.scope`.
    Containerd,
    /// `crio-<id>.scope` or `crio-<id>`.
    CriO,
    /// `docker-<id>.scope`.
    Docker,
    /// An id alone: containerd, or Docker, with the cgroupfs driver.
    Unnamed,
}

/// The cgroup that holds all pods of one kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubepods {
    /// The cgroup.
    pub path: PathBuf,
    /// How what is below it is named.
    pub driver: Driver,
    /// Pods below it.
    pub pods: usize,
    /// Their containers, pause containers included, by what made them.
    pub containers: BTreeMap<Runtime, usize>,
}

/// Where cgroups are seen: every mount of cgroup2, whole or in part.
///
/// # Errors
/// Where mountinfo cannot be read.
pub fn roots() -> Result<Vec<PathBuf>, HostError> {
    Ok(mounts::all("cgroup2")?)
}

/// The cgroup of the pod with this UID below a cgroup; `None` while it has none.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for what can be no UID, and what reading the root says. What goes
/// away meanwhile is passed over.
pub fn find_pod(root: &Path, uid: &str) -> io::Result<Option<PathBuf>> {
    if uid.is_empty() || !uid.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        let problem = format!("{uid:?} is not a pod UID");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let (plain, slice) = (format!("pod{uid}"), format!("-pod{}.slice", uid.replace('-', "_")));
    let wanted = |name: &str| name == plain || name.ends_with(&slice);
    // Nothing is looked for within a pod: a pod chooses the names of its own cgroups.
    walk(root, |path, name| if wanted(name) { Step::Found(path) } else { beyond_pods(name) })
}

/// The cgroups below a root that hold pods, nearest first; none where no kubelet runs.
///
/// # Errors
/// What reading the root says.
pub fn layout(root: &Path) -> io::Result<Vec<Kubepods>> {
    let mut found = Vec::new();
    let _: Option<()> = walk(root, |path, name| match kubepods(name) {
        Some(driver) => {
            found.push(Kubepods::read(path, driver));
            Step::Over
        }
        None => beyond_pods(name),
    })?;
    Ok(found)
}

/// The cgroups of all pods below a cgroup, nearest first.
///
/// # Errors
/// What reading the root says.
pub fn all(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let _: Option<()> = walk(root, |path, name| {
        if is_pod(name) {
            found.push(path);
            return Step::Over;
        }
        Step::Into
    })?;
    Ok(found)
}

/// The cgroups directly below a pod's: its containers, and its pause container.
///
/// # Errors
/// What reading the directory says.
pub fn containers(pod: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(directories(pod)?.into_iter().map(|(path, _)| path).collect())
}

/// Whether a process is in a cgroup or below it; false where there is no such cgroup.
#[must_use]
pub fn is_populated(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

/// The UID of the pod whose cgroup has this name; a static pod's has no dashes.
#[must_use]
pub fn uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let digits = uid.chars().filter(char::is_ascii_hexdigit).count();
    let fits = digits == UID_DIGITS && uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    fits.then_some(uid)
}

/// Whether a directory is named as a pod's cgroup.
#[must_use]
pub fn is_pod(name: &str) -> bool {
    uid(name).is_some()
}

// === impl Kubepods ===

impl Kubepods {
    fn read(path: PathBuf, driver: Driver) -> Self {
        let (mut pods, mut containers) = (0, BTreeMap::new());
        let _: io::Result<Option<()>> = walk(&path, |pod, name| {
            if !is_pod(name) {
                return Step::Into;
            }
            pods += 1;
            for (_, name) in directories(&pod).unwrap_or_default() {
                if let Some(runtime) = Runtime::of(&name) {
                    *containers.entry(runtime).or_default() += 1;
                }
            }
            Step::Over
        });
        Self { path, driver, pods, containers }
    }
}

// === impl Runtime ===

impl Runtime {
    /// None for what is no container's cgroup, such as conmon's.
    fn of(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let is_id = |id: &str| id.len() >= UID_DIGITS && id.chars().all(|c| c.is_ascii_hexdigit());
        let named = [
            ("cri-containerd-", Self::Containerd),
            ("crio-", Self::CriO),
            ("docker-", Self::Docker),
        ];
        named
            .into_iter()
            .find_map(|(prefix, runtime)| is_id(name.strip_prefix(prefix)?).then_some(runtime))
            .or_else(|| is_id(name).then_some(Self::Unnamed))
    }
}

// === helpers ===

/// What to do with a directory.
enum Step<T> {
    /// That was it.
    Found(T),
    /// Look at what is in it.
    Into,
    /// Do not.
    Over,
}

fn beyond_pods<T>(name: &str) -> Step<T> {
    if is_pod(name) { Step::Over } else { Step::Into }
}

/// The driver, for a directory that is named as one that holds pods: `kubepods`, `kubepods.slice`,
/// and below a `--cgroup-root` of systemd's `kubelet-kubepods.slice`.
fn kubepods(name: &str) -> Option<Driver> {
    match name.strip_suffix(".slice") {
        Some(slice) => {
            (slice == "kubepods" || slice.ends_with("-kubepods")).then_some(Driver::Systemd)
        }
        None => (name == "kubepods").then_some(Driver::Cgroupfs),
    }
}

/// Goes through the directories below one, nearest first.
fn walk<T>(root: &Path, mut look: impl FnMut(PathBuf, &str) -> Step<T>) -> io::Result<Option<T>> {
    let mut queue: VecDeque<_> = directories(root)?.into_iter().map(|it| (it, 1)).collect();
    while let Some(((path, name), depth)) = queue.pop_front() {
        match look(path.clone(), &name) {
            Step::Found(found) => return Ok(Some(found)),
            Step::Into if depth < DEPTH => {
                // What goes away meanwhile had nothing to say.
                let below = directories(&path).unwrap_or_default();
                queue.extend(below.into_iter().map(|it| (it, depth + 1)));
            }
            Step::Into | Step::Over => {}
        }
    }
    Ok(None)
}

/// The directories in a directory, by name. Names that are not UTF-8 are of no cgroup that is looked
/// for here.
fn directories(path: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((entry.path(), name));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0ff2a1b8-3c4d-4e5f-8a9b-c0d1e2f30415";
    const OTHER: &str = "d34db33f-0000-4000-8000-00000000beef";
    /// A static pod's.
    const HASH: &str = "4ad49b9b6f0dbc1e1d2c6ba5f0a4e3b7";

    fn id(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    fn tree(paths: &[String]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        root
    }

    fn underscored(uid: &str) -> String {
        uid.replace('-', "_")
    }

    /// Where the pod is, below each kind of root.
    fn layouts(uid: &str) -> Vec<String> {
        let systemd = |prefix: &str, class: &str| {
            let class = if class.is_empty() { String::new() } else { format!("-{class}") };
            let top = format!("{prefix}kubepods");
            let middle =
                if class.is_empty() { String::new() } else { format!("{top}{class}.slice/") };
            format!("{top}.slice/{middle}{top}{class}-pod{}.slice", underscored(uid))
        };
        vec![
            systemd("", "burstable"),
            systemd("", "besteffort"),
            systemd("", ""),
            format!("kubepods/burstable/pod{uid}"),
            format!("kubepods/besteffort/pod{uid}"),
            format!("kubepods/pod{uid}"),
            // kind, seen from its node and from the machine.
            format!("kubelet.slice/{}", systemd("kubelet-", "burstable")),
            format!("kubelet/kubepods/burstable/pod{uid}"),
            format!("docker/{}/kubelet.slice/{}", id(9), systemd("kubelet-", "besteffort")),
            format!("system.slice/docker-{}.scope/kubelet/kubepods/pod{uid}", id(9)),
            // `--cgroup-root=/a/b`.
            format!("a.slice/a-b.slice/{}", systemd("a-b-", "burstable")),
        ]
    }

    #[test]
    fn a_pod_is_found_by_its_uid_in_every_layout() {
        for uid in [UID, HASH] {
            for pod in layouts(uid) {
                let mut paths = vec![format!("{pod}/{}", id(1)), "system.slice/ssh.service".into()];
                paths.extend(layouts(OTHER));
                let root = tree(&paths);
                assert_eq!(find_pod(root.path(), uid).unwrap(), Some(root.path().join(&pod)));
                assert_eq!(find_pod(root.path(), "no-such").unwrap(), None, "{pod}");
            }
        }
    }

    /// A pod with a writable cgroup file system could pass itself off as another.
    #[test]
    fn nothing_is_found_within_another_pod() {
        for outer in layouts(OTHER) {
            let root = tree(&[format!("{outer}/{}/kubepods/pod{UID}", id(1))]);
            assert_eq!(find_pod(root.path(), UID).unwrap(), None, "{outer}");
        }
    }

    #[test]
    fn a_uid_is_matched_as_a_whole() {
        let root = tree(&[
            format!("kubepods/pod{UID}0"),
            format!("kubepods/xpod{UID}"),
            format!("kubepods.slice/kubepods-pod{}.slice.d", underscored(UID)),
        ]);
        assert_eq!(find_pod(root.path(), UID).unwrap(), None);
    }

    #[test]
    fn what_can_be_no_uid_is_refused() {
        let root = tree(&["kubepods/pod".into()]);
        for uid in ["", "a/b", "../x", "a b", "*"] {
            let error = find_pod(root.path(), uid).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{uid:?}");
        }
        let error = find_pod(&root.path().join("none"), UID).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_layout_names_driver_and_runtime() {
        for (pod, driver, containers, runtime) in [
            (
                &layouts(UID)[0],
                Driver::Systemd,
                format!("cri-containerd-{}.scope", id(1)),
                Runtime::Containerd,
            ),
            (&layouts(UID)[2], Driver::Systemd, format!("crio-{}.scope", id(1)), Runtime::CriO),
            (&layouts(UID)[6], Driver::Systemd, format!("docker-{}.scope", id(1)), Runtime::Docker),
            (&layouts(UID)[3], Driver::Cgroupfs, id(1), Runtime::Unnamed),
            (&layouts(UID)[9], Driver::Cgroupfs, format!("crio-{}", id(1)), Runtime::CriO),
        ] {
            let root = tree(&[
                format!("{pod}/{containers}"),
                format!("{pod}/crio-conmon-{}.scope", id(1)),
                format!("system.slice/cri-containerd-{}.scope", id(2)),
            ]);
            let found = layout(root.path()).unwrap();
            let [kubepods] = &found[..] else { panic!("{pod}: {found:?}") };
            assert!(root.path().join(pod).starts_with(&kubepods.path), "{pod}");
            assert_eq!((kubepods.driver, kubepods.pods), (driver, 1), "{pod}");
            assert_eq!(kubepods.containers, BTreeMap::from([(runtime, 1)]), "{pod}");
        }
    }

    #[test]
    fn a_machine_without_a_kubelet_has_no_pods() {
        let root = tree(&["system.slice/ssh.service".into(), "user.slice/podman".into()]);
        assert_eq!(layout(root.path()).unwrap(), []);
    }

    #[test]
    fn names_of_pods_are_told_from_others() {
        for (name, is) in [
            (format!("pod{UID}"), true),
            (format!("pod{HASH}"), true),
            (format!("kubepods-burstable-pod{}.slice", underscored(UID)), true),
            (format!("kubepods-pod{HASH}.slice"), true),
            ("kubepods".into(), false),
            ("podman".into(), false),
            ("kubepods-besteffort.slice".into(), false),
            (format!("libpod-{}.scope", id(1)), false),
        ] {
            assert_eq!(is_pod(&name), is, "{name}");
            assert!(uid(&name).is_none_or(|uid| [UID, HASH].contains(&uid.as_str())), "{name}");
        }
    }
}

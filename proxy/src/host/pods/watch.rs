//! Word of pods' cgroups at the moment when they come, get their first process, lose their last one, or
//! go: inotify(7) on the tree of cgroups, in place of looking again and again.
//!
//! The kernel tells inotify of what goes through the VFS, mkdir(2) and rmdir(2), and of changes to
//! `populated` in `cgroup.events` (Documentation/admin-guide/cgroup-v2.rst), at most every 10 ms
//! (`CGROUP_FILE_NOTIFY_MIN_INTV` in kernel/cgroup/cgroup.c). It does not tell which network namespace a
//! process is in.
//!
//! What a pod does below its own cgroup is not watched. Watches are of the user, which weir shares with
//! every other root on the node (`fs.inotify.max_user_watches`): weir takes no more than
//! [`MAX_WATCHES`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::{DEPTH, directories, is_pod};

/// A node has some hundreds of cgroups beside those of its pods, of which there are 110 by default.
/// Each takes about 1 KiB of the kernel's memory.
const MAX_WATCHES: usize = 8192;
/// Some dozens of events.
const BUFFER: usize = 16 * 1024;

/// Watches the pods' cgroups below one.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    tree: Tree,
}

/// What is watched.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
    watched: HashMap<i32, Watched>,
    /// What to take back when a cgroup goes: the kernel does not do that for a file in it.
    numbers: HashMap<PathBuf, i32>,
    /// Why not everything is.
    incomplete: Option<io::Error>,
}

#[derive(Clone, Debug)]
enum Watched {
    /// A cgroup that pods can be in, and how far below the root it is.
    Above { path: PathBuf, depth: usize },
    /// A pod's.
    Pod(PathBuf),
}

// === impl Watch ===

impl Watch {
    /// Needs a tokio runtime. Reads the whole tree.
    ///
    /// # Errors
    /// Where inotify has no instance or no watch left (`fs.inotify.max_user_instances`,
    /// `max_user_watches`), and where the root cannot be read.
    pub fn new(root: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut tree = Tree::new(root);
        tree.enter(&inotify, root.to_owned(), 0, &mut HashSet::new());
        if let Some(error) = tree.incomplete.take() {
            return Err(error);
        }
        // SAFETY: the descriptor is owned, and not closed before this is dropped.
        let inotify = unsafe { AsyncFd::register(inotify) }?;
        Ok(Self { inotify, tree })
    }

    /// Waits for a change, and tells the cgroups of the pods that it is about; never none. Safe to be
    /// given up.
    ///
    /// # Errors
    /// Where not everything can be watched any more: watch anew, or look by yourself.
    pub async fn changed(&mut self) -> io::Result<HashSet<PathBuf>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut touched = HashSet::new();
            let drained = self.tree.read(self.inotify.get_ref(), &mut touched);
            ready.clear_ready();
            drained?;
            if let Some(error) = self.tree.incomplete.take() {
                return Err(error);
            }
            if !touched.is_empty() {
                return Ok(touched);
            }
        }
    }
}

// === impl Tree ===

impl Tree {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            watched: HashMap::new(),
            numbers: HashMap::new(),
            incomplete: None,
        }
    }

    /// Follows what inotify has to say.
    fn read(&mut self, inotify: &OwnedFd, touched: &mut HashSet<PathBuf>) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let kind = event.events();
            if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Err(io::Error::other("inotify event queue overflowed"));
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            match (self.watched.get(&event.wd()).cloned(), name) {
                (Some(Watched::Pod(path)), _) => drop(touched.insert(path)),
                (Some(Watched::Above { path, depth }), Some(name))
                    if kind.contains(ReadFlags::ISDIR) =>
                {
                    let path = path.join(name);
                    if kind.contains(ReadFlags::CREATE) {
                        self.enter(inotify, path, depth + 1, touched);
                    } else {
                        self.leave(inotify, &path, touched);
                    }
                }
                // Of a watch that has been taken back.
                _ => {}
            }
        }
    }

    /// Watches a cgroup and what is in it, nearest first.
    fn enter(
        &mut self,
        inotify: &OwnedFd,
        path: PathBuf,
        depth: usize,
        touched: &mut HashSet<PathBuf>,
    ) {
        let mut queue = VecDeque::from([(path, depth)]);
        while let Some((path, depth)) = queue.pop_front() {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if path != self.root && is_pod(name) {
                let file = path.join("cgroup.events");
                self.watch(inotify, &file, WatchFlags::MODIFY, Watched::Pod(path.clone()));
                // Its first process may have been faster than the watch.
                touched.insert(path);
                continue;
            }
            let what = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
            let above = Watched::Above { path: path.clone(), depth };
            self.watch(inotify, &path, what, above);
            if depth < DEPTH {
                // After the watch, so that nothing comes in between.
                let below = directories(&path).unwrap_or_default();
                queue.extend(below.into_iter().map(|(path, _)| (path, depth + 1)));
            }
        }
    }

    fn watch(&mut self, inotify: &OwnedFd, path: &Path, what: WatchFlags, watched: Watched) {
        let added = if self.watched.len() < MAX_WATCHES {
            inotify::add_watch(inotify, path, what | WatchFlags::DONT_FOLLOW)
        } else {
            Err(Errno::NOSPC)
        };
        match added {
            Ok(number) => {
                self.numbers.insert(path.to_owned(), number);
                self.watched.insert(number, watched);
            }
            // It has gone meanwhile.
            Err(Errno::NOENT | Errno::NODEV) if path != self.root => {}
            Err(error) => self.incomplete = Some(error.into()),
        }
    }

    fn leave(&mut self, inotify: &OwnedFd, path: &Path, touched: &mut HashSet<PathBuf>) {
        for path in [path.to_owned(), path.join("cgroup.events")] {
            let Some(number) = self.numbers.remove(&path) else { continue };
            // Taken back by the kernel already where it can.
            let _ = inotify::remove_watch(inotify, number);
            if let Some(Watched::Pod(pod)) = self.watched.remove(&number) {
                touched.insert(pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process, time::Duration};

    use super::*;
    use crate::host::cgroup::Transient;

    /// Only for a machine that stands still.
    const LIMIT: Duration = Duration::from_secs(60);
    const POD: &str = "kubepods-burstable-pod0ff2a1b8_3c4d_4e5f_8a9b_c0d1e2f30415.slice";

    async fn next(watch: &mut Watch) -> HashSet<PathBuf> {
        let changed = tokio::time::timeout(LIMIT, watch.changed()).await;
        changed.expect("no word of a change").unwrap()
    }

    /// Waits for word of a pod until a condition holds.
    async fn until(watch: &mut Watch, pod: &Path, holds: impl Fn() -> bool) {
        loop {
            assert_eq!(next(watch).await, HashSet::from([pod.to_owned()]));
            if holds() {
                return;
            }
        }
    }

    fn runs(pod: &Path) -> bool {
        fs::read_to_string(pod.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 1"))
    }

    /// Needs root, as all that makes cgroups. Nothing is polled: each step is reported.
    #[tokio::test]
    async fn a_pod_that_comes_runs_ends_and_goes_is_told_of() {
        let root = Transient::create(&format!("weir-test-watch-{}", process::id())).unwrap();
        let mut watch = Watch::new(root.path()).unwrap();
        // The cgroups above a pod may be new too.
        let above = root.path().join("kubepods.slice/kubepods-burstable.slice");
        let (pod, container) = (above.join(POD), above.join(POD).join("cri-containerd-a.scope"));
        fs::create_dir_all(&container).unwrap();
        until(&mut watch, &pod, || true).await;
        let mut sleep = process::Command::new("sleep");
        let mut child = sleep.arg("600").spawn().unwrap();
        fs::write(container.join("cgroup.procs"), child.id().to_string()).unwrap();
        until(&mut watch, &pod, || runs(&pod)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        until(&mut watch, &pod, || !runs(&pod)).await;
        fs::remove_dir(&container).unwrap();
        fs::remove_dir(&pod).unwrap();
        until(&mut watch, &pod, || !pod.exists()).await;
        // What is not below a pod is not watched, and nothing is kept of what has gone.
        for path in [&above, &root.path().join("kubepods.slice")] {
            fs::remove_dir(path).unwrap();
        }
        fs::create_dir(root.path().join("system.slice")).unwrap();
        fs::create_dir(root.path().join(POD)).unwrap();
        let again = root.path().join(POD);
        until(&mut watch, &again, || true).await;
        let mut kept: Vec<_> = watch.tree.numbers.keys().cloned().collect();
        kept.sort();
        let system = root.path().join("system.slice");
        assert_eq!(kept, [root.path().to_owned(), again.join("cgroup.events"), system.clone()]);
        assert_eq!(watch.tree.watched.len(), kept.len());
        fs::remove_dir(again).unwrap();
        fs::remove_dir(system).unwrap();
    }

    #[tokio::test]
    async fn pods_that_were_there_are_watched_and_a_root_that_is_not_is_an_error() {
        let root = Transient::create(&format!("weir-test-watched-{}", process::id())).unwrap();
        let pod = root.path().join(POD);
        fs::create_dir(&pod).unwrap();
        let mut watch = Watch::new(root.path()).unwrap();
        fs::remove_dir(&pod).unwrap();
        until(&mut watch, &pod, || !pod.exists()).await;
        assert_eq!(Watch::new(&pod).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! When to look at a directory of manifests again: when inotify(7) says that it has changed, and now and
//! then without that. A file can be a link to what changes elsewhere, and a directory above can be replaced.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, time};

/// Between two looks at a directory that is watched.
const WATCHED: Duration = Duration::from_secs(2);
/// A file comes with several events, and files come in groups. Each look reads the whole list.
const SETTLE: Duration = Duration::from_millis(20);
/// Events are 16 bytes and a name.
const BUFFER: usize = 4096;

/// What changes the list of files or the content of one. A file that is being written is not complete
/// before it is closed; a link is complete when it is made.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ONLYDIR);

/// Tells of changes.
#[derive(Debug)]
pub(crate) struct Watch {
    /// `None` where the kernel has no instance left (`fs.inotify.max_user_instances`).
    inotify: Option<AsyncFd<OwnedFd>>,
    /// Number of the directory.
    watched: Option<i32>,
}

// === impl Watch ===

impl Watch {
    /// Needs a tokio runtime. Nothing is watched yet.
    pub(crate) fn new() -> Self {
        let inotify = start().inspect_err(|error| {
            tracing::info!(%error, "cannot watch a directory: it is looked at again and again");
        });
        Self { inotify: inotify.ok(), watched: None }
    }

    /// Watches what is at this path now. To be called before each look, so that a change behind the look
    /// is not missed. Blocks as a look does.
    pub(crate) fn follow(&mut self, directory: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let before = self.watched;
        // The same directory has the same number.
        self.watched = inotify::add_watch(inotify.get_ref(), directory, CHANGES).ok();
        if let Some(before) = before.filter(|_| self.watched != before) {
            // Another one is at the path. Where it was removed the kernel has taken the watch back.
            let _ = inotify::remove_watch(inotify.get_ref(), before);
        }
    }

    /// Waits for a change; for `unwatched` at most where none can be told. Safe to be given up.
    pub(crate) async fn changed(&self, unwatched: Duration) {
        self.changed_within(WATCHED, unwatched).await;
    }

    async fn changed_within(&self, watched: Duration, unwatched: Duration) {
        let Some(inotify) = self.inotify.as_ref().filter(|_| self.watched.is_some()) else {
            return time::sleep(unwatched).await;
        };
        if let Ok(Ok(mut ready)) = time::timeout(watched, inotify.readable()).await {
            ready.clear_ready();
            drop(ready);
            time::sleep(SETTLE).await;
            drain(inotify.get_ref());
        }
    }
}

// === helpers ===

fn start() -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // SAFETY: the descriptor is owned, and not closed before the result is dropped.
    Ok(unsafe { AsyncFd::register(inotify) }?)
}

/// Takes what is queued: the directory is read as a whole.
fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut events = Reader::new(inotify, &mut buffer);
    while matches!(events.next(), Ok(_) | Err(Errno::INTR)) {}
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Longer than a test may take: only an event ends it.
    const NEVER: Duration = Duration::from_secs(3600);

    async fn tells(watch: &Watch) -> bool {
        time::timeout(Duration::from_secs(30), watch.changed_within(NEVER, NEVER)).await.is_ok()
    }

    #[tokio::test]
    async fn each_change_of_a_directory_is_told() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        let mut watch = Watch::new();
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(file("a.yaml"), "a").unwrap(),
            &|| fs::write(file("a.yaml"), "b").unwrap(),
            &|| fs::rename(file("a.yaml"), file("b.yaml")).unwrap(),
            &|| std::os::unix::fs::symlink("b.yaml", file("c.yaml")).unwrap(),
            &|| fs::remove_file(file("b.yaml")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            watch.follow(place.path());
            change();
            assert!(tells(&watch).await, "change {number}");
        }
    }

    #[tokio::test]
    async fn the_directory_that_is_at_the_path_is_watched() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("objects"), place.path().join("other"));
        let mut watch = Watch::new();
        watch.follow(&path);
        assert!(watch.watched.is_none(), "there is none yet");
        // Without one it is looked at again and again.
        watch.changed_within(NEVER, Duration::ZERO).await;
        fs::create_dir(&path).unwrap();
        watch.follow(&path);
        fs::rename(&path, &other).unwrap();
        fs::create_dir(&path).unwrap();
        watch.follow(&path);
        fs::write(path.join("a.yaml"), "a").unwrap();
        assert!(tells(&watch).await);
        fs::remove_dir_all(&path).unwrap();
        watch.follow(&path);
        assert!(watch.watched.is_none());
    }
}

//! The threads that enter network namespaces, so that no thread of the runtime ever does: a
//! thread in the wrong namespace would make every task that it serves connect from there.
//!
//! There are two, both started at the first use: one for jobs (netlink dumps, sysctls), which may
//! take milliseconds, and one for sockets, which connections wait for. Order within one thread
//! would not do, since a job that has begun cannot be interrupted.

use std::{
    any::Any,
    cell::Cell,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, mpsc},
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::sync::lock;

type Job = Box<dyn FnOnce(&Home) + Send>;

/// A thread and its queue, which is not bounded: the sender of a job waits for its end.
pub(super) struct Helper {
    name: &'static str,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
}

/// For what may take long.
pub(super) static JOBS: Helper = Helper::new("weir-netns");
/// For what a connection waits for.
pub(super) static SOCKETS: Helper = Helper::new("weir-netns-sock");

/// The namespace that a helper thread is in between two jobs: the process's.
pub(super) struct Home {
    namespace: File,
    /// The way back failed, so the thread is somewhere else.
    astray: Cell<bool>,
}

thread_local! {
    static HELPING: Cell<bool> = const { Cell::new(false) };
}

// === impl Helper ===

impl Helper {
    const fn new(name: &'static str) -> Self {
        Self { name, queue: Mutex::new(None) }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// Where no thread can be started, and on a helper thread itself: a job that waited for
    /// another one would wait for ever.
    pub(super) fn send(&self, job: impl FnOnce(&Home) + Send + 'static) -> io::Result<()> {
        if HELPING.get() {
            return Err(io::Error::new(
                io::ErrorKind::Deadlock,
                "work in one namespace asks for work in another",
            ));
        }
        let mut queue = lock(&self.queue);
        let sender = match queue.take() {
            Some(sender) => sender,
            None => self.start()?,
        };
        let sent = sender.send(Box::new(job));
        *queue = sent.is_ok().then_some(sender);
        sent.map_err(|_| stopped())
    }

    fn start(&self) -> io::Result<mpsc::Sender<Job>> {
        let home = Home { namespace: File::open(super::PROCESS)?, astray: Cell::new(true) };
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::Builder::new().name(self.name.into()).spawn(move || {
            HELPING.set(true);
            // The thread that starts it may be in another namespace, as tests are.
            home.astray.set(!is_home());
            for job in jobs {
                job(&home);
            }
        })?;
        Ok(sender)
    }
}

// === impl Home ===

impl Home {
    /// Does the work in `namespace`, `None` being home, and goes home again.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`; an error that says so where the work panicked.
    pub(super) fn visit<T>(
        &self,
        namespace: Option<BorrowedFd<'_>>,
        work: impl FnOnce() -> T,
    ) -> io::Result<T> {
        match namespace {
            Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)?,
            None if self.astray.get() => self.go_home()?,
            None => {}
        }
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        if namespace.is_some()
            && let Err(error) = self.go_home()
        {
            tracing::error!(%error, "helper thread cannot leave its network namespace");
        }
        result.map_err(|panic| io::Error::other(format!("panicked: {}", message(&*panic))))
    }

    fn go_home(&self) -> io::Result<()> {
        self.astray.set(true);
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        self.astray.set(false);
        Ok(())
    }
}

// === helpers ===

/// The helper thread ended, which only a panic outside of the work could bring about.
pub(super) fn stopped() -> io::Error {
    io::Error::other("the helper thread has exited")
}

fn is_home() -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path| std::fs::metadata(path).map(|namespace| namespace.ino()).ok();
    inode(super::THREAD) == inode(super::PROCESS)
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

//! The threads that serve connections. Each has a runtime of its own, and a connection stays on the
//! thread that it was given to: runtimes that share their work pay for that on every wake-up
//! (docs/PERFORMANCE.md).

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A timer that becomes the next one of a runtime wakes it with a write(2), even where the runtime itself
/// sets it. With one that is never further away than this, those of connections are not the next.
const TICK: Duration = Duration::from_secs(2);

/// The threads; none where the accepting thread serves as well. Dropping it ends them, and what
/// still runs on them.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// Connections that it serves.
    open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Counts a connection for as long as it is served.
struct Serving(Arc<AtomicUsize>);

// === impl Workers ===

impl Workers {
    /// Starts so many; 0 for one per CPU. With one, the caller's runtime is it.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = match count {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            count => count,
        };
        let stop = CancellationToken::new();
        let numbers = if count == 1 { 0..0 } else { 0..count };
        let threads =
            numbers.map(|number| Worker::start(number, &stop)).collect::<Result<_, _>>()?;
        Ok(Self { threads, stop })
    }

    /// Serves a connection on the thread that has the fewest.
    pub fn serve(
        &self,
        tasks: &TaskTracker,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(worker) = self.threads.iter().min_by_key(|worker| worker.open.load(Relaxed))
        else {
            tasks.spawn(connection);
            return;
        };
        worker.open.fetch_add(1, Relaxed);
        let serving = Serving(Arc::clone(&worker.open));
        let connection = async move {
            let _serving = serving;
            connection.await;
        };
        tasks.spawn_on(connection, &worker.handle);
    }

    /// Completes once every thread has run something: not while one of them hangs. Says after how long the
    /// slowest has.
    pub async fn visit(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let own = self.threads.is_empty().then(Handle::current);
        for handle in self.threads.iter().map(|worker| &worker.handle).chain(&own) {
            let asked = Instant::now();
            if let Ok(delay) = handle.spawn(async move { asked.elapsed() }).await {
                longest = longest.max(delay);
            }
        }
        longest
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for worker in &mut self.threads {
            // The last to let go may be a connection.
            if let Some(thread) = worker.thread.take()
                && thread.thread().id() != thread::current().id()
            {
                let _ = thread.join();
            }
        }
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, stop: &CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), stop.clone());
        let _ends_with_the_runtime = runtime.spawn(async {
            loop {
                sleep(TICK).await;
            }
        });
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { handle, open: Arc::default(), thread: Some(thread) })
    }
}

// === impl Serving ===

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::ThreadId;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_stay_where_they_are() {
        let workers = Workers::start(3).unwrap();
        let tasks = TaskTracker::new();
        let (seen, threads) = channel::<ThreadId>();
        let mut ends = Vec::new();
        for _ in 0..6 {
            let (seen, (end, ended)) = (seen.clone(), oneshot::channel::<()>());
            ends.push(end);
            workers.serve(&tasks, async move {
                let thread = thread::current().id();
                seen.send(thread).unwrap();
                let _ = ended.await;
                assert_eq!(thread::current().id(), thread);
            });
        }
        let mut threads: Vec<_> =
            (0..6).map(|_| threads.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
        threads.sort_by_key(|thread| format!("{thread:?}"));
        assert!(threads.chunks(2).all(|pair| pair[0] == pair[1]), "two each: {threads:?}");
        assert!(!threads.contains(&thread::current().id()));
        drop(ends);
        tasks.close();
        tasks.wait().await;
        assert!(workers.threads.iter().all(|worker| worker.open.load(Relaxed) == 0));
    }

    #[tokio::test]
    async fn one_worker_is_the_caller() {
        let workers = Workers::start(1).unwrap();
        let tasks = TaskTracker::new();
        let caller = thread::current().id();
        workers.serve(&tasks, async move { assert_eq!(thread::current().id(), caller) });
        tasks.close();
        tasks.wait().await;
        workers.visit().await;
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_not_passed() {
        let workers = Workers::start(2).unwrap();
        let (go_on, hanging) = channel::<()>();
        let tasks = TaskTracker::new();
        workers.serve(&tasks, async move {
            let _ = hanging.recv();
        });
        let visit = workers.visit();
        tokio::pin!(visit);
        for _ in 0..100 {
            let waiting = tokio::time::timeout(Duration::from_millis(1), &mut visit).await;
            assert!(waiting.is_err(), "passed a thread that hangs");
        }
        drop(go_on);
        visit.await;
    }
}

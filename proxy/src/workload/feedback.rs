//! What connections find out on their way and the kernel side should know.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::Shared;
use crate::{
    accept::Exhaustion,
    capture::{CaptureError, Netns, WorkloadMaps},
    connection::Feedback,
    decision::Direction,
};

/// How long retries of a destination that could not be reached go direct: long enough for a retry,
/// short enough that a server just starting is captured soon.
const LET_FAIL: Duration = Duration::from_secs(5);

/// Writes what connections find out into the hooks' maps.
pub(super) struct KernelFeedback {
    kernel: Arc<WorkloadMaps>,
    netns: Netns,
    cgroup: PathBuf,
    exhaustion: Exhaustion,
    correcting: Arc<AtomicBool>,
}

// === impl KernelFeedback ===

impl KernelFeedback {
    pub(super) fn new(
        kernel: &Arc<WorkloadMaps>,
        netns: &Netns,
        cgroup: &Path,
        shared: &Shared,
    ) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            netns: netns.clone(),
            cgroup: cgroup.into(),
            exhaustion: shared.exhaustion.clone(),
            correcting: Arc::default(),
        }
    }

    /// The hooks took a connection that the application refused. One look at a time is enough, and
    /// it is made on a thread of its own, which it keeps busy for a fifth of the time at most.
    fn correct_listening(&self, destination: SocketAddr) {
        if self.correcting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (kernel, netns) = (Arc::clone(&self.kernel), self.netns.clone());
        let (cgroup, correcting) = (self.cgroup.clone(), Arc::clone(&self.correcting));
        let runtime = Handle::current();
        tokio::spawn(async move {
            let began = Instant::now();
            let look = move || {
                let corrected = kernel.listening.correct(&netns, &cgroup, destination);
                if let Err(error) = runtime.block_on(corrected) {
                    tracing::warn!(%error, "cannot list the listening ports");
                }
            };
            // Where it has panicked, the panic has been reported.
            let _ = tokio::task::spawn_blocking(look).await;
            tokio::time::sleep(began.elapsed() * 4).await;
            correcting.store(false, Ordering::Release);
        });
    }
}

impl Feedback for KernelFeedback {
    fn is_exhaustion(&self, error: &io::Error) -> bool {
        self.exhaustion.report(error)
    }

    fn unreachable(&self, direction: Direction, destination: SocketAddr) {
        match direction {
            Direction::Outbound => settle(
                self.kernel.bypasses.let_fail(destination, LET_FAIL),
                "a retry will not get the destination's error",
            ),
            Direction::Inbound => self.correct_listening(destination),
        }
    }

    fn refused(&self, destination: SocketAddr) {
        if self.kernel.is_apart() {
            self.unreachable(Direction::Outbound, destination);
        }
    }

    fn dialling_as(&self, source: SocketAddr, connecting: bool) -> io::Result<()> {
        self.kernel.local_addresses.set(source, connecting).map_err(CaptureError::into_refusal)
    }

    fn learned(&self, direction: Direction, destination: SocketAddr, time: Duration) {
        settle(
            self.kernel.bypasses.add(direction, destination, time),
            "cannot bypass a learned destination",
        );
    }

    fn forgotten(&self, direction: Direction, destination: SocketAddr) {
        settle(
            self.kernel.bypasses.remove(direction, destination),
            "cannot stop bypassing a destination that was learned wrongly",
        );
    }
}

fn settle(result: Result<(), CaptureError>, consequence: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "{consequence}");
    }
}

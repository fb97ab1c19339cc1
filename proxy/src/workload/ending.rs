//! How a workload ends: it leaves its slots, and lets its connections finish.

use std::{sync::atomic::Ordering, time::Duration};

use super::Workload;
use crate::{accept::Slots as _, capture::Listening, host::cgroup, tcp_info};

/// How often it is looked whether what is in the queues has been accepted.
const LOOK: Duration = Duration::from_millis(1);

impl Workload {
    /// Leaves the slots, or leaves them to a new process, accepts what is in the queues, lets open
    /// connections finish until the deadline, then cuts them. Returns how many had to be cut.
    pub async fn drain(&self, deadline: Duration, replaced: bool) -> usize {
        self.slots.over.store(true, Ordering::Release);
        if replaced {
            self.slots.withdrawn.store(true, Ordering::Release);
        } else {
            self.slots.withdraw();
        }
        self.stop_accepting.cancel();
        self.context.drain.cancel();
        self.let_clients_leave();
        self.accepting.close();
        tokio::select! {
            () = self.accepting.wait() => {}
            () = self.accepted_all(), if !self.may_connect() => {}
        }
        self.slots.listeners.close();
        self.connections.close();
        let finished = tokio::time::timeout(deadline, self.finish_connections()).await;
        let cut = self.connections.len();
        if finished.is_err() {
            self.context.abort.cancel();
            self.finish_connections().await;
        }
        self.stop_following.cancel();
        cut
    }

    /// Whether a process could have asked for a listener just before it was withdrawn.
    fn may_connect(&self) -> bool {
        let settings = self.settings();
        settings.workload.cgroup.as_deref().is_none_or(cgroup::may_have_processes)
    }

    /// Waits until nothing is in the queues of the listeners. What is accepted is served before this looks
    /// again: both run on the thread that accepts.
    async fn accepted_all(&self) {
        // Where a queue cannot be read, the accept loops end by themselves.
        let Ok(listeners) = self.slots.listeners.sockets() else { return };
        let is_waiting = |it: &Listening| tcp_info::queued(&it.socket).unwrap_or(1) > 0;
        while listeners.iter().any(is_waiting) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks clients to make their next requests elsewhere, as a drain does, and serves them until they do.
    /// Who ends knows it before any list of endpoints does.
    pub fn let_clients_leave(&self) {
        self.context.leaving.cancel();
    }

    /// Lets the connections that are held come to be first: their listeners are needed for that.
    async fn finish_connections(&self) {
        if let Some(holding) = &self.holding {
            holding.emptied().await;
            self.stop_holding.cancel();
            self.accepting_held.close();
            self.accepting_held.wait().await;
            holding.close();
            self.slots.listeners.close_hold();
        }
        self.connections.wait().await;
    }
}

//! How the workloads of a process end: drained, and taken off or left to a new process.

use std::{sync::Arc, time::Duration};

use super::{Workloads, write};
use crate::{
    config::Fail,
    workload::{Origin, Workload},
};

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// New connections go direct, or are refused where `fail` is closed.
    Stop,
    /// A new process has the workloads.
    Replaced {
        /// It has the same maps.
        same_maps: bool,
    },
}

impl Workloads {
    /// Stops capturing, or leaves that to a new process, and lets open connections finish until the
    /// deadline. Returns how many had to be cut.
    pub async fn finish(&self, deadline: Duration, ending: Ending) -> usize {
        self.guarding.cancel();
        // What is being put back or captured is finished first.
        drop(self.next.lock().await);
        // What a new process has attached is not ours to take off, though it has not said so yet.
        let ending = match ending {
            Ending::Stop if self.is_being_replaced() => Ending::Replaced { same_maps: true },
            ending => ending,
        };
        let replaced = ending == Ending::Replaced { same_maps: true };
        let workloads = self.list();
        let drains = workloads.iter().map(|workload| workload.drain(deadline, replaced));
        let cut = futures_util::future::join_all(drains).await.into_iter().sum();
        self.removals.close();
        self.removals.wait().await;
        self.settle_events().await;
        match ending {
            Ending::Stop => self.leave(&workloads).await,
            Ending::Replaced { .. } => workloads.iter().for_each(|it| it.kernel().links.let_go()),
        }
        // Also where there is a new process: it may have removed the workload long ago.
        for workload in &workloads {
            workload.restore_client_ip().await;
        }
        self.retired.cancel();
        cut
    }

    /// Takes everything off that captures, and keeps what is worth finding again.
    async fn leave(&self, workloads: &[Arc<Workload>]) {
        let mut kept = self.waiting().iter().any(|it| it.origin == Origin::Cli);
        for workload in workloads {
            if workload.settings().workload.fail == Fail::Closed {
                workload.kernel().links.let_go();
                kept = true;
                continue;
            }
            workload.kernel().links.detach();
            kept |= workload.origin() == Origin::Cli || workload.has_cli_ports();
        }
        write(&self.running).clear();
        if kept && !self.shared.instance.pins().is_private() {
            let pins = self.shared.instance.pins().root().display();
            tracing::info!(%pins, "state kept for the next start; `weir detach` removes it");
        } else {
            self.shared.instance.remove_pins();
        }
    }
}

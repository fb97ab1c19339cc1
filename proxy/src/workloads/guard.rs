//! Once a second: is every workload still captured? What others have replaced or removed is put
//! back, what has come back is captured again, what does not exist is let go.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Workloads, handover::Reign};
use crate::{
    blocking::blocking,
    workload::{Look, Missing, Origin, Wait, Workload},
};

/// How often.
const GUARD: Duration = Duration::from_secs(1);
/// Every how many looks processes are asked which namespace they are in.
const THOROUGH: u64 = 5;

// === impl Workloads ===

impl Workloads {
    /// Until the workloads are gone, or another process's.
    pub(super) async fn guard(workloads: Weak<Self>) {
        let Some((over, woken)) =
            workloads.upgrade().map(|it| (it.guarding.clone(), Arc::clone(&it.woken)))
        else {
            return;
        };
        let mut ticks = tokio::time::interval(GUARD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0.. {
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                () = woken.notified() => {}
                _ = ticks.tick() => {}
            }
            let Some(workloads) = workloads.upgrade() else { return };
            // To its end: what is half put back would meet a new process's programs.
            workloads.look_after(round).await;
        }
    }

    async fn look_after(self: &Arc<Self>, round: u64) {
        match self.reign() {
            Reign::Ours => {}
            Reign::Lapsed => return self.take_back().await,
            Reign::Ceding | Reign::Over => return,
        }
        self.settle_in().await;
        let (list, instance) = (self.list(), Arc::clone(&self.shared.instance));
        let (looks, others) = blocking(move || {
            let look = |workload: Arc<Workload>| {
                let thorough = round % THOROUGH == THOROUGH - 1;
                let found = workload.look(thorough);
                workload.look_at_filters(thorough);
                if thorough {
                    workload.look_at_ports();
                }
                if found == Look::Sound {
                    workload.guard_slots();
                }
                (workload, found)
            };
            (list.into_iter().map(look).collect::<Vec<_>>(), instance.has_other_schemas())
        })
        .await;
        let unwell =
            looks.iter().any(|(workload, look)| *look != Look::Sound || workload.wait().is_some());
        if !unwell && !others && !self.is_waiting() {
            return;
        }
        let _one_at_a_time = self.next.lock().await;
        // A new process may have come meanwhile.
        if self.reign() != Reign::Ours {
            return;
        }
        let mut sound = true;
        for (workload, look) in looks {
            sound &= self.mend(&workload, look).await;
        }
        self.start_waiting().await;
        // One that has died may have left the links of our own hooks there.
        if sound && others {
            let instance = Arc::clone(&self.shared.instance);
            blocking(move || instance.remove_other_schemas()).await;
        }
    }

    /// Returns whether its programs are on its hooks, or cannot be any more.
    async fn mend(self: &Arc<Self>, workload: &Arc<Workload>, look: Look) -> bool {
        let wait = match look {
            Look::Sound => None,
            // Pods come and go with what `node/reconcile.rs` sees.
            Look::Gone(wait) if workload.origin() == Origin::Pod => Some(wait),
            Look::Gone(wait) => {
                self.let_go(workload, wait);
                return true;
            }
            Look::Changed(hook) => match workload.put_programs_back().await {
                Ok(()) => {
                    tracing::warn!(workload = &**workload.name(), hook, "programs attached again");
                    None
                }
                Err(error) => Some(Wait {
                    missing: Missing::Hooks,
                    why: format!("hook {hook} has another program, or none: {error}"),
                }),
            },
        };
        let lacks_programs = wait.as_ref().is_some_and(|wait| wait.missing == Missing::Hooks);
        let why = wait.as_ref().map(|wait| wait.why.clone());
        if workload.set_wait(wait) {
            match why {
                Some(reason) => {
                    tracing::warn!(workload = &**workload.name(), reason, "capture is impaired");
                }
                None => tracing::info!(workload = &**workload.name(), "captured again"),
            }
        }
        !lacks_programs
    }
}

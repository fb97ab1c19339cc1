//! Export of spans with OTLP/HTTP (protobuf): where to (`target.rs`), as what (`encode.rs`), how (`send.rs`)
//! and when (`run.rs`). One task; the data path knows only its queue (`telemetry/spans.rs`).

#[cfg(feature = "otlp")]
mod encode;
#[cfg(feature = "otlp")]
mod run;
#[cfg(feature = "otlp")]
mod send;
mod target;

use std::time::Duration;

use tokio::{sync::mpsc::Receiver, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) use self::target::Target;
use crate::telemetry::{Export, FinishedRequest, Telemetry};

/// Sends spans until it is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
    export: Export,
}

// === impl Exporter ===

impl Exporter {
    /// Starts the task.
    pub(crate) fn start(
        target: Target,
        waiting: Receiver<FinishedRequest>,
        export: Export,
        telemetry: Telemetry,
    ) -> Self {
        let stop = CancellationToken::new();
        tracing::info!(url = &*target.url, "exporting spans");
        #[cfg(feature = "otlp")]
        let task = run::run(target, waiting, export.clone(), telemetry, stop.clone());
        #[cfg(not(feature = "otlp"))]
        let task = async move { drop((target, waiting, telemetry)) };
        Self { task: AbortOnDropHandle::new(tokio::spawn(task)), stop, export }
    }

    /// Sends what waits, and ends after at most `limit`, or after `unanswered` where the collector has not
    /// answered once by then. What is left is lost, and said, unless it was said before that the collector
    /// takes no spans.
    pub(crate) async fn finish(mut self, limit: Duration, unanswered: Duration) {
        self.stop.cancel();
        let first = unanswered.min(limit);
        let mut is_done = timeout(first, &mut self.task).await.is_ok();
        if !is_done && self.export.has_answered() {
            is_done = timeout(limit - first, &mut self.task).await.is_ok();
        }
        if !is_done && self.export.problem().is_none() {
            tracing::warn!(
                url = &*self.export.url,
                "the collector has not taken the last spans in time; traffic is not affected"
            );
        }
    }
}

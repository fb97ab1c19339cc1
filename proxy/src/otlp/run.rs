//! The exporter's task: batches of spans, with waits that grow while the collector does not take them.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Target,
    encode::encode,
    send::{Failure, send},
};
use crate::telemetry::{Export, FinishedRequest, Telemetry};

/// Spans in one request to the collector.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// The first wait after a failed attempt; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const LAST_WAIT: Duration = Duration::from_secs(30);
/// How long a batch is kept for further attempts.
const KEPT: Duration = Duration::from_secs(60);

struct Task {
    target: Target,
    waiting: Receiver<FinishedRequest>,
    batch: Vec<FinishedRequest>,
    export: Export,
    telemetry: Telemetry,
    /// The next wait.
    wait: Duration,
}

/// Exports until `stop`, and then what waits, once.
pub(super) async fn run(
    target: Target,
    waiting: Receiver<FinishedRequest>,
    export: Export,
    telemetry: Telemetry,
    stop: CancellationToken,
) {
    let batch = Vec::with_capacity(BATCH);
    let mut task = Task { target, waiting, batch, export, telemetry, wait: FIRST_WAIT };
    while stop.run_until_cancelled(task.collect()).await.is_some() {
        let (spans, count) = task.encode();
        task.deliver(spans, count, &stop).await;
    }
    task.flush().await;
}

// === impl Task ===

impl Task {
    /// Waits for a batch. Can be given up at any time: what has come is kept.
    async fn collect(&mut self) {
        if self.batch.is_empty() {
            self.waiting.recv_many(&mut self.batch, BATCH).await;
        }
        let full = async {
            while self.batch.len() < BATCH {
                let room = BATCH - self.batch.len();
                self.waiting.recv_many(&mut self.batch, room).await;
            }
        };
        let _ = timeout(DELAY, full).await;
    }

    /// The batch as the collector takes it. Its places in the queue are free again.
    fn encode(&mut self) -> (Bytes, u64) {
        let request = encode(&self.batch, &self.target, |workload| self.telemetry.pod(workload));
        let count = self.batch.len() as u64;
        self.batch.clear();
        (request.encode_to_vec().into(), count)
    }

    /// Sends a batch until the collector takes it, has refused it, or it is too old.
    async fn deliver(&mut self, spans: Bytes, count: u64, stop: &CancellationToken) {
        let oldest = Instant::now();
        loop {
            let after = match self.attempt(&spans, count).await {
                Ok(()) => return,
                Err(after) => after,
            };
            if oldest.elapsed() > KEPT {
                self.export.counts.failed.inc_by(count);
                return;
            }
            let wait = self.next_wait(after);
            // The last attempt is the flush's.
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                if self.attempt(&spans, count).await.is_err() {
                    self.export.counts.failed.inc_by(count);
                }
                return;
            }
        }
    }

    /// One attempt; an error says that there may be another, and when.
    async fn attempt(&mut self, spans: &Bytes, count: u64) -> Result<(), Option<Duration>> {
        let counts = &self.export.counts;
        match send(&self.target, spans.clone(), || self.export.set_answered()).await {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                counts.rejected.inc_by(rejected);
                counts.exported.inc_by(count - rejected);
                self.wait = FIRST_WAIT;
                self.tell(None);
                Ok(())
            }
            Err(failure @ Failure::Permanent(_)) => {
                counts.rejected.inc_by(count);
                self.tell(Some(failure.to_string()));
                Ok(())
            }
            Err(failure) => {
                self.tell(Some(failure.to_string()));
                let Failure::Temporary { after, .. } = failure else { return Ok(()) };
                Err(after)
            }
        }
    }

    /// Between half of the wait and the whole, so that those of many machines spread, or what the
    /// collector has asked for.
    fn next_wait(&mut self, after: Option<Duration>) -> Duration {
        let wait = self.wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.wait = (self.wait * 2).min(LAST_WAIT);
        after.map_or(wait, |after| after.max(wait))
    }

    /// Says once that the collector takes no spans, and once that it does again.
    fn tell(&self, problem: Option<String>) {
        let url = &*self.export.url;
        if !self.export.set_problem(problem.clone()) {
            return;
        }
        match problem {
            Some(problem) => tracing::warn!(
                url,
                problem,
                "cannot export spans; traffic is not affected; check the collector"
            ),
            None => tracing::info!(url, "spans are exported again"),
        }
    }

    /// Sends what waits, once.
    async fn flush(&mut self) {
        loop {
            while self.batch.len() < BATCH
                && let Ok(span) = self.waiting.try_recv()
            {
                self.batch.push(span);
            }
            if self.batch.is_empty() {
                return;
            }
            let (spans, count) = self.encode();
            if self.attempt(&spans, count).await.is_err() {
                let mut rest = count;
                while self.waiting.try_recv().is_ok() {
                    rest += 1;
                }
                self.export.counts.failed.inc_by(rest);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

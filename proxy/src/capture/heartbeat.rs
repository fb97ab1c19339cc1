//! Signs of life: a timestamp that the connect hook compares with its own clock, so that a
//! stopped or hung proxy is passed by.

use std::time::Duration;

use weir_common::maps;

use super::{CaptureError, Instance, original::now_ns, table::lock};

/// How often the proxy writes.
const INTERVAL: Duration = Duration::from_millis(250);

/// Keeps the heartbeat fresh for as long as the runtime runs its tasks.
pub struct Heartbeat;

impl Heartbeat {
    /// How old a heartbeat may be, in nanoseconds: eight intervals, because a busy machine must
    /// not look like a hung proxy.
    pub const LIMIT_NS: u64 = 8 * INTERVAL.as_nanos() as u64;

    /// Writes one heartbeat now.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn beat(instance: &Instance) -> Result<(), CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        lock(&instance.heartbeat)
            .set(0, now, 0)
            .map_err(CaptureError::map("write", maps::HEARTBEAT))
    }

    /// Writes heartbeats for ever, each after a visit to the threads that serve the connections, so that
    /// it stops when one of them does.
    pub async fn run<V: Future<Output = ()>>(instance: &Instance, visit: impl Fn() -> V) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            visit().await;
            if let Err(error) = Self::beat(instance) {
                tracing::warn!(%error, "cannot write the heartbeat");
            }
        }
    }
}

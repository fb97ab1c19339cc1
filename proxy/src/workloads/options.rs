//! Who reads what the kernel tells of socket options.

use std::sync::Arc;

use super::{Workloads, lock};
use crate::capture::{Options, WITHOUT_OPTIONS};

impl Workloads {
    /// Spawns the task that has options go onto upstream sockets that applications set after connect(2).
    /// It ends as that of `follow_holds` does.
    pub(super) fn follow_options(&self) {
        let mut options = match Options::new(&self.shared.instance) {
            Ok(options) => options,
            Err(error) => return tracing::warn!(%error, "{WITHOUT_OPTIONS}"),
        };
        let shared = Arc::downgrade(&self.shared);
        lock(&self.told).spawn(async move {
            let tell = |id, option| {
                if let Some(shared) = shared.upgrade() {
                    shared.options.told(id, option);
                }
            };
            options.run(tell).await;
        });
    }
}

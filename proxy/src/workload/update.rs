//! Settings that change while the workload is captured.

use std::sync::Arc;

use super::{Workload, configure, lock};
use crate::{blocking::blocking, capture::CaptureError, config::WorkloadSettings};

impl Workload {
    /// Whether other settings can be put in force without beginning anew: other port lists,
    /// prefixes and `fail` can. New connections get what is new, open ones stay as they are.
    #[must_use]
    pub fn can_change_to(&self, wanted: &WorkloadSettings) -> bool {
        let mut now = WorkloadSettings::clone(&self.settings());
        now.workload.fail = wanted.workload.fail;
        let (outbound, inbound) = (&mut now.outbound, &mut now.inbound);
        outbound.skip_ports.clone_from(&wanted.outbound.skip_ports);
        outbound.opaque_ports.clone_from(&wanted.outbound.opaque_ports);
        outbound.include_ports.clone_from(&wanted.outbound.include_ports);
        outbound.skip_cidrs.clone_from(&wanted.outbound.skip_cidrs);
        outbound.capture_loopback = wanted.outbound.capture_loopback;
        inbound.skip_ports.clone_from(&wanted.inbound.skip_ports);
        inbound.opaque_ports.clone_from(&wanted.inbound.opaque_ports);
        inbound.include_ports.clone_from(&wanted.inbound.include_ports);
        now == *wanted
    }

    /// Puts settings in force that it [can change to](Self::can_change_to). Ports that were set with
    /// `weir ports` stay as they are.
    ///
    /// # Errors
    /// Where a map cannot be written; what was in force before is then put back as far as possible.
    pub async fn change(self: &Arc<Self>, wanted: WorkloadSettings) -> Result<(), CaptureError> {
        let workload = Arc::clone(self);
        // Each entry of a list is a system call.
        blocking(move || workload.rewrite(wanted)).await
    }

    fn rewrite(&self, wanted: WorkloadSettings) -> Result<(), CaptureError> {
        let mut policy = lock(&self.policy);
        let now = self.settings();
        let next = wanted.port_policy(self.origin.source()).with_ports_set_in(&policy);
        let sk_msg = self.shared.sk_msg;
        let write = configure::rewrite(&self.kernel, (&now, &wanted), (&policy, &next), sk_msg);
        let own = Some(self.shared.instance.programs());
        let kept =
            write.and_then(|()| self.description(&wanted, self.origin, own).keep(&self.kernel));
        if let Err(error) = kept {
            let back = (&wanted, &*now);
            let _ = configure::rewrite(&self.kernel, back, (&next, &policy), sk_msg);
            return Err(error);
        }
        *policy = next;
        *lock(&self.settings) = Arc::new(wanted);
        Ok(())
    }
}

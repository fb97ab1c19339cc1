//! Puts ports back to what the configuration says.

use super::{Call, ControlError, Conversation, PortsChanged};
use crate::ports::PortsReset;

// === impl PortsReset ===

impl Call for PortsReset {
    const NAME: &'static str = "ports_reset";
    const REPLY: &'static str = "changed";
    type Reply = Vec<PortsChanged>;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Vec<PortsChanged>, ControlError> {
        let caller = on.caller;
        Ok(PortsChanged::group(&on.handler.reset_ports(on.workload(), self, caller).await?))
    }
}

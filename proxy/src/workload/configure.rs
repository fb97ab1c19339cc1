//! What the kernel is told of a workload before anything is attached: port rules, prefixes, flags.

use std::sync::Arc;

use weir_common::{WorkloadConfig, flags};

use crate::{
    capture::{CaptureError, Heartbeat, Kernel, RememberedPort, cgroup},
    config::{Fail, WorkloadSettings},
    decision::{Direction, Source},
    learn::Learn,
    ports::{PortPolicy, PortSet},
};

/// The port states that the settings mean, with those that were set on an earlier weir.
pub(super) fn policy(settings: &WorkloadSettings, remembered: &[RememberedPort]) -> PortPolicy {
    let mut policy = settings.port_policy();
    for RememberedPort { direction, port, state } in remembered {
        policy.set(*direction, &PortSet::from_iter([*port]), *state, Source::Cli);
    }
    policy
}

/// Tells the kernel, on a thread of its own: each entry of a list is a system call, and connections
/// would have to wait for all of them.
pub(super) async fn configure(
    kernel: &Arc<Kernel>,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
    sk_msg: bool,
) -> Result<(), CaptureError> {
    let (kernel, settings, policy) = (Arc::clone(kernel), settings.clone(), policy.clone());
    let written =
        tokio::task::spawn_blocking(move || write(&kernel, &settings, &policy, sk_msg)).await;
    written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

// === helpers ===

fn write(
    kernel: &Kernel,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
    sk_msg: bool,
) -> Result<(), CaptureError> {
    kernel.set_policy(policy)?;
    let cidrs = settings.outbound.skip_cidrs.0.iter();
    let prefixes: Vec<_> = cidrs.map(|cidr| (cidr.address, cidr.length)).collect();
    kernel.skip_prefixes(&prefixes)?;
    if settings.workload.learn != Learn::Bypass {
        // What an earlier weir has learned, which was told to bypass it.
        kernel.no_bypasses()?;
    }
    let flag = |on, flag| if on { flag } else { 0 };
    kernel.configure(WorkloadConfig {
        exempt_cgroup: cgroup::id(&cgroup::own()?)?,
        heartbeat_limit_ns: Heartbeat::LIMIT_NS,
        flags: flag(settings.outbound.capture_loopback, flags::CAPTURE_LOOPBACK)
            | flag(policy.has_include_list(Direction::Outbound), flags::INCLUDE_OUTBOUND)
            | flag(policy.has_include_list(Direction::Inbound), flags::INCLUDE_INBOUND)
            | flag(settings.workload.fail == Fail::Closed, flags::FAIL_CLOSED)
            | flag(settings.inbound.capture, flags::CAPTURE_INBOUND)
            | flag(sk_msg, flags::SK_MSG),
        _pad: 0,
    })
}

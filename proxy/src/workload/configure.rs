//! What the kernel is told of a workload before anything is attached: port rules, prefixes, flags.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use weir_common::{WorkloadConfig, flags};

use crate::{
    blocking::blocking,
    capture::{CaptureError, Heartbeat, RememberedPort, WorkloadMaps},
    config::{Fail, WorkloadSettings},
    decision::{Direction, Source},
    host::cgroup,
    learn::Learn,
    ports::{PortPolicy, PortSet},
};

/// What is on besides what the settings say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switches {
    /// Payload is redirected in the kernel.
    pub(super) sk_msg: bool,
    /// Outbound connections are tapped.
    pub(super) tap: bool,
}

/// The port states that the settings mean, with those that were set on an earlier weir.
pub(super) fn policy(
    settings: &WorkloadSettings,
    source: Source,
    remembered: &[RememberedPort],
) -> PortPolicy {
    let mut policy = settings.port_policy(source);
    for RememberedPort { direction, port, state } in remembered {
        policy.set(*direction, &PortSet::from_iter([*port]), *state, Source::Cli);
    }
    policy
}

/// Tells the kernel, on a thread of its own: each entry of a list is a system call, and connections
/// would have to wait for all of them.
pub(super) async fn configure(
    kernel: &Arc<WorkloadMaps>,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
    switches: Switches,
) -> Result<(), CaptureError> {
    let (kernel, settings, policy) = (Arc::clone(kernel), settings.clone(), policy.clone());
    blocking(move || {
        write_lists(&kernel, &settings, &policy)?;
        configure_flags(&kernel, &settings, &policy, switches)
    })
    .await
}

/// As [`configure`], where another process has written to the same maps meanwhile.
pub(super) async fn configure_anew(
    kernel: &Arc<WorkloadMaps>,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
    switches: Switches,
) -> Result<(), CaptureError> {
    let (kernel, settings, policy) = (Arc::clone(kernel), settings.clone(), policy.clone());
    blocking(move || {
        let left = WorkloadMaps::new(Arc::clone(kernel.instance()), kernel.workload(), false);
        write_lists(&left, &settings, &policy)?;
        kernel.flags.take_back()?;
        configure_flags(&kernel, &settings, &policy, switches)
    })
    .await
}

// === helpers ===

fn write_lists(
    kernel: &WorkloadMaps,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
) -> Result<(), CaptureError> {
    kernel.ports.set_policy(policy)?;
    kernel.prefixes.set(&prefixes(settings))?;
    if settings.workload.learn != Learn::Bypass {
        // What an earlier weir has learned, which was told to bypass it.
        kernel.bypasses.remove_left()?;
    }
    Ok(())
}

/// Changes the lists and flags of a workload that is being captured. What one connection gets is
/// either what it would have got before or what it gets from now on.
///
/// # Errors
/// Where there is no room for the lists, or a map cannot be written; some of it may be changed then.
pub(super) fn rewrite(
    kernel: &WorkloadMaps,
    settings: (&WorkloadSettings, &WorkloadSettings),
    policy: (&PortPolicy, &PortPolicy),
    switches: Switches,
) -> Result<(), CaptureError> {
    let (before, after) = policy;
    kernel.ports.reserve(after)?;
    kernel.prefixes.reserve(prefixes(settings.1).len())?;
    for direction in [Direction::Outbound, Direction::Inbound] {
        for (port, status) in after.rules(direction) {
            if before.get(direction, port) != status {
                kernel.ports.set(direction, port, status.state, status.source, status.included)?;
            }
        }
    }
    // With the flags that go with them, before what is not on the lists any more is taken away: an
    // include list without its flag, or its flag without the list, would be another policy.
    configure_flags(kernel, settings.1, after, switches)?;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let kept: HashSet<u16> = after.rules(direction).map(|(port, _)| port).collect();
        for (port, _) in before.rules(direction).filter(|(port, _)| !kept.contains(port)) {
            kernel.ports.forget(direction, port)?;
        }
    }
    kernel.prefixes.change(&prefixes(settings.0), &prefixes(settings.1))
}

fn prefixes(settings: &WorkloadSettings) -> HashSet<(IpAddr, u8)> {
    settings.outbound.skip_cidrs.0.iter().map(|cidr| (cidr.address, cidr.length)).collect()
}

fn configure_flags(
    kernel: &WorkloadMaps,
    settings: &WorkloadSettings,
    policy: &PortPolicy,
    switches: Switches,
) -> Result<(), CaptureError> {
    let flag = |on, flag| if on { flag } else { 0 };
    kernel.flags.configure(WorkloadConfig {
        exempt_cgroup: cgroup::id(&cgroup::own()?)?,
        heartbeat_limit_ns: Heartbeat::LIMIT_NS,
        flags: flag(settings.outbound.capture_loopback, flags::CAPTURE_LOOPBACK)
            | flag(policy.has_include_list(Direction::Outbound), flags::INCLUDE_OUTBOUND)
            | flag(policy.has_include_list(Direction::Inbound), flags::INCLUDE_INBOUND)
            | flag(settings.workload.fail == Fail::Closed, flags::FAIL_CLOSED)
            | flag(settings.inbound.capture, flags::CAPTURE_INBOUND)
            | flag(switches.sk_msg, flags::SK_MSG)
            | flag(switches.tap, flags::TAP),
        ..WorkloadConfig::default()
    })
}

//! How connections are served: detection, forwarding, HTTP. Swapped while weir runs; a connection
//! reads what is in force when it needs it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use weir_http::h1::HeadLimits;

use super::{EngineName, setting};
use crate::units;

/// The settings by which connections are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Protocol detection.
    pub detect: Detect,
    /// Moving bytes.
    pub forward: Forward,
    /// The HTTP engine.
    pub http: Http,
}

/// The policy in force, for all that serve connections. Cloning is cheap; every clone sees each
/// change.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<ArcSwap<TrafficPolicy>>);

/// Protocol detection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    /// How long the terminating engine holds an incomplete beginning of a known protocol. The
    /// passthrough engine holds nothing.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Bytes after which an undecided beginning is raw TCP.
    #[serde(with = "units::size")]
    pub peek_limit: usize,
}

/// Moving bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// How long a connection may be silent once one side has closed.
    #[serde(with = "units::duration")]
    pub half_closed_idle: Duration,
    /// When connect(2) of a captured connection succeeds.
    pub connect: Connect,
    /// How long an upstream may take to accept.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Proxied connections of a workload at a time; when there are nearly as many, new ones go
    /// direct.
    pub max_connections: usize,
}

/// When connect(2) of a captured connection succeeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Connect {
    /// After weir has connected to the destination; fails with the destination's error.
    #[default]
    Hold,
    /// Immediately; an unreachable destination causes a reset later.
    Immediate,
}

/// How HTTP is carried. The bounds are the terminating engine's; the passthrough engine has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Which engine.
    pub engine: EngineName,
    /// Largest head of a request or response that the engine takes.
    #[serde(with = "units::size")]
    pub max_head_bytes: usize,
    /// Largest number of header fields in a head.
    pub max_headers: usize,
    /// HTTP/2 streams that a client may have open at a time.
    pub max_concurrent_streams: u32,
}

// === defaults ===

impl Default for Detect {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(50), peek_limit: 8 * 1024 }
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            // Longer than the 60 s at which conntrack-based proxies lose late responses
            // (linkerd2 #8033).
            half_closed_idle: Duration::from_secs(300),
            connect: Connect::default(),
            // The kernel's own limit is 127 s (tcp_syn_retries = 6): weir must not be stricter.
            connect_timeout: Duration::from_secs(130),
            max_connections: 65_536,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            engine: EngineName::default(),
            max_head_bytes: HeadLimits::default().bytes,
            max_headers: HeadLimits::default().fields,
            max_concurrent_streams: 1024,
        }
    }
}

// === impl TrafficPolicy ===

impl TrafficPolicy {
    /// This policy, with those settings of `wanted` that change in place.
    #[must_use]
    pub fn with_changes_in_place(&self, wanted: &Self) -> Self {
        setting::with_changes_in_place(self, wanted)
    }
}

// === impl Traffic ===

impl Traffic {
    /// With this policy in force.
    #[must_use]
    pub fn new(policy: TrafficPolicy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }

    /// The policy in force.
    #[must_use]
    pub fn now(&self) -> Arc<TrafficPolicy> {
        self.0.load_full()
    }

    /// Puts another policy in force.
    pub fn set(&self, policy: TrafficPolicy) {
        self.0.store(Arc::new(policy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_a_change_and_what_was_read_stays() {
        let traffic = Traffic::default();
        let (clone, before) = (traffic.clone(), traffic.now());
        let mut wanted = TrafficPolicy::default();
        wanted.forward.connect_timeout = Duration::from_secs(1);
        wanted.forward.connect = Connect::Immediate;
        let next = before.with_changes_in_place(&wanted);
        traffic.set(next.clone());
        assert_eq!(*clone.now(), next);
        assert_eq!(next.forward.connect_timeout, Duration::from_secs(1));
        assert_eq!(next.forward.connect, Connect::Hold, "takes a restart");
        assert_eq!(*before, TrafficPolicy::default());
    }
}

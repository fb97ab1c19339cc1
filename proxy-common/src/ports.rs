//! Ports of a workload: what their connections get, and the source of that.

use crate::{Direction, WorkloadId, from_number};

/// What is to be done with connections of one port.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortState {
    /// Proxied, with protocol detection (the default).
    Detect = 0,
    /// Proxied as raw TCP, no detection.
    Opaque = 1,
    /// Let pass by the kernel; never reaches the proxy.
    Skip = 2,
}

/// Where a decision comes from.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// weir's built-in default.
    Default = 0,
    /// The configuration file or a flag at start.
    Config = 1,
    /// A Kubernetes annotation.
    Annotation = 2,
    /// `weir ports …` on a running weir.
    Cli = 3,
    /// Remembered from an earlier connection.
    Learned = 4,
    /// Read off the bytes of the connection itself.
    Detected = 5,
}

from_number!(PortState: Detect, Opaque, Skip);
from_number!(Source: Default, Config, Annotation, Cli, Learned, Detected);

/// Key of a port rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The port, host order.
    pub port: u16,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// Padding.
    pub _pad: u8,
}

impl PortKey {
    /// The key of one port in one direction.
    #[must_use]
    pub const fn new(workload: WorkloadId, direction: Direction, port: u16) -> Self {
        Self { workload, port, direction: direction as u8, _pad: 0 }
    }
}

/// What a port's connections get, and the source of that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRule {
    /// [`PortState`] as a number.
    pub state: u8,
    /// [`Source`] as a number.
    pub source: u8,
    /// 1 if the port is on the include list.
    pub included: u8,
    /// Padding.
    pub _pad: u8,
}

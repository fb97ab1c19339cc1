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

/// A port of a workload.
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

impl PortKey {
    /// Bits of a key, where it is one of a longest-prefix match.
    pub const BITS: u32 = 8 * size_of::<Self>() as u32;
}

/// Ports that have their rules in one entry. With the kernel's own part such an entry has 192 bytes, one
/// of its sizes: rules of scattered ports take no more memory than rules of a range of all ports.
pub const PORT_BLOCK: u16 = 128;

/// Key of the rules of a block of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortBlockKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The ports, divided by [`PORT_BLOCK`].
    pub block: u16,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// Padding.
    pub _pad: u8,
}

/// The rules of a block of ports, by their place in it. All zero where no port has a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlock {
    rules: [u8; PORT_BLOCK as usize],
}

impl PortBlockKey {
    /// The key of the block of a port, in one direction.
    #[must_use]
    pub const fn of(workload: WorkloadId, direction: Direction, port: u16) -> Self {
        Self { workload, block: port / PORT_BLOCK, direction: direction as u8, _pad: 0 }
    }
}

impl PortBlock {
    /// Without any rule.
    pub const EMPTY: Self = Self { rules: [0; PORT_BLOCK as usize] };

    /// The rule of a port of this block.
    #[must_use]
    #[inline(always)]
    pub const fn rule(&self, port: u16) -> PortRule {
        PortRule::unpacked(self.rules[(port % PORT_BLOCK) as usize])
    }

    /// Sets the rule of a port of this block.
    pub const fn set(&mut self, port: u16, rule: PortRule) {
        self.rules[(port % PORT_BLOCK) as usize] = rule.packed();
    }

    /// Whether no port has a rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }
}

/// What a port's connections get, and the source of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRule {
    /// [`PortState`] as a number.
    pub state: u8,
    /// [`Source`] as a number.
    pub source: u8,
    /// 1 if the port is on the include list.
    pub included: u8,
}

impl PortRule {
    /// In one byte; the default is 0.
    const fn packed(self) -> u8 {
        (self.state & 3) | (self.source & 7) << 2 | (self.included & 1) << 5
    }

    const fn unpacked(byte: u8) -> Self {
        Self { state: byte & 3, source: byte >> 2 & 7, included: byte >> 5 & 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_comes_back_from_its_place_alone() {
        for state in 0..=2 {
            for source in 0..=5 {
                for included in 0..=1 {
                    let rule = PortRule { state, source, included };
                    let mut block = PortBlock::EMPTY;
                    block.set(PORT_BLOCK + 7, rule);
                    assert_eq!(block.rule(7), rule);
                    assert_eq!(block.rule(8), PortRule::default());
                    assert_eq!(block.is_empty(), rule == PortRule::default());
                }
            }
        }
    }

    #[test]
    fn blocks_divide_the_ports_of_a_direction() {
        let of = |direction, port| PortBlockKey::of(1, direction, port);
        let out = Direction::Outbound;
        assert_eq!(of(out, 0), of(out, PORT_BLOCK - 1));
        assert_ne!(of(out, 0), of(out, PORT_BLOCK));
        assert_ne!(of(out, 0), of(Direction::Inbound, 0));
        assert_eq!(of(out, u16::MAX).block, u16::MAX / PORT_BLOCK);
    }
}

//! A set of ports as sorted ranges: small for the lists people write, and for "all of them".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PortList;

/// A set of ports. Written and read as `25,9000-9100`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// Inclusive, sorted, with a gap between each two.
    ranges: Vec<(u16, u16)>,
}

// === impl PortSet ===

impl PortSet {
    /// The set of these inclusive ranges, which may overlap and come in any order.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut sorted: Vec<(u16, u16)> = ranges.into_iter().filter(|(a, b)| a <= b).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => {
                    *end = (*end).max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// True if no port is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ports are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(a, b)| usize::from(b - a) + 1).sum()
    }

    /// True if `port` is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= port);
        after > 0 && self.ranges[after - 1].1 >= port
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// The inclusive ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.ranges
    }

    /// The ports that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self::from_ranges(ports.into_iter().map(|port| (port, port)))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PortList::deserialize(deserializer)?.alone().map_err(de::Error::custom)
    }
}

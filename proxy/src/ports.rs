//! Port lists and port sets: the strict parser, the compact set and the built-in defaults. What a
//! port's state means is [`policy`]'s; what the kernel is told is `capture`'s.

mod cidr;
mod policy;
mod set;

pub use cidr::{Cidr, CidrError, CidrList};
pub use policy::{PolicyInput, PortChange, PortPolicy, PortStatus, PortsReset, PortsSet};
pub use set::PortSet;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Linkerd's list of ports that carry server-speaks-first or otherwise undetectable protocols.
pub const DEFAULT_OPAQUE_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// A list as the operator wrote it: ports, and whether they add to what was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList {
    /// True if the list began with `+`: it adds to the list it would otherwise replace.
    pub append: bool,
    /// The ports.
    pub set: PortSet,
}

/// Why a port list was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad port list {list:?}: column {column}: {problem}")]
pub struct PortListError {
    /// The list as given.
    pub list: String,
    /// Where the problem is, counted in characters from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub problem: PortListProblem,
}

/// What is wrong with a port list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortListProblem {
    /// Two commas in a row, or one at either end.
    #[error("empty item; remove the extra comma")]
    Empty,
    /// Something that is no digit where a port must be.
    #[error("unexpected {0:?}; write ports and ranges separated by commas, such as 25,9000-9100")]
    Unexpected(char),
    /// A `+` that is not the first character.
    #[error("'+' is allowed only at the start, where it adds the whole list")]
    Plus,
    /// A bare `+`.
    #[error("the list is empty after '+'; write the ports to add, such as +4406")]
    NothingToAppend,
    /// Above 65535.
    #[error("{0} is not a port; ports go from 0 to 65535")]
    TooLarge(String),
    /// `9-1`.
    #[error("range {0}-{1} is reversed; write {1}-{0}")]
    Backwards(u16, u16),
    /// `9-` or `-9`.
    #[error("a range needs a port on each side of '-', such as 9000-9100")]
    HalfRange,
}

/// A list that adds, where there is none to add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'+' is not allowed here: there is no list to add to")]
pub struct NothingBefore;

// === impl PortList ===

impl PortList {
    /// Parses `25,3306,9000-9100`; spaces around items are allowed, an empty string is the empty
    /// list, and a leading `+` sets [`PortList::append`].
    ///
    /// # Errors
    /// The first problem with its column; nothing is skipped or guessed.
    pub fn parse(list: &str) -> Result<Self, PortListError> {
        let fail = |(offset, problem): (usize, PortListProblem)| PortListError {
            list: list.to_owned(),
            column: list[..offset].chars().count() + 1,
            problem,
        };
        let start = list.len() - list.trim_start().len();
        let (append, body) = match list[start..].strip_prefix('+') {
            Some(_) => (true, start + 1),
            None => (false, start),
        };
        if list[body..].trim().is_empty() {
            return if append {
                Err(fail((start, PortListProblem::NothingToAppend)))
            } else {
                Ok(Self::default())
            };
        }
        let mut ranges = Vec::new();
        let mut offset = body;
        for item in list[body..].split(',') {
            ranges.push(parse_item(item).map_err(|(at, problem)| fail((offset + at, problem)))?);
            offset += item.len() + 1;
        }
        Ok(Self { append, set: PortSet::from_ranges(ranges) })
    }

    /// The list in effect, given the one that was there before.
    #[must_use]
    pub fn resolve(&self, before: &PortSet) -> PortSet {
        if self.append { before.union(&self.set) } else { self.set.clone() }
    }

    /// The ports, where nothing is in effect otherwise.
    ///
    /// # Errors
    /// Where the list adds.
    pub fn alone(self) -> Result<PortSet, NothingBefore> {
        if self.append { Err(NothingBefore) } else { Ok(self.set) }
    }
}

impl FromStr for PortList {
    type Err = PortListError;

    fn from_str(list: &str) -> Result<Self, PortListError> {
        Self::parse(list)
    }
}

impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.append && !self.set.is_empty() {
            f.write_str("+")?;
        }
        self.set.fmt(f)
    }
}

impl From<PortSet> for PortList {
    fn from(set: PortSet) -> Self {
        Self { append: false, set }
    }
}

impl Serialize for PortList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = PortList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ports in one text, such as \"80,443,9000-9100\"")
            }

            fn visit_str<E: de::Error>(self, list: &str) -> Result<PortList, E> {
                PortList::parse(list).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

type Located<T> = Result<T, (usize, PortListProblem)>;

/// One port or range; offsets in the error are bytes from the start of `item`.
fn parse_item(item: &str) -> Located<(u16, u16)> {
    let lead = item.len() - item.trim_start().len();
    let text = item.trim();
    if text.is_empty() {
        return Err((0, PortListProblem::Empty));
    }
    let Some((low, high)) = text.split_once('-') else {
        let port = parse_port(text, lead)?;
        return Ok((port, port));
    };
    let high_at = lead + low.len() + 1;
    if low.trim().is_empty() || high.trim().is_empty() {
        return Err((lead + low.len(), PortListProblem::HalfRange));
    }
    let (first, last) = (parse_port(low, lead)?, parse_port(high, high_at)?);
    if first > last {
        return Err((lead, PortListProblem::Backwards(first, last)));
    }
    Ok((first, last))
}

fn parse_port(text: &str, at: usize) -> Located<u16> {
    let at = at + text.len() - text.trim_start().len();
    let text = text.trim();
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        let problem = match c {
            '+' => PortListProblem::Plus,
            '-' => PortListProblem::HalfRange,
            c => PortListProblem::Unexpected(c),
        };
        return Err((at + offset, problem));
    }
    text.parse().map_err(|_| (at, PortListProblem::TooLarge(text.to_owned())))
}

#[cfg(test)]
mod tests;

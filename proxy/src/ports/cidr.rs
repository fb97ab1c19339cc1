//! Lists of address prefixes: `10.0.0.0/8,fd00::/8`, bare addresses included.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The network address.
    pub address: IpAddr,
    /// Prefix length in bits: 0–32 for IPv4, 0–128 for IPv6.
    pub length: u8,
}

/// Prefixes in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrList(pub Vec<Cidr>);

/// Why a prefix was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Two commas in a row, or one at either end.
    #[error("column {column}: empty item; remove the extra comma")]
    Empty {
        /// Counted in characters from 1.
        column: usize,
    },
    /// Not an address.
    #[error("column {column}: {text:?} is not an address; write 10.0.0.0/8, fd00::/8 or 10.1.2.3")]
    Address {
        /// Counted in characters from 1.
        column: usize,
        /// The item.
        text: String,
    },
    /// The length is no number or too large.
    #[error("column {column}: prefix length {text:?} is not a number from 0 to {max}")]
    Length {
        /// Counted in characters from 1.
        column: usize,
        /// The length as given.
        text: String,
        /// 32 or 128.
        max: u8,
    },
    /// Bits are set to the right of the prefix.
    #[error("column {column}: {text} has bits set after its prefix; did you mean {meant}")]
    HostBits {
        /// Counted in characters from 1.
        column: usize,
        /// The item.
        text: String,
        /// The same prefix without them.
        meant: Cidr,
    },
}

// === impl Cidr ===

impl Cidr {
    /// The prefix of this length that `address` is in.
    #[must_use]
    pub fn truncate(address: IpAddr, length: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, length }
    }

    /// True if `address` is in the prefix; v4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && Self::truncate(address, self.length).address == self.address
    }

    fn parse(text: &str, column: usize) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| CidrError::Address { column, text: text.to_owned() })?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => max,
            Some(length) => length
                .parse()
                .ok()
                .filter(|bits| *bits <= max && !length.starts_with('+'))
                .ok_or_else(|| CidrError::Length { column, text: length.to_owned(), max })?,
        };
        let meant = Self::truncate(address, length);
        if meant.address != address {
            return Err(CidrError::HostBits { column, text: text.to_owned(), meant });
        }
        Ok(meant)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

// === impl CidrList ===

impl CidrList {
    /// Parses a comma-separated list; an empty string is the empty list.
    ///
    /// # Errors
    /// The first problem with its column.
    pub fn parse(list: &str) -> Result<Self, CidrError> {
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut cidrs = Vec::new();
        let mut column = 1;
        for item in list.split(',') {
            let lead = item.chars().take_while(|c| c.is_whitespace()).count();
            if item.trim().is_empty() {
                return Err(CidrError::Empty { column });
            }
            cidrs.push(Cidr::parse(item.trim(), column + lead)?);
            column += item.chars().count() + 1;
        }
        Ok(Self(cidrs))
    }

    /// The first prefix that `address` is in.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Cidr> {
        self.0.iter().copied().find(|cidr| cidr.contains(address))
    }
}

impl FromStr for CidrList {
    type Err = CidrError;

    fn from_str(list: &str) -> Result<Self, CidrError> {
        Self::parse(list)
    }
}

impl fmt::Display for CidrList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, cidr) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{cidr}")?;
        }
        Ok(())
    }
}

impl Serialize for CidrList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CidrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = CidrList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("prefixes in one text, such as \"10.0.0.0/8,fd00::/8\"")
            }

            fn visit_str<E: de::Error>(self, list: &str) -> Result<CidrList, E> {
                CidrList::parse(list).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

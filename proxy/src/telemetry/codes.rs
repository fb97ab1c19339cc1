//! Status codes as label values. A peer chooses its codes, so that only registered ones are labels
//! of their own: the number of series does not depend on what peers send.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// IANA, "Hypertext Transfer Protocol (HTTP) Status Code Registry".
const REGISTERED: [(u16, u16); 14] = [
    (100, 104),
    (200, 208),
    (226, 226),
    (300, 305),
    (307, 308),
    (400, 417),
    (421, 426),
    (428, 429),
    (431, 431),
    (451, 451),
    (500, 508),
    (510, 511),
    // Reserved there, and in use all the same.
    (306, 306),
    (418, 418),
];

/// Highest gRPC status code: `UNAUTHENTICATED`.
const GRPC_MAX: u32 = 16;

/// An HTTP status code: a registered one, or the class of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum StatusLabel {
    Code(u16),
    /// The first digit, 1 to 5 (RFC 9110 section 15).
    Class(u16),
    Other,
}

/// A gRPC status code, or any other number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum GrpcLabel {
    Code(u32),
    Other,
}

// === impl StatusLabel ===

impl From<u16> for StatusLabel {
    fn from(status: u16) -> Self {
        if REGISTERED.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
            return Self::Code(status);
        }
        match status / 100 {
            class @ 1..=5 => Self::Class(class),
            _ => Self::Other,
        }
    }
}

impl EncodeLabelValue for StatusLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Code(code) => code.encode(encoder),
            Self::Class(class) => format!("{class}xx").encode(encoder),
            Self::Other => "other".encode(encoder),
        }
    }
}

// === impl GrpcLabel ===

impl GrpcLabel {
    /// True of a number that gRPC does not define.
    pub(super) const fn is_other(status: u32) -> bool {
        status > GRPC_MAX
    }
}

impl From<u32> for GrpcLabel {
    fn from(status: u32) -> Self {
        if Self::is_other(status) { Self::Other } else { Self::Code(status) }
    }
}

impl EncodeLabelValue for GrpcLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Code(code) => code.encode(encoder),
            Self::Other => "other".encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn only_registered_codes_are_labels_of_their_own() {
        for (status, label) in [
            (200, StatusLabel::Code(200)),
            (418, StatusLabel::Code(418)),
            (511, StatusLabel::Code(511)),
            (199, StatusLabel::Class(1)),
            (299, StatusLabel::Class(2)),
            (499, StatusLabel::Class(4)),
            (599, StatusLabel::Class(5)),
            (600, StatusLabel::Other),
            (99, StatusLabel::Other),
        ] {
            assert_eq!(StatusLabel::from(status), label, "{status}");
        }
        let all: HashSet<StatusLabel> = (0..=u16::MAX).map(StatusLabel::from).collect();
        assert_eq!(all.len(), 70);
        let all: HashSet<GrpcLabel> = (0..100_000).map(GrpcLabel::from).collect();
        assert_eq!(all.len(), 18);
    }
}

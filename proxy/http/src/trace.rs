//! The trace that a request belongs to, as its sender says: `traceparent` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>, §3.2). Read, never written.

use std::sync::Arc;

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The flag of a sampled request (§3.2.2.5).
const SAMPLED: u8 = 1;

/// A valid `traceparent`: neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The id of the trace.
    pub trace_id: [u8; 16],
    /// The id of the span that the request was sent in.
    pub parent_id: [u8; 8],
    /// Flags as sent; of a version that is not known, only those that version 00 defines.
    pub flags: u8,
}

/// What the fields of a request say about its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trace {
    /// There is no `traceparent`.
    #[default]
    None,
    /// There is one. Behind a pointer: most requests have none, and heads are moved.
    Parent(Arc<TraceParent>),
    /// There are several, or it is not valid: it says nothing (§3.2.2.2, §4.2).
    Invalid,
}

// === impl TraceParent ===

impl TraceParent {
    /// Reads the value of the field, which may have spaces around it. `None` if it is not valid: digits
    /// that are not lower-case hexadecimal, version ff, an id of zeros, or more than version 00 allows.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let [version, trace_id, parent_id, flags] = [0..2, 3..35, 36..52, 53..55];
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let [version] = hex(&head[version])?;
        match version {
            // The form is fixed.
            0 if !rest.is_empty() => return None,
            0xff => return None,
            // Later versions may add to it, behind a dash (§4.3).
            _ if rest.first().is_some_and(|next| *next != b'-') => return None,
            _ => {}
        }
        let [flags] = hex(&head[flags])?;
        let known = if version == 0 { u8::MAX } else { SAMPLED };
        let (trace_id, parent_id) = (hex(&head[trace_id])?, hex(&head[parent_id])?);
        let is_valid = trace_id != [0; 16] && parent_id != [0; 8];
        is_valid.then_some(Self { trace_id, parent_id, flags: flags & known })
    }

    /// The sender records the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

// === impl Trace ===

impl Trace {
    /// Of one field.
    #[inline]
    pub(crate) fn of(value: &[u8]) -> Self {
        TraceParent::parse(value).map_or(Self::Invalid, |parent| Self::Parent(Arc::new(parent)))
    }

    /// Another field of the same name has come.
    #[inline]
    pub(crate) fn add(&mut self, other: Self) {
        *self = match self {
            Self::None => other,
            _ => Self::Invalid,
        };
    }

    /// Bytes of the heap that it takes: two counters stand before the ids.
    #[inline]
    pub(crate) const fn memory(&self) -> usize {
        match self {
            Self::Parent(_) => size_of::<(usize, usize, TraceParent)>(),
            Self::None | Self::Invalid => 0,
        }
    }

    /// The parent, if it is certain.
    #[inline]
    pub(crate) fn parent(self) -> Option<Arc<TraceParent>> {
        match self {
            Self::Parent(parent) => Some(parent),
            Self::None | Self::Invalid => None,
        }
    }
}

// === helpers ===

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn parse(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn a_valid_header_is_read_whole() {
        let parent = parse(&format!(" 00-{TRACE}-{PARENT}-01\t")).unwrap();
        assert_eq!(u128::from_be_bytes(parent.trace_id), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(u64::from_be_bytes(parent.parent_id), 0xb7ad_6b71_6920_3331);
        assert!(parent.is_sampled());
        assert!(!parse(&format!("00-{TRACE}-{PARENT}-00")).unwrap().is_sampled());
        // Flags of version 00 that are not defined are kept, those of a later one are not.
        assert_eq!(parse(&format!("00-{TRACE}-{PARENT}-ff")).unwrap().flags, 0xff);
        for later in ["cc", "01", "fe"] {
            for rest in ["", "-", "-what-the-future-will-be-like"] {
                let parent = parse(&format!("{later}-{TRACE}-{PARENT}-ff{rest}")).unwrap();
                assert_eq!(parent.flags, 1, "{later}{rest}");
            }
        }
    }

    #[test]
    fn what_is_not_valid_says_nothing() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        for bad in [
            String::new(),
            "00".into(),
            good[..54].into(),
            format!("{good}-"),
            format!("{good}0"),
            format!("{good}-what"),
            format!("ff{}", &good[2..]),
            format!("01{}.what", &good[2..]),
            good.to_uppercase(),
            good.replace('-', "_"),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("0x-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-.1"),
            format!("00-{TRACE}-{PARENT}-+1"),
            format!("00-{TRACE}--{}-01", &PARENT[1..]),
            format!("{good}, {good}"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn several_fields_say_nothing() {
        let one = Trace::of(format!("00-{TRACE}-{PARENT}-01").as_bytes());
        let mut trace = Trace::default();
        assert_eq!(trace.clone().parent(), None);
        trace.add(one.clone());
        assert!(trace.clone().parent().is_some());
        trace.add(one.clone());
        assert_eq!(trace.clone().parent(), None);
        trace.add(one);
        assert_eq!(trace.parent(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>) {
            let _ = TraceParent::parse(&bytes);
        }

        #[test]
        fn what_is_read_is_what_was_written(trace_id in 1u128.., parent_id in 1u64.., flags: u8) {
            let text = format!("00-{trace_id:032x}-{parent_id:016x}-{flags:02x}");
            let expected = TraceParent {
                trace_id: trace_id.to_be_bytes(),
                parent_id: parent_id.to_be_bytes(),
                flags,
            };
            prop_assert_eq!(parse(&text), Some(expected));
        }
    }
}

//! Which requests belong together: those of one client, by what it says of itself.

use std::fmt;

use weir_http::RequestView;

use super::check_field;

/// What requests of one client have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The value of a field.
    Header(Box<str>),
    /// The value of a cookie.
    Cookie(Box<str>),
}

// === impl Affinity ===

impl Affinity {
    /// Of an annotation: `header=x-user`, or `cookie=session`.
    ///
    /// # Errors
    /// What is written in another way.
    pub fn parse(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is no affinity; write \"header=NAME\" or \"cookie=NAME\"");
        let affinity = match text.split_once('=').ok_or_else(usage)? {
            ("header", name) => Self::Header(name.into()),
            ("cookie", name) => Self::Cookie(name.into()),
            _ => return Err(usage()),
        };
        affinity.check()?;
        Ok(affinity)
    }

    /// Whether it can be in force.
    ///
    /// # Errors
    /// A name that there cannot be.
    pub fn check(&self) -> Result<(), String> {
        let (Self::Header(name) | Self::Cookie(name)) = self;
        check_field(name, "").map_err(|fault| format!("affinity: {fault}"))
    }

    /// What the requests of one client have in common, and those of hardly any other; `None` where a request
    /// says nothing. The same in each weir.
    #[must_use]
    pub fn key(&self, request: &RequestView<'_>) -> Option<u64> {
        match self {
            Self::Header(name) => request.field(name).map(|value| hash(&value)),
            Self::Cookie(name) => request.cookie(name).map(hash),
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

// === helpers ===

/// FNV-1a, whose result the specification fixes: the hashes of the standard library may change.
fn hash(bytes: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_with_one_value_have_one_key() {
        let fields = |value: &'static str| [("X-User", value), ("cookie", "a=1; session=s1")];
        let user = Affinity::parse("header=x-user").unwrap();
        let session = Affinity::parse("cookie=session").unwrap();
        let key =
            |of: &Affinity, value| of.key(&RequestView::new("GET", None, "/", &fields(value)));
        assert_eq!(key(&user, "one"), key(&user, "one"));
        assert_ne!(key(&user, "one"), key(&user, "two"));
        assert_eq!(key(&session, "one"), key(&session, "two"));
        assert_eq!(user.key(&RequestView::new("GET", None, "/", &[])), None);
        // Every weir has the same (FNV-1a of "a").
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, expected) in [
            ("x-user", "write \"header=NAME\""),
            ("source=ip", "is no affinity"),
            ("header=", "affinity: "),
            ("cookie=a b", "affinity: "),
        ] {
            let error = Affinity::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(Affinity::parse("cookie=sid").unwrap().to_string(), "cookie sid");
    }
}

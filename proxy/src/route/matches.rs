//! Whether a request is meant by a match.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use weir_http::RequestView;

/// Bytes of a compiled expression.
const MOST: usize = 1 << 20;

/// A match: all that it names has to be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method, exactly.
    pub method: Option<Box<str>>,
    /// Fields by name.
    pub headers: Vec<(Box<str>, TextMatch)>,
    /// Parameters of the query by name.
    pub query: Vec<(Box<str>, TextMatch)>,
}

/// What a path is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This.
    Exact(Box<str>),
    /// Its first elements are these: `/v2` is no prefix of `/v2example`.
    Prefix(Box<str>),
    /// The expression matches all of it.
    Pattern(Pattern),
    /// The path of a call of gRPC: `/SERVICE/METHOD`.
    Grpc(GrpcMatch),
}

/// The service and the method of a call of gRPC; absent for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// The service, with its package.
    pub service: Option<TextMatch>,
    /// The method.
    pub method: Option<TextMatch>,
}

/// What a text is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// This.
    Exact(Box<str>),
    /// The expression matches all of it.
    Pattern(Pattern),
}

/// A regular expression, which has to match the whole text.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

// === impl Match ===

impl Match {
    /// Whether everything but the path is as it says.
    pub(super) fn is_met(&self, request: &RequestView<'_>) -> bool {
        let is_method = |it: &str| it.as_bytes() == request.method();
        self.method.as_deref().is_none_or(is_method)
            && self
                .headers
                .iter()
                .all(|(name, value)| request.field(name).is_some_and(|found| value.is_met(&found)))
            && self.query.iter().all(|(name, value)| {
                request.parameter(name).is_some_and(|found| value.is_met(&found))
            })
    }
}

// === impl PathMatch ===

impl PathMatch {
    /// Whether it is met by a path.
    pub(super) fn is_met(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == path,
            Self::Prefix(prefix) => has_prefix(path, elements(prefix)),
            Self::Pattern(pattern) => pattern.is_met(path),
            Self::Grpc(call) => match call.simple() {
                Some(simple) => simple.is_met(path),
                None => call.is_met(path),
            },
        }
    }
}

impl Default for PathMatch {
    /// Any path.
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

// === impl GrpcMatch ===

impl GrpcMatch {
    fn is_met(&self, path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(b"/") else { return false };
        let Some(at) = rest.iter().position(|byte| *byte == b'/') else { return false };
        let is_met = |it: &Option<TextMatch>, text| it.as_ref().is_none_or(|it| it.is_met(text));
        is_met(&self.service, &rest[..at]) && is_met(&self.method, &rest[at + 1..])
    }

    /// The path that is meant, where there is only one form of it.
    pub(super) fn simple(&self) -> Option<PathMatch> {
        match (&self.service, &self.method) {
            (Some(TextMatch::Exact(service)), Some(TextMatch::Exact(method))) => {
                Some(PathMatch::Exact(format!("/{service}/{method}").into()))
            }
            (Some(TextMatch::Exact(service)), None) => {
                Some(PathMatch::Prefix(format!("/{service}").into()))
            }
            (None, None) => Some(PathMatch::default()),
            _ => None,
        }
    }
}

// === impl TextMatch ===

impl TextMatch {
    fn is_met(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Pattern(pattern) => pattern.is_met(text),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Compiles an expression (the syntax of the Rust crate `regex`, which is RE2's but for details).
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let whole = format!("^(?:{text})$");
        // By itself first: `)(` would be whole only within the parentheses.
        let compile = |text: &str| RegexBuilder::new(text).size_limit(MOST).build();
        match compile(text).and_then(|_| compile(&whole)) {
            Ok(regex) => Ok(Self { text: text.into(), regex }),
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default();
                let reason = last.strip_prefix("error: ").unwrap_or(last);
                Err(format!("{text:?} is no regular expression: {reason}"))
            }
        }
    }

    /// As it was written.
    #[must_use]
    pub const fn text(&self) -> &str {
        &self.text
    }

    fn is_met(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "= {text}"),
            Self::Pattern(pattern) => write!(f, "~ {}", pattern.text),
        }
    }
}

impl fmt::Display for Match {
    /// For people: `GET /v2*, version = two`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        match &self.path {
            PathMatch::Exact(path) => write!(f, "{path}")?,
            PathMatch::Prefix(path) => write!(f, "{}/*", elements(path))?,
            PathMatch::Pattern(pattern) => write!(f, "path ~ {}", pattern.text)?,
            PathMatch::Grpc(GrpcMatch { service, method }) => {
                let any = |it: &Option<TextMatch>| {
                    it.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string)
                };
                write!(f, "service {}, method {}", any(service), any(method))?;
            }
        }
        for (name, value) in &self.headers {
            write!(f, ", {name} {value}")?;
        }
        for (name, value) in &self.query {
            write!(f, ", ?{name} {value}")?;
        }
        Ok(())
    }
}

// === helpers ===

/// A prefix without the slash at its end.
pub(super) fn elements(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

fn has_prefix(path: &[u8], prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

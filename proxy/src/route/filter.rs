//! What a rule changes of a request, and redirects (HTTPRoute, "filters").

use weir_http::{FieldEdit, RequestView};

use super::{Match, PathMatch, matches::elements};

/// What a rule or a backend changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Fields of the request.
    pub request: Vec<FieldEdit>,
    /// Fields of the response.
    pub response: Vec<FieldEdit>,
    /// Another host or path at the backend.
    pub rewrite: Option<Rewrite>,
    /// The client is sent elsewhere.
    pub redirect: Option<Redirect>,
}

/// Another host or path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<Box<str>>,
    /// The path.
    pub path: Option<PathChange>,
}

/// What becomes of a path. Its query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// All of it is this.
    Full(Box<str>),
    /// The prefix that has matched is this.
    Prefix(Box<str>),
}

/// Where a client is sent. What is absent stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// The host.
    pub hostname: Option<Box<str>>,
    /// The port; absent for that of the scheme, if there is one, or else for the one that was asked for.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

// === impl PathChange ===

impl PathChange {
    /// The path of a request, changed, with its query. `by` has matched it.
    #[must_use]
    pub fn apply(&self, request: &RequestView<'_>, by: &Match) -> Vec<u8> {
        let path = request.path();
        let mut changed = match self {
            Self::Full(full) => full.as_bytes().to_vec(),
            Self::Prefix(prefix) => {
                let length = match &by.path {
                    PathMatch::Prefix(matched) => elements(matched).len(),
                    _ => 0,
                };
                let rest = path.get(length..).unwrap_or_default();
                [elements(prefix).as_bytes(), rest].concat()
            }
        };
        if !changed.starts_with(b"/") {
            changed.insert(0, b'/');
        }
        changed.extend_from_slice(&request.path_and_query()[path.len()..]);
        changed
    }
}

// === impl Redirect ===

impl Redirect {
    /// The URI that a client is sent to, which has asked for `port`. `None` where nothing says which host.
    #[must_use]
    pub fn location(&self, request: &RequestView<'_>, by: &Match, port: u16) -> Option<String> {
        let asked = request.authority().and_then(|it| str::from_utf8(it).ok());
        let host = match &self.hostname {
            Some(host) => host,
            None => host_of(asked?),
        };
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or(if self.scheme.is_some() { usual } else { port });
        let path = match &self.path {
            Some(change) => change.apply(request, by),
            None => request.path_and_query().to_vec(),
        };
        let path = str::from_utf8(&path).ok()?;
        let port = if port == usual { String::new() } else { format!(":{port}") };
        Some(format!("{scheme}://{host}{port}{path}"))
    }
}

/// A header modifier (`HTTPHeaderFilter`): what is set first, then what is added, and then what is removed.
pub fn edits(
    set: impl Iterator<Item = (Box<str>, Box<str>)>,
    add: impl Iterator<Item = (Box<str>, Box<str>)>,
    remove: impl Iterator<Item = Box<str>>,
) -> Vec<FieldEdit> {
    let set = set.map(|(name, value)| FieldEdit::Set(name, value));
    let add = add.map(|(name, value)| FieldEdit::Add(name, value));
    set.chain(add).chain(remove.map(FieldEdit::Remove)).collect()
}

/// Whether a filter may change a field of this name, to this value.
///
/// # Errors
/// Why it may not.
pub fn check_field(name: &str, value: &str) -> Result<(), String> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(format!("{name:?} is no name of a header field"));
    }
    if FRAMING.iter().any(|it| it.eq_ignore_ascii_case(name)) {
        return Err(format!("{name} belongs to the connection; it cannot be changed"));
    }
    if name.eq_ignore_ascii_case("host") {
        return Err(
            "Host is changed by a rewrite of the host name, not as a header field".to_owned()
        );
    }
    let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if !value.bytes().all(is_text) || value.trim() != value {
        return Err(format!("{value:?} is no value of a header field"));
    }
    Ok(())
}

// === helpers ===

/// A host without its port.
fn host_of(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => &authority[..at],
        _ => authority,
    }
}

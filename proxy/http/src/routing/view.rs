//! The head of a request, as routes see it.

use std::borrow::Cow;

use super::edit::head_length;
use crate::h1::token;
use crate::h2::fields::FieldList;
use crate::is_grpc;

/// Bytes of a head, or what they stand for.
type Text<'a> = Cow<'a, [u8]>;

/// The head of a request. Its texts are as the client has sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestView<'a> {
    method: Text<'a>,
    /// `:authority`, the authority of an absolute target, or the only `Host`.
    authority: Option<Text<'a>>,
    /// The path with its query.
    path_and_query: Text<'a>,
    /// Without those of the pseudo-header.
    fields: Vec<(Text<'a>, Text<'a>)>,
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    /// Of its parts. `target` is a path with its query, or an absolute URI.
    #[must_use]
    pub fn new(
        method: &'a str,
        authority: Option<&'a str>,
        target: &'a str,
        fields: &[(&'a str, &'a str)],
    ) -> Self {
        let each = |(name, value): &(&'a str, &'a str)| {
            (Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()))
        };
        let (of_target, path_and_query) = split_target(target.as_bytes());
        let authority = of_target.or(authority.map(str::as_bytes));
        Self {
            method: method.as_bytes().into(),
            authority: authority.map(Into::into),
            path_and_query: path_and_query.into(),
            fields: fields.iter().map(each).collect(),
        }
    }

    /// Of a head of HTTP/1 that is complete and was understood: bytes from its first on. `None` where
    /// the end of it is not there.
    #[must_use]
    pub fn of_head(bytes: &'a [u8]) -> Option<Self> {
        let head = &bytes[..head_length(bytes)?];
        let mut lines = lines(head);
        let first = lines.next()?;
        let (method, rest) = first.split_at(token::token(first));
        let target = rest.trim_ascii().split(|byte| *byte == b' ').next()?;
        let (of_target, path_and_query) = split_target(target);
        let fields: Vec<_> = lines.filter_map(field).collect();
        let mut hosts = fields.iter().filter(|it| it.0.eq_ignore_ascii_case(b"host"));
        let host = hosts.next().filter(|_| hosts.next().is_none()).map(|it| it.1);
        Some(Self {
            method: method.into(),
            authority: of_target.or(host).map(Into::into),
            path_and_query: path_and_query.into(),
            fields: fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        })
    }

    /// Of a header list of HTTP/2.
    #[must_use]
    pub fn of_list(list: &'a FieldList) -> Self {
        let mut view = Self { fields: Vec::with_capacity(list.len()), ..Self::default() };
        for (name, value, _) in list.iter() {
            match &*name {
                b":method" => view.method = value,
                b":path" => view.path_and_query = value,
                b":authority" => view.authority = Some(value),
                [b':', ..] => {}
                _ => view.fields.push((name, value)),
            }
        }
        if view.authority.is_none() {
            let host = view.fields.iter().find(|it| *it.0 == *b"host");
            view.authority = host.map(|it| it.1.clone());
        }
        view
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        &self.method
    }

    /// The authority: a host, with or without a port.
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.as_deref()
    }

    /// The path with its query.
    #[must_use]
    pub fn path_and_query(&self) -> &[u8] {
        &self.path_and_query
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let all = self.path_and_query();
        &all[..all.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(all.len())]
    }

    /// What is behind the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        let all = self.path_and_query();
        let all = &all[..all.iter().position(|byte| *byte == b'#').unwrap_or(all.len())];
        all.iter().position(|byte| *byte == b'?').map(|at| &all[at + 1..])
    }

    /// The value of a field. Several of one name are one, with commas between them (RFC 9110 §5.2).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut all = self
            .fields
            .iter()
            .filter(|it| it.0.eq_ignore_ascii_case(name.as_bytes()))
            .map(|it| &it.1);
        let first = all.next()?;
        let mut value = Cow::Borrowed(&**first);
        for more in all {
            let value = value.to_mut();
            value.extend_from_slice(b",");
            value.extend_from_slice(more);
        }
        Some(value)
    }

    /// The first value of a parameter of the query, decoded (application/x-www-form-urlencoded).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.query()?.split(|byte| *byte == b'&').find_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let value = pair.get(at + 1..).unwrap_or_default();
            (*decoded(&pair[..at]) == *name.as_bytes()).then(|| decoded(value))
        })
    }

    /// The first value of a cookie (RFC 6265 §4.2.1). HTTP/2 may have them in several fields (RFC 9113 §8.2.3).
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        let fields = self.fields.iter().filter(|it| it.0.eq_ignore_ascii_case(b"cookie"));
        fields.flat_map(|it| it.1.split(|byte| *byte == b';')).find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
        })
    }

    /// Its content is gRPC's.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let content_type = self.fields.iter().find(|it| it.0.eq_ignore_ascii_case(b"content-type"));
        content_type.is_some_and(|it| is_grpc(&it.1))
    }
}

// === helpers ===

/// The authority of an absolute target, and the path with its query.
pub(super) fn split_target(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    const SEPARATOR: &[u8] = b"://";
    let scheme = target.windows(SEPARATOR.len()).position(|it| it == SEPARATOR);
    match scheme {
        Some(at)
            if !target.starts_with(b"/") && target[..at].iter().all(u8::is_ascii_alphabetic) =>
        {
            let rest = &target[at + SEPARATOR.len()..];
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
            let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
            (Some(authority), if path.is_empty() { b"/" } else { path })
        }
        _ => (None, target),
    }
}

/// The lines of a head without their ends, up to the empty one.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = head.iter().position(|byte| !is_end(byte)).unwrap_or(head.len());
    let lines = head[start..].split(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|line| !line.is_empty())
}

/// The name and the value of a line.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|byte| *byte == b':')?;
    Some((line[..at].trim_ascii_end(), line[at + 1..].trim_ascii()))
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|it| char::from(*it).to_digit(16));
    let (mut all, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.get(at) {
        match (byte, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                all.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => all.push(b' '),
            _ => all.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET /a/b?x=1&y=a%20b+c&x=2 HTTP/1.1\r\nHost: shop:80\r\nX-One: 1\r\n\
                          x-one:2 \r\nContent-Type: application/grpc+proto\r\n\r\nbody: no\r\n\r\n";

    #[test]
    fn a_head_is_seen_as_it_was_sent() {
        let view = RequestView::of_head(HEAD).unwrap();
        assert_eq!((view.method(), view.path()), (&b"GET"[..], &b"/a/b"[..]));
        assert_eq!(view.authority(), Some(&b"shop:80"[..]));
        assert_eq!(view.field("x-ONE").as_deref(), Some(&b"1,2"[..]));
        assert_eq!(view.field("body"), None);
        assert_eq!(view.parameter("x").as_deref(), Some(&b"1"[..]));
        assert_eq!(view.parameter("y").as_deref(), Some(&b"a b c"[..]));
        assert_eq!(view.parameter("z"), None);
        assert!(view.is_grpc());
        assert_eq!(RequestView::of_head(&HEAD[..60]), None);
    }

    #[test]
    fn an_absolute_target_has_its_own_authority() {
        for (target, authority, path) in [
            ("http://other:8080/p?q", Some("other:8080"), "/p?q"),
            ("http://other", Some("other"), "/"),
            ("/http://x", Some("host"), "/http://x"),
            ("*", Some("host"), "*"),
        ] {
            let view = RequestView::new("GET", Some("host"), target, &[]);
            assert_eq!(view.authority(), authority.map(str::as_bytes), "{target}");
            assert_eq!(view.path_and_query(), path.as_bytes());
        }
    }

    #[test]
    fn a_cookie_is_found_in_one_field_or_several() {
        let fields = [("Cookie", "a=1; session=x=y ;b"), ("cookie", "session=z; c=2")];
        let view = RequestView::new("GET", None, "/", &fields);
        assert_eq!(view.cookie("session"), Some(&b"x=y"[..]));
        assert_eq!(view.cookie("c"), Some(&b"2"[..]));
        assert_eq!((view.cookie("b"), view.cookie("Session")), (None, None));
    }

    #[test]
    fn several_hosts_are_no_authority() {
        let view = RequestView::of_head(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
        assert_eq!(view.authority(), None);
    }

    #[test]
    fn a_list_of_http2_is_seen_in_the_same_way() {
        let list = FieldList::of(&[
            (":method", "POST"),
            (":path", "/s/m?q=1"),
            (":authority", "shop"),
            ("content-type", "application/grpc"),
        ]);
        let view = RequestView::of_list(&list);
        let fields = [("content-type", "application/grpc")];
        assert_eq!(view, RequestView::new("POST", Some("shop"), "/s/m?q=1", &fields));
    }
}

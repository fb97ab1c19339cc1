//! Changes of heads, which leave everything that they do not name as it is: order, case and bytes.

use std::sync::Arc;

use super::view::{field, lines, split_target};
use crate::h2::fields::{FieldList, Replacement};

/// A change of one field of a head. Names are compared without regard to case (RFC 9110 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldEdit {
    /// The field has this value alone.
    Set(Box<str>, Box<str>),
    /// The field has this value too.
    Add(Box<str>, Box<str>),
    /// The field is not there.
    Remove(Box<str>),
}

/// What is changed of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestEdits {
    /// Changes of fields, in this order.
    pub fields: Arc<[FieldEdit]>,
    /// What the authority is then.
    pub authority: Option<Arc<str>>,
    /// What the path and the query are then.
    pub path_and_query: Option<Vec<u8>>,
}

/// A line of a head.
struct Line<'a> {
    /// `None` once it is removed.
    name: Option<&'a [u8]>,
    bytes: std::borrow::Cow<'a, [u8]>,
}

// === impl FieldEdit ===

impl FieldEdit {
    /// The name of its field.
    #[must_use]
    pub const fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Add(name, _) | Self::Remove(name) => name,
        }
    }
}

// === impl RequestEdits ===

impl RequestEdits {
    /// Nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.authority.is_none() && self.path_and_query.is_none()
    }

    /// A header list of HTTP/2 with the changes. What is not named stays as it is, for tables too.
    #[must_use]
    pub fn apply(&self, list: &FieldList) -> FieldList {
        let has_authority = list.iter().any(|it| *it.0 == *b":authority");
        let mut replaced = Vec::new();
        if let Some(path) = &self.path_and_query {
            replaced.push((&b":path"[..], path.as_slice()));
        }
        if let Some(authority) = &self.authority {
            let name = if has_authority { &b":authority"[..] } else { b"host" };
            replaced.push((name, authority.as_bytes()));
        }
        let value_of = |name: &[u8]| replaced.iter().find(|it| it.0 == name).map(|it| it.1);
        let list = list.edited(|name| value_of(name).map(Replacement::Value));
        edit_list(list, &self.fields)
    }
}

/// A header list with changes of its fields.
pub(crate) fn edit_list(mut list: FieldList, edits: &[FieldEdit]) -> FieldList {
    for edit in edits {
        let name = edit.name().to_ascii_lowercase();
        let is_it = |it: &[u8]| it == name.as_bytes();
        match edit {
            FieldEdit::Add(_, value) => list.append(&name, value),
            FieldEdit::Remove(_) => {
                list = list.edited(|it| is_it(it).then_some(Replacement::Nothing));
            }
            FieldEdit::Set(_, value) => {
                let mut is_there = false;
                list = list.edited(|it| {
                    is_it(it).then(|| match std::mem::replace(&mut is_there, true) {
                        false => Replacement::Value(value.as_bytes()),
                        true => Replacement::Nothing,
                    })
                });
                if !is_there {
                    list.append(&name, value);
                }
            }
        }
    }
    list
}

/// The length of the head of HTTP/1 at the front of these bytes: up to and with its empty line.
#[must_use]
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut at = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// A complete head of a request with the changes.
#[must_use]
pub fn edit_request(head: &[u8], edits: &RequestEdits) -> Vec<u8> {
    let first = lines(head).next().unwrap_or_default();
    let first = first_line(first, edits);
    let host = edits.authority.as_ref().map(|it| FieldEdit::Set("Host".into(), (&**it).into()));
    edit_fields(head, first.as_deref(), host.iter().chain(&*edits.fields))
}

/// A complete head of a response with the changes.
#[must_use]
pub fn edit_response(head: &[u8], edits: &[FieldEdit]) -> Vec<u8> {
    edit_fields(head, None, edits.iter())
}

// === helpers ===

/// The request line, if it changes.
fn first_line(line: &[u8], edits: &RequestEdits) -> Option<Vec<u8>> {
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    let end = line.iter().rposition(|byte| *byte == b' ')?;
    let target = line.get(start..end)?;
    let (authority, path) = split_target(target);
    let new = edits.path_and_query.as_deref();
    if new.is_none() && (authority.is_none() || edits.authority.is_none()) {
        return None;
    }
    let mut changed = line[..start].to_vec();
    if let Some(authority) = authority {
        let scheme = target.iter().position(|byte| *byte == b':').unwrap_or_default();
        changed.extend_from_slice(&target[..scheme]);
        changed.extend_from_slice(b"://");
        changed.extend_from_slice(edits.authority.as_ref().map_or(authority, |it| it.as_bytes()));
    }
    changed.extend_from_slice(new.unwrap_or(path));
    changed.extend_from_slice(&line[end..]);
    Some(changed)
}

fn edit_fields<'a>(
    head: &[u8],
    first: Option<&[u8]>,
    edits: impl Iterator<Item = &'a FieldEdit>,
) -> Vec<u8> {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
    let mut all: Vec<Line<'_>> = Vec::new();
    for line in head[start..].split_inclusive(|byte| *byte == b'\n') {
        // A line of nothing but spaces is none: it is folded, and fields come behind it.
        if matches!(line, b"\n" | b"\r\n") {
            break;
        }
        let content = line.trim_ascii_end();
        // A line that begins with a space belongs to the one before (RFC 9112 §5.2).
        let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
        match all.last_mut() {
            Some(before) if is_folded => before.bytes.to_mut().extend_from_slice(line),
            None => all.push(Line { name: None, bytes: line.into() }),
            Some(_) => {
                let name = field(content).map(|it| it.0);
                all.push(Line { name: Some(name.unwrap_or_default()), bytes: line.into() });
            }
        }
    }
    if let (Some(first), Some(line)) = (first, all.first_mut()) {
        let mut bytes = first.to_vec();
        bytes.extend_from_slice(b"\r\n");
        line.bytes = bytes.into();
    }
    for edit in edits {
        let name = edit.name().as_bytes();
        let is_it = |line: &Line<'_>| line.name.is_some_and(|it| it.eq_ignore_ascii_case(name));
        let added = |name: &[u8], value: &str| {
            let mut bytes = name.to_vec();
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
            bytes
        };
        match edit {
            FieldEdit::Remove(_) => all.retain(|line| !is_it(line)),
            FieldEdit::Add(_, value) => {
                all.push(Line { name: Some(name), bytes: added(name, value).into() });
            }
            FieldEdit::Set(_, value) => match all.iter().position(is_it) {
                Some(at) => {
                    let own = all[at].name.unwrap_or(name);
                    all[at].bytes = added(own, value).into();
                    let mut place = 0;
                    all.retain(|line| {
                        place += 1;
                        place - 1 == at || !is_it(line)
                    });
                }
                None => all.push(Line { name: Some(name), bytes: added(name, value).into() }),
            },
        }
    }
    let mut edited = head[..start].to_vec();
    all.iter().for_each(|line| edited.extend_from_slice(&line.bytes));
    edited.extend_from_slice(b"\r\n");
    edited
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] =
        b"GET /a?q HTTP/1.1\r\nhOST: shop:80\r\nX-One:1\r\nAccept:  */* \r\nx-one: 2\r\n\r\n";

    fn set(name: &str, value: &str) -> FieldEdit {
        FieldEdit::Set(name.into(), value.into())
    }

    #[test]
    fn a_change_leaves_everything_else_as_it_was() {
        let edits = RequestEdits {
            fields: [
                set("X-ONE", "3"),
                FieldEdit::Add("X-Two".into(), "4".into()),
                FieldEdit::Remove("nothing".into()),
            ]
            .into(),
            ..RequestEdits::default()
        };
        let edited = edit_request(HEAD, &edits);
        let expected = "GET /a?q HTTP/1.1\r\nhOST: shop:80\r\nX-One: 3\r\nAccept:  */* \r\n\
                        X-Two: 4\r\n\r\n";
        assert_eq!(str::from_utf8(&edited).unwrap(), expected);
    }

    #[test]
    fn a_path_and_a_host_are_rewritten_in_either_form_of_the_target() {
        let edits = RequestEdits {
            authority: Some("other".into()),
            path_and_query: Some(b"/b?q".to_vec()),
            ..RequestEdits::default()
        };
        let edited = edit_request(b"GET /a?q HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n", &edits);
        assert_eq!(edited, b"GET /b?q HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n");
        let edited = edit_request(b"GET http://x/a?q HTTP/1.1\r\nHost: x\r\n\r\n", &edits);
        assert_eq!(edited, b"GET http://other/b?q HTTP/1.1\r\nHost: other\r\n\r\n");
    }

    #[test]
    fn a_folded_line_goes_with_its_field() {
        let head = b"HTTP/1.1 200 OK\r\nA: 1\r\n 2\r\nB: 3\r\n\r\n";
        let edited = edit_response(head, &[FieldEdit::Remove("a".into())]);
        assert_eq!(edited, b"HTTP/1.1 200 OK\r\nB: 3\r\n\r\n");
    }

    /// The fields behind it were lost once.
    #[test]
    fn a_line_of_spaces_does_not_end_a_head() {
        let head = b"GET / HTTP/1.1\r\nA: 1\r\n \r\nHost: shop\r\n\r\n";
        let edits = RequestEdits { fields: [set("B", "2")].into(), ..RequestEdits::default() };
        let expected = b"GET / HTTP/1.1\r\nA: 1\r\n \r\nHost: shop\r\nB: 2\r\n\r\n";
        assert_eq!(edit_request(head, &edits), expected);
    }

    #[test]
    fn a_list_is_changed_where_it_is_named() {
        let list = FieldList::of(&[
            (":method", "GET"),
            (":path", "/a"),
            (":authority", "shop"),
            ("x-one", "1"),
            ("accept", "*/*"),
            ("x-one", "2"),
        ]);
        let edits = RequestEdits {
            fields: [set("X-One", "3"), FieldEdit::Add("X-Two".into(), "4".into())].into(),
            authority: Some("other".into()),
            path_and_query: Some(b"/b".to_vec()),
        };
        let edited = edits.apply(&list);
        let fields: Vec<_> = edited
            .iter()
            .map(|(name, value, _)| {
                format!("{} {}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value))
            })
            .collect();
        let expected =
            [":method GET", ":path /b", ":authority other", "x-one 3", "accept */*", "x-two 4"];
        assert_eq!(fields, expected);
        let size: usize = edited.iter().map(|(name, value, _)| name.len() + value.len() + 32).sum();
        assert_eq!(edited.size(), size);
    }

    proptest! {
        #[test]
        fn no_change_changes_no_byte(
            fields in prop::collection::vec(("[A-Za-z-]{1,8}", " {0,2}[a-z;=]{0,8} {0,2}"), 0..8),
            folds in prop::bool::ANY,
        ) {
            let mut head = "\r\nPOST /x HTTP/1.1\r\n".to_owned();
            for (name, value) in &fields {
                head += &format!("{name}:{value}\r\n");
                if folds {
                    head += "\tfolded\r\n";
                }
            }
            head += "\r\n";
            prop_assert_eq!(head_length(head.as_bytes()), Some(head.len()));
            let same = edit_request(head.as_bytes(), &RequestEdits::default());
            prop_assert_eq!(same, head.clone().into_bytes());
            let edits: Vec<_> = ["x1", "x2"].map(|it| set(it, "v")).into();
            let edited = edit_response(head.as_bytes(), &edits);
            prop_assert!(edited.starts_with(&head.as_bytes()[..head.len() - 2]));
            let back = edit_response(&edited, &["x1", "x2"].map(|it| FieldEdit::Remove(it.into())));
            prop_assert_eq!(back, head.into_bytes());
        }
    }
}

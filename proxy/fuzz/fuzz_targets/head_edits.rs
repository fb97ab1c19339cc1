//! Changes of heads of HTTP/1 by filters: what is not named stays byte for byte, what is read of the changed head
//! is what was asked for, and the head ends where it is said to.
//!
//! The first line says the changes: `s` sets, `a` adds and `r` removes, each with the name of a field behind it.
//! What follows is the head.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_http::h1::{HeadLimits, RequestReader};
use weir_http::{FieldEdit, RequestEdits, RequestView, edit_request, edit_response, head_length};

const VALUE: &str = "value";

fn changes(line: &[u8]) -> Vec<FieldEdit> {
    let words = line.split(|byte| *byte == b' ').take(8);
    words
        .filter_map(|word| {
            let (what, name) = word.split_first()?;
            let name = std::str::from_utf8(name).ok().filter(|name| {
                !name.is_empty() && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
            })?;
            // What frames a message is never named (`check_field` of weir's routes).
            let is_framing = ["content-length", "transfer-encoding", "connection", "host"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(name));
            match what {
                _ if is_framing => None,
                b's' => Some(FieldEdit::Set(name.into(), VALUE.into())),
                b'a' => Some(FieldEdit::Add(name.into(), VALUE.into())),
                b'r' => Some(FieldEdit::Remove(name.into())),
                _ => None,
            }
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, bytes) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let Some(length) = head_length(bytes) else { return };
    let head = &bytes[..length];
    let edits = changes(line);
    let request = RequestEdits { fields: edits.as_slice().into(), ..RequestEdits::default() };
    let (edited, of_response) = (edit_request(head, &request), edit_response(head, &edits));
    assert_eq!(head_length(&edited), Some(edited.len()), "it has one end");
    assert_eq!(head_length(&of_response), Some(of_response.len()), "it has one end");
    // Only heads that are understood are changed.
    let read = |bytes: &[u8]| match RequestReader::new(HeadLimits::NONE).read(bytes) {
        Ok(Some((head, length))) => Some((head.framing, length)),
        _ => None,
    };
    let Some((framing, _)) = read(head) else { return };
    let (after, end) = read(&edited).expect("a head that is changed can be read");
    assert_eq!((after, end), (framing, edited.len()), "it is framed as before");
    if edits.is_empty() {
        let is_empty = |line: &&[u8]| !line.trim_ascii().is_empty();
        let lines = |head: &[u8]| -> Vec<Vec<u8>> {
            head.split(|byte| *byte == b'\n').filter(is_empty).map(<[u8]>::to_vec).collect()
        };
        assert_eq!(lines(&edited), lines(head), "nothing else changes");
    }
    let view = RequestView::of_head(&edited).expect("it is a head");
    // Of several changes of one field the last one shows.
    for (place, edit) in edits.iter().enumerate() {
        let is_last =
            !edits[place + 1..].iter().any(|it| it.name().eq_ignore_ascii_case(edit.name()));
        let value = view.field(edit.name());
        match edit {
            FieldEdit::Remove(_) if is_last => assert_eq!(value, None),
            FieldEdit::Set(..) if is_last => assert_eq!(value.as_deref(), Some(VALUE.as_bytes())),
            FieldEdit::Add(..) if is_last => {
                assert!(value.is_some_and(|it| it.ends_with(VALUE.as_bytes())));
            }
            _ => {}
        }
    }
});

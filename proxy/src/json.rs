//! JSON that is safe to show on a terminal. RFC 8259 lets most control characters of Unicode stand
//! as they are; a peer's words may hold some that a terminal obeys or that reorder a line.

use std::{borrow::Cow, fmt::Write as _};

use serde::Serialize;

/// A value on one line.
///
/// # Errors
/// If it has no JSON form.
pub(crate) fn to_string<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string(value).map(escaped)
}

/// A value on several lines, for people.
///
/// # Errors
/// If it has no JSON form.
pub(crate) fn to_string_pretty<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(escaped)
}

// === helpers ===

/// Outside of strings, JSON has ASCII characters only: every other one may be replaced where it
/// stands.
fn escaped(json: String) -> String {
    match escape(&json) {
        Cow::Borrowed(_) => json,
        Cow::Owned(escaped) => escaped,
    }
}

fn escape(json: &str) -> Cow<'_, str> {
    let Some(first) = json.find(is_obeyed) else { return Cow::Borrowed(json) };
    let (clean, rest) = json.split_at(first);
    let mut out = String::with_capacity(json.len() + 32);
    out.push_str(clean);
    for c in rest.chars() {
        if is_obeyed(c) {
            // All of them are below U+10000: one unit each.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// What a terminal or a reader of lines does not take for text: DEL, the C1 controls, the controls
/// of the bidirectional algorithm (UAX #9), line and paragraph separators, invisible marks.
const fn is_obeyed(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped_and_text_is_not() {
        for (text, json) in [
            ("/plain", r#""/plain""#),
            ("/grün/日本", "\"/grün/日本\""),
            ("\u{9b}31mred", r#""\u009b31mred""#),
            ("\u{1b}[31m\n", r#""\u001b[31m\n""#),
            ("\u{202e}rtl\u{2069}", r#""\u202ertl\u2069""#),
            ("\u{85}nel\u{2028}\u{7f}", r#""\u0085nel\u2028\u007f""#),
            ("\\\u{9b}\"", r#""\\\u009b\"""#),
        ] {
            assert_eq!(to_string(text).unwrap(), json);
            assert_eq!(serde_json::from_str::<String>(json).unwrap(), text);
        }
    }

    #[test]
    fn every_control_character_of_unicode_is_escaped() {
        let all: String = ('\0'..=char::MAX).filter(|c| c.is_control()).collect();
        let json = to_string_pretty(&[all.as_str()]).unwrap();
        assert!(json.chars().all(|c| !c.is_control() || c == '\n'), "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [all]);
    }
}

//! A text for the parser, which reads YAML 1.2, where kubectl reads more: lines of quoted text get
//! blanks in front that are no part of the value, and a lone `-` in brackets becomes a letter. What is
//! edited stays the text itself.

use std::{borrow::Cow, ops::Range};

/// Blanks at a time.
const WIDTH: usize = 64;
/// Changes of one text, as each is found by reading the text again.
const CHANGES: usize = 500;

/// What the parser gets otherwise.
#[derive(Debug, Default)]
pub(super) struct Relaxed {
    /// In order.
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    /// The bytes of the text.
    bytes: Range<usize>,
    with: String,
}

// === impl Relaxed ===

impl Relaxed {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Puts blanks in front of the line that begins at a byte of the text; false if that has been done
    /// often enough.
    pub(super) fn indent(&mut self, line: usize) -> bool {
        match self.changes.iter_mut().find(|change| change.bytes == (line..line)) {
            Some(change) if change.with.len() < 8 * WIDTH => {
                change.with += &change.with.clone();
                true
            }
            Some(_) => false,
            None => self.add(Change { bytes: line..line, with: " ".repeat(WIDTH) }),
        }
    }

    /// Takes the byte, which is a hyphen, for a letter; false if that has been done often enough.
    pub(super) fn hyphen(&mut self, at: usize) -> bool {
        let new =
            !self.changes.iter().any(|change| change.bytes.start == at && at < change.bytes.end);
        new && self.add(Change { bytes: at..at + 1, with: "x".to_owned() })
    }

    fn add(&mut self, change: Change) -> bool {
        if self.changes.len() == CHANGES {
            return false;
        }
        let key = |change: &Change| (change.bytes.start, change.bytes.end);
        let place = self.changes.partition_point(|other| key(other) < key(&change));
        self.changes.insert(place, change);
        true
    }

    /// A text from a byte on, as the parser gets it.
    pub(super) fn apply<'t>(&self, text: &'t str, base: usize) -> Cow<'t, str> {
        let mut done = base;
        let mut relaxed = String::new();
        for change in self.changes.iter().filter(|change| change.bytes.start >= base) {
            relaxed += &text[done..change.bytes.start];
            relaxed += &change.with;
            done = change.bytes.end;
        }
        if done == base && relaxed.is_empty() {
            return Cow::Borrowed(&text[base..]);
        }
        Cow::Owned(relaxed + &text[done..])
    }

    /// The byte of the text for one of what [`Relaxed::apply`] gave; blanks are at the start of
    /// their line.
    pub(super) fn original(&self, base: usize, relaxed: usize) -> usize {
        let mut added = 0;
        for change in self.changes.iter().filter(|change| change.bytes.start >= base) {
            let start = change.bytes.start - base + added;
            let Some(within) = relaxed.checked_sub(start) else { break };
            added += within.min(change.with.len() - change.bytes.len());
        }
        base + relaxed - added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_relaxed_text_are_those_of_the_text() {
        let text = "ab\n-d\n\u{e9}f\n";
        let mut relaxed = Relaxed::default();
        assert!(relaxed.indent(6) && relaxed.hyphen(3) && relaxed.indent(3) && relaxed.indent(6));
        assert!(!relaxed.hyphen(3));
        for base in [0, 3, 6] {
            let given = relaxed.apply(text, base);
            assert_eq!(given.replace(' ', "").replace('x', "-"), text[base..]);
            for (at, c) in given.char_indices() {
                let original = relaxed.original(base, at);
                match c {
                    ' ' => assert!([3, 6].contains(&original)),
                    'x' => assert_eq!(original, 3),
                    c => assert!(text[original..].starts_with(c), "{base} {at}"),
                }
            }
            assert_eq!(relaxed.original(base, given.len()), text.len());
        }
        while relaxed.indent(3) {}
        assert!(relaxed.indent(0));
        assert!((7..2 * CHANGES).any(|at| !relaxed.hyphen(at)));
    }
}

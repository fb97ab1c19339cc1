//! How long a file may be, and how it begins. Both hold for every Rust file, tests too.

use super::{Finding, Rule, Tree};

/// Past that many lines, a file has two subjects.
const MOST_LINES: usize = 500;

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for source in &tree.sources {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            let message = format!(
                "{lines} lines, and {MOST_LINES} are the limit; move one subject to a file of its own"
            );
            findings.push(Finding::new(&source.path, lines, Rule::Length, message));
        }
        if !source.text.starts_with("//!") {
            let message = "does not begin with `//!`; say there what the file is for";
            findings.push(Finding::new(&source.path, 1, Rule::Header, message));
        }
    }
}

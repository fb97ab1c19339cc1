//! YAML as a tree in which each node knows its bytes. It keeps what an edit and its proof need, and
//! resolves nothing: aliases and merge keys stay what they are. [`read`](super::read) makes it.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::error::{ManifestError, Position};

/// Aliases of aliases that are followed when something is looked up.
const ALIAS_HOPS: usize = 16;

/// A node of the document.
#[derive(Debug)]
pub(super) struct Node {
    /// Its bytes, from its anchor or tag on. A block collection ends where the next thing begins.
    pub(super) bytes: Range<usize>,
    pub(super) at: Position,
    /// The number of its anchor, or 0.
    pub(super) anchor: usize,
    pub(super) tagged: bool,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar { text: String, plain: bool, block: bool },
    Sequence(Vec<Node>),
    Mapping(Mapping),
    Alias(usize),
}

#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) entries: Vec<(Node, Node)>,
    /// The bytes between the braces, if it has any.
    pub(super) braces: Option<Range<usize>>,
}

/// All documents of a text.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) documents: Vec<Node>,
    /// Anchors that an alias refers to.
    pub(super) aliased: HashSet<usize>,
    /// Where block scalars end, with the blank lines that follow them.
    pub(super) block_ends: HashSet<usize>,
}

/// Where each anchor is.
pub(super) struct Anchors<'a>(HashMap<usize, &'a Node>);

// === impl Tree ===

impl Tree {
    pub(super) fn anchors(&self) -> Anchors<'_> {
        let mut anchors = HashMap::new();
        let mut left: Vec<&Node> = self.documents.iter().collect();
        while let Some(node) = left.pop() {
            if node.anchor != 0 {
                anchors.insert(node.anchor, node);
            }
            match &node.kind {
                Kind::Sequence(items) => left.extend(items),
                Kind::Mapping(mapping) => {
                    left.extend(mapping.entries.iter().flat_map(|(key, value)| [key, value]));
                }
                Kind::Scalar { .. } | Kind::Alias(_) => {}
            }
        }
        Anchors(anchors)
    }
}

// === impl Node ===

impl Node {
    /// The text of a scalar.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(super) fn mapping(&self) -> Option<&Mapping> {
        match &self.kind {
            Kind::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    /// Nothing, or one of YAML's words for it.
    pub(super) fn is_null(&self) -> bool {
        !self.tagged
            && matches!(&self.kind, Kind::Scalar { text, plain: true, .. }
                if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// True if every YAML parser takes the scalar for a string. What begins like a number, and the
    /// words that YAML 1.1 takes for booleans, need quotes.
    pub(super) fn is_string(&self) -> bool {
        let Kind::Scalar { text, plain, .. } = &self.kind else { return false };
        !plain || !self.tagged && !self.is_null() && is_string(text)
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The bytes between the brackets of a list in flow style.
    pub(super) fn brackets(&self, text: &str) -> Option<Range<usize>> {
        self.items()?;
        let start = self.bytes.start + content(&text[self.bytes.clone()]);
        text[start..].starts_with('[').then(|| start + 1..self.bytes.end - 1)
    }

    /// Where the last thing in it ends, which for block style is before what follows it.
    pub(super) fn content_end(&self, text: &str) -> usize {
        let last = match &self.kind {
            Kind::Mapping(Mapping { braces: None, entries }) => {
                entries.last().map(|(key, value)| match value.bytes.is_empty() {
                    true => key.bytes.end,
                    false => value.content_end(text).max(key.bytes.end),
                })
            }
            Kind::Sequence(items) if self.brackets(text).is_none() => {
                items.last().map(|item| item.content_end(text))
            }
            _ => None,
        };
        last.unwrap_or(self.bytes.end)
    }

    /// Itself and all that is in it.
    pub(super) fn all(&self) -> Vec<&Node> {
        let mut all = vec![self];
        let mut next = 0;
        while let Some(&node) = all.get(next) {
            match &node.kind {
                Kind::Sequence(items) => all.extend(items),
                Kind::Mapping(mapping) => {
                    all.extend(mapping.entries.iter().flat_map(|(key, value)| [key, value]));
                }
                Kind::Scalar { .. } | Kind::Alias(_) => {}
            }
            next += 1;
        }
        all
    }
}

// === impl Mapping ===

impl Mapping {
    /// The entry with a key, which has to be there once.
    ///
    /// # Errors
    /// If the key is there more than once: parsers disagree which one counts.
    pub(super) fn get(&self, key: &str) -> Result<Option<&(Node, Node)>, ManifestError> {
        let mut found = self.entries.iter().filter(|(name, _)| name.scalar() == Some(key));
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some((again, _)) => Err(ManifestError::input(
                again.at,
                format!("duplicate key {key:?} in a mapping; remove one"),
            )),
        }
    }

    /// The merge key (`<<`), where there is one.
    pub(super) fn merge(&self) -> Option<&(Node, Node)> {
        self.entries.iter().find(
            |(key, _)| matches!(&key.kind, Kind::Scalar { text, plain: true, .. } if text == "<<"),
        )
    }
}

// === impl Anchors ===

impl<'a> Anchors<'a> {
    /// The node itself, or the one that it is an alias of.
    pub(super) fn follow(&self, mut node: &'a Node) -> Option<&'a Node> {
        for _ in 0..ALIAS_HOPS {
            let Kind::Alias(anchor) = node.kind else { return Some(node) };
            node = self.0.get(&anchor)?;
        }
        None
    }

    /// What a reader of the document finds under a key, aliases and merge keys resolved.
    pub(super) fn get(&self, node: &'a Node, key: &str) -> Option<&'a Node> {
        self.get_within(node, key, ALIAS_HOPS)
    }

    fn get_within(&self, node: &'a Node, key: &str, hops: usize) -> Option<&'a Node> {
        let hops = hops.checked_sub(1)?;
        let mapping = self.follow(node)?.mapping()?;
        if let Some((_, value)) =
            mapping.entries.iter().find(|(name, _)| name.scalar() == Some(key))
        {
            return self.follow(value);
        }
        let merged = self.follow(&mapping.merge()?.1)?;
        match &merged.kind {
            Kind::Sequence(items) => items.iter().find_map(|item| self.get_within(item, key, hops)),
            _ => self.get_within(merged, key, hops),
        }
    }
}

/// True if a text without quotes is a string to every YAML parser, and no null.
pub(super) fn is_string(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && !words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Where a node's content begins, behind anchor, tag and comments.
pub(super) fn content(node: &str) -> usize {
    let mut rest = node.trim_start();
    while let Some(skipped) = match rest.chars().next() {
        Some('#') => rest.find('\n'),
        Some('!') if rest.starts_with("!<") => rest.find('>').map(|end| end + 1),
        // Flow indicators are no part of it (YAML 1.2 §6.9): a parser may do without the space.
        Some('&' | '!') => rest.find(|c: char| c.is_whitespace() || "[]{},".contains(c)),
        _ => None,
    } {
        rest = rest[skipped..].trim_start();
    }
    node.len() - rest.len()
}

//! YAML as a tree in which each node knows its bytes. It keeps what an edit and its proof need, and
//! resolves nothing: aliases and merge keys stay what they are.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{
    error::{ManifestError, Position},
    remove::line_start,
};

/// Collections within collections; schemas in custom resource definitions have about forty.
const DEEPEST: usize = 200;

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
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) documents: Vec<Node>,
    /// Anchors that an alias refers to.
    pub(super) aliased: HashSet<usize>,
    /// Where block scalars end, with the blank lines that follow them.
    pub(super) block_ends: HashSet<usize>,
}

/// Where each anchor is.
pub(super) struct Anchors<'a>(HashMap<usize, &'a Node>);

/// A collection that has begun.
struct Open {
    node: Node,
    key: Option<Node>,
}

struct Builder<'t> {
    text: &'t str,
    /// Byte offsets of characters, unless all are ASCII.
    offsets: Option<Vec<usize>>,
    stack: Vec<Open>,
    tree: Tree,
}

// === impl Tree ===

impl Tree {
    /// # Errors
    /// Where the text is no YAML, and where it nests deeper than any manifest.
    pub(super) fn parse(text: &str) -> Result<Self, ManifestError> {
        let offsets =
            (!text.is_ascii()).then(|| text.char_indices().map(|(offset, _)| offset).collect());
        let tree =
            Self { documents: Vec::new(), aliased: HashSet::new(), block_ends: HashSet::new() };
        let mut builder = Builder { text, offsets, stack: Vec::new(), tree };
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                ManifestError::input(
                    position(error.marker()),
                    format!("not valid YAML: {}; correct it there or just before", error.info()),
                )
            })?;
            builder.event(event, span)?;
        }
        Ok(builder.tree)
    }

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

// === impl Builder ===

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ManifestError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = Kind::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                    block: matches!(style, ScalarStyle::Literal | ScalarStyle::Folded),
                };
                let mut node = self.node(span, anchor, tag.as_deref(), kind);
                // An empty document has the marker after it as its span.
                if matches!(&node.kind, Kind::Scalar { text, plain: true, .. } if text.is_empty())
                    && anchor == 0
                    && !node.tagged
                {
                    node.bytes.end = node.bytes.start;
                }
                if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
                    let start = self.content(span);
                    node.bytes.end = start + quoted_end(&self.text[start..node.bytes.end]);
                }
                if matches!(node.kind, Kind::Scalar { block: true, .. }) {
                    // An empty one's span has the next line's indentation.
                    let end = line_start(self.text, node.bytes.end);
                    if self.text[end..node.bytes.end].trim().is_empty() {
                        node.bytes = node.bytes.start.min(end)..end;
                    }
                    self.tree.block_ends.insert(node.bytes.end);
                }
                self.add(node);
            }
            Event::Alias(anchor) => {
                self.tree.aliased.insert(anchor);
                let mut node = self.node(span, 0, None, Kind::Alias(anchor));
                let text = &self.text[node.bytes.clone()];
                node.bytes.end =
                    node.bytes.start + text.find(char::is_whitespace).unwrap_or(text.len());
                self.add(node);
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(span, anchor, tag.as_deref(), Kind::Sequence(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                let inside = self.text[..self.offset(span.end)]
                    .get(self.content(span)..)
                    .filter(|text| text.starts_with('{'))
                    .map(|_| self.content(span) + 1);
                let mapping = Mapping { entries: Vec::new(), braces: inside.map(|at| at..at) };
                self.open(span, anchor, tag.as_deref(), Kind::Mapping(mapping))?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(
        &mut self,
        span: Span,
        anchor: usize,
        tag: Option<&Tag>,
        kind: Kind,
    ) -> Result<(), ManifestError> {
        if self.stack.len() == DEEPEST {
            return Err(ManifestError::input(
                position(&span.start),
                format!("collections are nested more than {DEEPEST} deep; this is not a manifest"),
            ));
        }
        let node = self.node(span, anchor, tag, kind);
        self.stack.push(Open { node, key: None });
        Ok(())
    }

    fn close(&mut self, span: Span) {
        let Some(Open { mut node, .. }) = self.stack.pop() else { return };
        let mut end = self.offset(span.start);
        // The span of a collection with a trailing comma is the comma's.
        if !span.is_empty() && self.text[end..].starts_with(',') {
            end += 1 + content(&self.text[end + 1..]);
        }
        if let Kind::Mapping(Mapping { braces: Some(braces), .. }) = &mut node.kind {
            braces.end = end;
        }
        let closed = !span.is_empty() && self.text[end..].starts_with(['}', ']']);
        node.bytes.end = end + usize::from(closed);
        self.add(node);
    }

    fn add(&mut self, node: Node) {
        let Some(parent) = self.stack.last_mut() else {
            return self.tree.documents.push(node);
        };
        match &mut parent.node.kind {
            Kind::Sequence(items) => items.push(node),
            Kind::Mapping(mapping) => match parent.key.take() {
                Some(key) => mapping.entries.push((key, node)),
                None => parent.key = Some(node),
            },
            Kind::Scalar { .. } | Kind::Alias(_) => {}
        }
    }

    fn node(&self, span: Span, anchor: usize, tag: Option<&Tag>, kind: Kind) -> Node {
        Node {
            bytes: self.offset(span.start)..self.offset(span.end),
            at: position(&span.start),
            anchor,
            tagged: tag.is_some(),
            kind,
        }
    }

    /// The byte at which the content of a node begins.
    fn content(&self, span: Span) -> usize {
        let start = self.offset(span.start);
        start + content(&self.text[start..self.offset(span.end)])
    }

    fn offset(&self, marker: Marker) -> usize {
        let offset = match &self.offsets {
            Some(offsets) => offsets.get(marker.index()).copied(),
            None => Some(marker.index()),
        };
        offset.unwrap_or(self.text.len()).min(self.text.len())
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

/// Where a quoted scalar ends that begins the text. The parser's span goes on to the next token, and
/// has comments in it.
fn quoted_end(text: &str) -> usize {
    let mut characters = text.char_indices();
    let Some((_, quote)) = characters.next() else { return 0 };
    while let Some((at, c)) = characters.next() {
        let escape = match quote {
            '"' => c == '\\',
            _ => text[at..].starts_with("''"),
        };
        if escape {
            characters.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

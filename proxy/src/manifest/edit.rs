//! Changes of a manifest's text: which bytes are replaced by what. New entries go in front of their
//! siblings, directly below the key, so that comments stay with what they belong to.

use std::ops::Range;

use super::{
    INJECT, KEYS,
    error::ManifestError,
    find::{Template, from_merge, written_out},
    remove::{self, line_end, line_start},
    tree::{Anchors, Kind, Mapping, Node, Tree},
};

/// Columns of one level, where the template does not show.
const STEP: usize = 2;

/// An entry of a mapping.
pub(super) type Entry = (Node, Node);

/// Replaces bytes.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) bytes: Range<usize>,
    pub(super) text: String,
}

/// What is under a key.
pub(super) enum Found<'a> {
    Missing,
    Null(&'a Entry),
    Mapping(&'a Entry, &'a Mapping),
}

/// What an injection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `weir.dev/inject` was not there.
    New,
    /// It was there; other annotations were added or replaced.
    Updated,
    /// Everything was there.
    Nothing,
}

/// Edits of one pod template.
pub(super) struct Editor<'a> {
    pub(super) text: &'a str,
    pub(super) tree: &'a Tree,
    pub(super) anchors: &'a Anchors<'a>,
    pub(super) template: &'a Template<'a>,
    /// Kind and name of the object, for errors.
    pub(super) name: &'a str,
    pub(super) edits: Vec<Edit>,
}

type Pairs<'p> = [(&'static str, &'p str)];

// === impl Editor ===

impl<'a> Editor<'a> {
    /// Adds annotations, and gives those that are there the wanted values.
    pub(super) fn inject(&mut self, wanted: &Pairs<'_>) -> Result<Change, ManifestError> {
        let change = match self.find(self.template.mapping, "metadata")? {
            Found::Missing => {
                let Some(key) = self.template.key else {
                    let problem = format!("{} has no metadata; a pod needs a name", self.name);
                    return Err(ManifestError::input(self.template.node.at, problem));
                };
                let names = ["metadata", "annotations"];
                self.insert(key, self.template.mapping, &names, wanted)?;
                Change::New
            }
            Found::Null(entry) => {
                self.fill(self.template.mapping, entry, &["annotations"], wanted)?;
                Change::New
            }
            Found::Mapping(entry, metadata) => match self.find(metadata, "annotations")? {
                Found::Missing => {
                    self.insert(&entry.0, metadata, &["annotations"], wanted)?;
                    Change::New
                }
                Found::Null(entry) => {
                    self.fill(metadata, entry, &[], wanted)?;
                    Change::New
                }
                Found::Mapping(entry, annotations) => self.update(&entry.0, annotations, wanted)?,
            },
        };
        self.not_shared()?;
        Ok(change)
    }

    /// Takes weir's annotations away; false if there are none.
    pub(super) fn uninject(&mut self) -> Result<bool, ManifestError> {
        let removed = remove::annotations(self)?;
        self.not_shared()?;
        Ok(removed)
    }

    pub(super) fn find(&self, mapping: &'a Mapping, key: &str) -> Result<Found<'a>, ManifestError> {
        let Some(entry) = mapping.get(key)? else {
            return match mapping.merge() {
                Some((merge, _)) => Err(from_merge(merge, key, self.name)),
                None => Ok(Found::Missing),
            };
        };
        written_out(&entry.1, key, self.name)?;
        match &entry.1.kind {
            Kind::Mapping(found) => Ok(Found::Mapping(entry, found)),
            _ if entry.1.is_null() => Ok(Found::Null(entry)),
            _ => Err(self.error(&entry.1, &format!("{key} is no mapping; correct it"))),
        }
    }

    pub(super) fn error(&self, node: &Node, problem: &str) -> ManifestError {
        ManifestError::input(node.at, format!("{}: {problem}", self.name))
    }

    pub(super) fn replace(&mut self, bytes: Range<usize>, text: impl Into<String>) {
        self.edits.push(Edit { bytes, text: text.into() });
    }

    /// Annotations that are there already, at least some.
    fn update(
        &mut self,
        key: &'a Node,
        annotations: &'a Mapping,
        wanted: &Pairs<'_>,
    ) -> Result<Change, ManifestError> {
        let mut new = Vec::new();
        for &(name, value) in wanted {
            match annotations.get(name)? {
                None => new.push((name, value)),
                Some((_, there)) if there.is_string() && there.scalar() == Some(value) => {}
                Some(entry) => self.replace_value(entry, annotations, value)?,
            }
        }
        let first = new.iter().any(|(name, _)| *name == INJECT);
        if !new.is_empty() {
            self.insert(key, annotations, &[], &new)?;
        }
        Ok(match (first, self.edits.is_empty()) {
            (true, _) => Change::New,
            (false, false) => Change::Updated,
            (false, true) => Change::Nothing,
        })
    }

    fn replace_value(
        &mut self,
        (key, there): &'a Entry,
        mapping: &Mapping,
        value: &str,
    ) -> Result<(), ManifestError> {
        let name = key.scalar().unwrap_or_default();
        let text = value_text(name, value, mapping.braces.is_some());
        let problem = match &there.kind {
            Kind::Sequence(_) | Kind::Mapping(_) => "is no string; correct it",
            Kind::Scalar { block: true, .. } => "is a block of text; write it on one line",
            _ if there.anchor != 0 => "has an anchor; remove the anchor",
            _ if there.bytes.is_empty() => match self.colon(key) {
                Some(colon) => {
                    self.replace(colon + 1..colon + 1, format!(" {text}"));
                    return Ok(());
                }
                None => "has no value; write one",
            },
            _ => {
                self.replace(there.bytes.clone(), text);
                return Ok(());
            }
        };
        Err(self.error(there, &format!("{name} {problem}")))
    }

    /// Puts annotations, within further mappings where `names` are given, in front of a mapping's
    /// entries.
    fn insert(
        &mut self,
        key: &'a Node,
        mapping: &'a Mapping,
        names: &[&str],
        pairs: &Pairs<'_>,
    ) -> Result<(), ManifestError> {
        if let Some(braces) = &mapping.braces {
            return self.insert_in_braces(key, mapping, braces.clone(), names, pairs);
        }
        let Some((first, _)) = mapping.entries.first() else {
            return Err(self.error(key, "an empty mapping without braces; write {}"));
        };
        let (below, line) =
            (line_end(self.text, key.bytes.end), line_start(self.text, first.bytes.start));
        let plain = line >= below
            && self.text[below..line].lines().all(is_comment)
            && self.text[line..first.bytes.start].bytes().all(|b| b == b' ');
        if !plain {
            let problem =
                "is not laid out as `key:` with its entries on the lines below; write it so";
            return Err(self.error(first, &format!("{} {problem}", key.scalar().unwrap_or("this"))));
        }
        let text = self.lines(names, pairs, first.at.column - 1);
        self.replace(below..below, text);
        Ok(())
    }

    fn insert_in_braces(
        &mut self,
        key: &Node,
        mapping: &Mapping,
        braces: Range<usize>,
        names: &[&str],
        pairs: &Pairs<'_>,
    ) -> Result<(), ManifestError> {
        let Some((first, _)) = mapping.entries.first() else {
            if !self.text[braces.clone()].trim().is_empty() {
                return Err(self.error(key, "there is a comment within empty braces; move it"));
            }
            // One blank at each side says that the braces were there before: see `remove`.
            self.replace(braces, format!(" {} ", flow(names, pairs)));
            return Ok(());
        };
        let start = first.bytes.start;
        let line = line_start(self.text, start).max(braces.start);
        let margin = &self.text[line..start];
        let own_line = line > braces.start && margin.bytes().all(|b| b == b' ' || b == b'\t');
        let text = if own_line {
            let around = &self.text[line_start(self.text, key.bytes.start)..];
            let outer = around.len() - around.trim_start_matches([' ', '\t']).len();
            let step = match margin.as_bytes().first() {
                Some(b'\t') => "\t".to_owned(),
                _ if margin.len() > outer => " ".repeat(margin.len() - outer),
                _ => " ".repeat(STEP),
            };
            let eol = self.eol(braces.start);
            format!("{},{eol}{margin}", flow_lines(names, pairs, margin, &step, eol))
        } else {
            format!("{}, ", flow(names, pairs))
        };
        self.replace(start..start, text);
        Ok(())
    }

    /// Puts annotations where there is a key without a value.
    fn fill(
        &mut self,
        mapping: &Mapping,
        (key, value): &'a Entry,
        names: &[&str],
        pairs: &Pairs<'_>,
    ) -> Result<(), ManifestError> {
        let colon = self.colon(key);
        let line = line_start(self.text, key.bytes.start);
        let below = line_end(self.text, key.bytes.end);
        let written = !value.bytes.is_empty();
        match colon {
            Some(_) if mapping.braces.is_some() && written && value.anchor == 0 => {
                self.replace(value.bytes.clone(), format!("{{{}}}", flow(names, pairs)));
                return Ok(());
            }
            Some(colon)
                if mapping.braces.is_none()
                    && value.anchor == 0
                    && value.bytes.end <= below
                    && self.text[line..key.bytes.start].bytes().all(|b| b" -".contains(&b)) =>
            {
                if written {
                    self.replace(colon + 1..value.bytes.end, "");
                }
            }
            _ => {
                let name = key.scalar().unwrap_or("this");
                return Err(self.error(key, &format!("{name} has no value; write `{name}: {{}}`")));
            }
        }
        let mut text = self.lines(names, pairs, key.at.column - 1 + self.step());
        if !self.text[..below].ends_with('\n') {
            text = format!("{}{}", self.eol(0), text.trim_end());
        }
        self.replace(below..below, text);
        Ok(())
    }

    /// Entries as lines of a block mapping.
    fn lines(&self, names: &[&str], pairs: &Pairs<'_>, mut indent: usize) -> String {
        let eol = self.eol(self.template.node.bytes.start);
        let mut text = String::new();
        for name in names {
            text += &format!("{:indent$}{name}:{eol}", "");
            indent += self.step();
        }
        for (name, value) in pairs {
            text += &format!("{:indent$}{name}: {}{eol}", "", value_text(name, value, false));
        }
        text
    }

    /// How far the template's entries are indented below its key, or its metadata's below theirs.
    fn step(&self) -> usize {
        let below = |key: &Node, mapping: &Mapping| {
            let (first, _) = mapping.entries.first().filter(|_| mapping.braces.is_none())?;
            first.at.column.checked_sub(key.at.column).filter(|step| *step > 0)
        };
        let template = self.template;
        let of_template = template.key.and_then(|key| below(key, template.mapping));
        let of_metadata = || {
            let (key, value) = template.mapping.get("metadata").ok()??;
            below(key, value.mapping()?)
        };
        of_template.or_else(of_metadata).unwrap_or(STEP)
    }

    /// The end of the line that is near a place, or the first one's.
    fn eol(&self, near: usize) -> &'static str {
        let text = &self.text[near..];
        let line = text.find('\n').map(|end| &text[..end]);
        let line = line.or_else(|| self.text.find('\n').map(|end| &self.text[..end]));
        if line.is_some_and(|line| line.ends_with('\r')) { "\r\n" } else { "\n" }
    }

    /// The colon behind a key.
    fn colon(&self, key: &Node) -> Option<usize> {
        let behind = &self.text[key.bytes.end..];
        let blanks = behind.len() - behind.trim_start_matches([' ', '\t']).len();
        behind[blanks..].starts_with(':').then_some(key.bytes.end + blanks)
    }

    /// # Errors
    /// If what is edited is also used elsewhere, by an alias of something around it.
    fn not_shared(&self) -> Result<(), ManifestError> {
        if self.edits.is_empty() {
            return Ok(());
        }
        let template = self.template;
        let metadata = template.mapping.get("metadata")?.map(|(_, value)| value);
        let annotations = match metadata.and_then(Node::mapping) {
            Some(mapping) => mapping.get("annotations")?.map(|(_, value)| value),
            None => None,
        };
        let mut edited = template.around.iter().copied().chain(metadata).chain(annotations);
        match edited.find(|node| self.tree.aliased.contains(&node.anchor)) {
            None => Ok(()),
            Some(node) => Err(self.error(
                node,
                "an alias refers to the anchor here, and a change would reach more than this \
                 object; write the alias out",
            )),
        }
    }

    /// True if a reader of the document finds one of weir's annotations in a merge key.
    pub(super) fn merged(&self, annotations: &'a Mapping) -> Option<&'a Node> {
        let (key, value) = annotations.merge()?;
        let values: Vec<&Node> = match &self.anchors.follow(value)?.kind {
            Kind::Sequence(items) => items.iter().collect(),
            _ => vec![value],
        };
        let has = |name: &&str| values.iter().any(|from| self.anchors.get(from, name).is_some());
        KEYS.iter().any(has).then_some(key)
    }
}

/// A value of an annotation. Numbers and lists need quotes, and in JSON all do.
fn value_text(name: &str, value: &str, flow: bool) -> String {
    if name == INJECT && !flow { value.to_owned() } else { quote(value) }
}

/// A double-quoted string, for YAML and JSON both.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    quoted += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    quoted + "\""
}

/// Entries of a flow mapping on one line.
fn flow(names: &[&str], pairs: &Pairs<'_>) -> String {
    match names.split_first() {
        Some((name, inner)) => format!("{}: {{{}}}", quote(name), flow(inner, pairs)),
        None => {
            let texts: Vec<_> = pairs.iter().map(flow_pair).collect();
            texts.join(", ")
        }
    }
}

/// Entries of a flow mapping, each on its line.
fn flow_lines(names: &[&str], pairs: &Pairs<'_>, margin: &str, step: &str, eol: &str) -> String {
    match names.split_first() {
        Some((name, inner)) => {
            let within = format!("{margin}{step}");
            let text = flow_lines(inner, pairs, &within, step, eol);
            format!("{}: {{{eol}{within}{text}{eol}{margin}}}", quote(name))
        }
        None => {
            let texts: Vec<_> = pairs.iter().map(flow_pair).collect();
            texts.join(&format!(",{eol}{margin}"))
        }
    }
}

fn flow_pair((name, value): &(&'static str, &str)) -> String {
    format!("{}: {}", quote(name), value_text(name, value, true))
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t']);
    line.trim().is_empty() || line.starts_with('#')
}

//! Changes of a manifest's text: which bytes are replaced by what. New entries go in front of their
//! siblings, directly below the key, so that comments stay with what they belong to.

use std::ops::Range;

use super::{
    INJECT,
    error::ManifestError,
    find::{Template, from_merge, written_out},
    remove::{self, line_end, line_start},
    tree::{Anchors, Kind, Mapping, Node, Tree},
    write::{self, Item, Layout, Margin, New},
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
    /// The keys of all annotations of weir.
    pub(super) keys: &'a [String],
    pub(super) edits: Vec<Edit>,
}

type Pairs<'p> = [(&'p str, &'p str)];

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
                let metadata = ("metadata".into(), Item::Map(vec![annotations(wanted)]));
                self.insert(key, self.template.mapping, &[metadata])?;
                Change::New
            }
            Found::Null(entry) => {
                let content = Item::Map(vec![annotations(wanted)]);
                self.fill(self.template.mapping, entry, &content)?;
                Change::New
            }
            Found::Mapping(entry, metadata) => match self.find(metadata, "annotations")? {
                Found::Missing => {
                    self.insert(&entry.0, metadata, &[annotations(wanted)])?;
                    Change::New
                }
                Found::Null(entry) => {
                    self.fill(metadata, entry, &annotations(wanted).1)?;
                    Change::New
                }
                Found::Mapping(entry, annotations) => self.update(&entry.0, annotations, wanted)?,
            },
        };
        self.not_shared(self.annotation_nodes()?)?;
        Ok(change)
    }

    /// Takes weir's annotations away; false if there are none.
    pub(super) fn uninject(&mut self) -> Result<bool, ManifestError> {
        let removed = remove::annotations(self)?;
        if removed {
            self.not_shared(self.annotation_nodes()?)?;
        }
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
            _ => Err(self.error(&entry.1, &format!("expected a mapping at `{key}`"))),
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
                Some(entry) => self.replace_value(entry, annotations, &value_of(name, value))?,
            }
        }
        let first = new.iter().any(|(name, _)| *name == INJECT);
        if !new.is_empty() {
            self.insert(key, annotations, &entries(&new))?;
        }
        Ok(match (first, self.edits.is_empty()) {
            (true, _) => Change::New,
            (false, false) => Change::Updated,
            (false, true) => Change::Nothing,
        })
    }

    pub(super) fn replace_value(
        &mut self,
        (key, there): &'a Entry,
        mapping: &Mapping,
        value: &Item,
    ) -> Result<(), ManifestError> {
        let name = key.scalar().unwrap_or_default();
        let text = if mapping.braces.is_some() { value.flow() } else { value.leaf() };
        let problem = match &there.kind {
            Kind::Sequence(_) | Kind::Mapping(_) => "is not a string; write a string",
            Kind::Scalar { block: true, .. } => "is a block scalar; write it on one line",
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

    /// Puts new entries in front of a mapping's.
    pub(super) fn insert(
        &mut self,
        key: &'a Node,
        mapping: &'a Mapping,
        new: &[New],
    ) -> Result<(), ManifestError> {
        if let Some(braces) = &mapping.braces {
            return self.insert_in_braces(key, mapping, braces.clone(), new);
        }
        let Some((first, _)) = mapping.entries.first() else {
            return Err(self.error(key, "an empty mapping without braces; write {}"));
        };
        let below = self.above(key, first, first.bytes.start, "its entries")?;
        let text = write::block(new, first.at.column - 1, self.layout());
        self.replace(below..below, text);
        Ok(())
    }

    /// The place directly below a key, in front of what is on the lines below it.
    ///
    /// # Errors
    /// If something other than comments is between them, or what begins at `start` has something
    /// in front of it.
    pub(super) fn above(
        &self,
        key: &Node,
        first: &Node,
        start: usize,
        what: &str,
    ) -> Result<usize, ManifestError> {
        let (below, line) = (line_end(self.text, key.bytes.end), line_start(self.text, start));
        let plain = line >= below
            && self.text[below..line].lines().all(is_comment)
            && self.text[line..start].bytes().all(|b| b == b' ');
        if plain {
            return Ok(below);
        }
        let name = key.scalar().unwrap_or("this");
        let problem = format!("expected `{name}:` with {what} on the lines below");
        Err(self.error(first, &problem))
    }

    fn insert_in_braces(
        &mut self,
        key: &Node,
        mapping: &Mapping,
        braces: Range<usize>,
        new: &[New],
    ) -> Result<(), ManifestError> {
        let first = mapping.entries.first().map(|(first, _)| first.bytes.start);
        let lines = |margin: Margin<'_>| write::flow_lines(new, margin);
        self.insert_in_flow(key, braces, first, write::flow(new), lines)
    }

    /// Puts a text between braces or brackets, in front of what is there.
    pub(super) fn insert_in_flow(
        &mut self,
        key: &Node,
        braces: Range<usize>,
        first: Option<usize>,
        on_one_line: String,
        on_lines: impl FnOnce(Margin<'_>) -> String,
    ) -> Result<(), ManifestError> {
        let Some(start) = first else {
            let inside = &self.text[braces.clone()];
            if !inside.trim().is_empty() {
                let problem = "comment within empty braces or brackets; move it";
                return Err(self.error(key, problem));
            }
            // A blank at each side says that the braces were there before: see `remove`.
            let text = format!("{inside} {on_one_line} ");
            self.replace(braces, text);
            return Ok(());
        };
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
            format!("{},{eol}{margin}", on_lines(Margin { margin, step: &step, eol }))
        } else {
            format!("{on_one_line}, ")
        };
        self.replace(start..start, text);
        Ok(())
    }

    /// Gives a key without a value one.
    pub(super) fn fill(
        &mut self,
        mapping: &Mapping,
        (key, value): &'a Entry,
        content: &Item,
    ) -> Result<(), ManifestError> {
        let colon = self.colon(key);
        let line = line_start(self.text, key.bytes.start);
        let below = line_end(self.text, key.bytes.end);
        let written = !value.bytes.is_empty();
        match colon {
            Some(_) if mapping.braces.is_some() && written && value.anchor == 0 => {
                self.replace(value.bytes.clone(), content.flow());
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
                let empty = if matches!(content, Item::List(_)) { "[]" } else { "{}" };
                return Err(
                    self.error(key, &format!("{name} has no value; write `{name}: {empty}`"))
                );
            }
        }
        let mut text = content.below(key.at.column - 1, self.layout());
        if !self.text[..below].ends_with('\n') {
            text = format!("{}{}", self.eol(0), text.trim_end());
        }
        self.replace(below..below, text);
        Ok(())
    }

    /// How the template is laid out.
    pub(super) fn layout(&self) -> Layout {
        let eol = self.eol(self.template.node.bytes.start);
        Layout { step: self.step(), dash: self.dash(), eol }
    }

    /// How far the hyphens of the template's containers are further in than their key.
    fn dash(&self) -> usize {
        let of = || {
            let (_, spec) = self.template.mapping.get("spec").ok()??;
            let (key, containers) = spec.mapping()?.get("containers").ok()??;
            let first = containers.items()?.first()?;
            let dash = hyphen(self.text, first.bytes.start)?;
            let column = dash - line_start(self.text, dash);
            (key.at.line < first.at.line).then(|| column.checked_sub(key.at.column - 1))?
        };
        of().unwrap_or(0)
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
    /// If what is edited is also used elsewhere, by an alias of something around it or in `more`.
    pub(super) fn not_shared(
        &self,
        more: impl IntoIterator<Item = &'a Node>,
    ) -> Result<(), ManifestError> {
        if self.edits.is_empty() {
            return Ok(());
        }
        let mut edited = self.template.around.iter().copied().chain(more);
        match edited.find(|node| self.tree.aliased.contains(&node.anchor)) {
            None => Ok(()),
            Some(node) => Err(self.error(
                node,
                "an alias refers to this anchor, so that a change would affect other objects; \
                 replace the alias by its content",
            )),
        }
    }

    /// What annotations are in.
    fn annotation_nodes(&self) -> Result<Vec<&'a Node>, ManifestError> {
        let metadata = self.template.mapping.get("metadata")?.map(|(_, value)| value);
        let annotations = match metadata.and_then(Node::mapping) {
            Some(mapping) => mapping.get("annotations")?.map(|(_, value)| value),
            None => None,
        };
        Ok(metadata.into_iter().chain(annotations).collect())
    }

    /// True if a reader of the document may find an annotation of weir, whichever of two keys of one
    /// name counts for it.
    pub(super) fn annotated(&self) -> bool {
        let under = |node: &'a Node, key: &str| -> Vec<&'a Node> {
            let entries = node.mapping().map(|mapping| &mapping.entries[..]).unwrap_or_default();
            let named = entries.iter().filter(|(name, _)| name.scalar() == Some(key));
            let found = named.filter_map(|(_, value)| self.anchors.follow(value));
            found.chain(self.anchors.get(node, key)).collect()
        };
        let metadata = under(self.template.node, "metadata");
        let has =
            |node: &&'a Node| self.keys.iter().any(|key| self.anchors.get(node, key).is_some());
        metadata.into_iter().flat_map(|node| under(node, "annotations")).any(|node| has(&node))
    }

    /// True if a reader of the document finds one of weir's annotations in a merge key.
    pub(super) fn merged(&self, annotations: &'a Mapping) -> Option<&'a Node> {
        let (key, value) = annotations.merge()?;
        let values: Vec<&Node> = match &self.anchors.follow(value)?.kind {
            Kind::Sequence(items) => items.iter().collect(),
            _ => vec![value],
        };
        let has = |name: &String| values.iter().any(|from| self.anchors.get(from, name).is_some());
        self.keys.iter().any(has).then_some(key)
    }
}

/// All annotations, under their key.
fn annotations(wanted: &Pairs<'_>) -> New {
    ("annotations".into(), Item::Map(entries(wanted)))
}

fn entries(wanted: &Pairs<'_>) -> Vec<New> {
    wanted.iter().map(|&(name, value)| (name.to_owned().into(), value_of(name, value))).collect()
}

/// The value of an annotation. Numbers and lists need quotes.
fn value_of(name: &str, value: &str) -> Item {
    if name == INJECT { Item::plain(value) } else { Item::Quoted(value.to_owned()) }
}

/// Where the hyphen of a list's item is, in block style, if it is in front of the item on its line.
pub(super) fn hyphen(text: &str, item: usize) -> Option<usize> {
    let line = line_start(text, item);
    let before = text[line..item].trim_end_matches(' ');
    let blanks = before.strip_suffix('-')?;
    blanks.bytes().all(|b| b == b' ').then(|| line + blanks.len())
}

pub(super) fn is_comment(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t']);
    line.trim().is_empty() || line.starts_with('#')
}

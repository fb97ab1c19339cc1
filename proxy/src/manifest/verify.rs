//! The proof of an edit: the text before and after are parsed and compared as values, and nothing
//! but the annotations asked for may differ, order included.

use super::{
    KEYS,
    error::ManifestError,
    tree::{Kind, Node, Tree},
};

/// What an edit was meant to do to one pod template.
pub(super) struct Intent {
    /// The number of its document.
    pub(super) document: usize,
    /// The way to the template.
    pub(super) path: Vec<usize>,
    /// Annotations with their values; none if weir's are to be gone.
    pub(super) annotations: Option<Vec<(&'static str, String)>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Scalar { text: String, string: bool },
    Sequence(Vec<Value>),
    Mapping(Vec<(Value, Value)>),
    Alias(usize),
}

/// # Errors
/// [`ManifestError::Internal`] if `after` is anything but `before` with the intents carried out.
pub(super) fn verify(before: &Tree, after: &str, intents: &[Intent]) -> Result<(), ManifestError> {
    let internal = |what: String| ManifestError::Internal(what);
    let after = Tree::parse(after).map_err(|error| internal(error.to_string()))?;
    let mut before: Vec<Value> = before.documents.iter().map(Value::of).collect();
    let mut after: Vec<Value> = after.documents.iter().map(Value::of).collect();
    for intent in intents {
        let expected = before.get_mut(intent.document).and_then(|value| value.at(&intent.path));
        let edited = after.get_mut(intent.document).and_then(|value| value.at(&intent.path));
        let (Some(expected), Some(edited)) = (expected, edited) else {
            return Err(internal(format!("document {} lost its pod", intent.document + 1)));
        };
        match &intent.annotations {
            Some(annotations) => expected.inject(annotations),
            None => {
                expected.uninject();
                edited.without_empty();
            }
        }
    }
    if before.len() != after.len() {
        return Err(internal("another number of documents".to_owned()));
    }
    match before.iter().zip(&after).position(|(before, after)| before != after) {
        None => Ok(()),
        Some(place) => Err(internal(format!("document {} differs", place + 1))),
    }
}

// === impl Value ===

impl Value {
    fn of(node: &Node) -> Self {
        match &node.kind {
            Kind::Scalar { text, .. } => {
                Self::Scalar { text: text.clone(), string: node.is_string() }
            }
            Kind::Sequence(items) => Self::Sequence(items.iter().map(Self::of).collect()),
            Kind::Mapping(mapping) => {
                let entries = mapping.entries.iter();
                Self::Mapping(entries.map(|(k, v)| (Self::of(k), Self::of(v))).collect())
            }
            Kind::Alias(anchor) => Self::Alias(*anchor),
        }
    }

    fn string(text: &str) -> Self {
        Self::Scalar { text: text.to_owned(), string: true }
    }

    fn at(&mut self, path: &[usize]) -> Option<&mut Self> {
        let Some((first, further)) = path.split_first() else { return Some(self) };
        match self {
            Self::Sequence(items) => items.get_mut(*first)?.at(further),
            Self::Mapping(entries) => entries.get_mut(*first)?.1.at(further),
            Self::Scalar { .. } | Self::Alias(_) => None,
        }
    }

    fn entries(&mut self) -> &mut Vec<(Self, Self)> {
        if !matches!(self, Self::Mapping(_)) {
            *self = Self::Mapping(Vec::new());
        }
        match self {
            Self::Mapping(entries) => entries,
            _ => unreachable!("it was made a mapping"),
        }
    }

    /// The value under a key; a new key is the first.
    fn entry(&mut self, key: &str) -> &mut Self {
        let entries = self.entries();
        let place = entries.iter().position(|(name, _)| name.is(key)).unwrap_or_else(|| {
            entries.insert(0, (Self::string(key), Self::Mapping(Vec::new())));
            0
        });
        &mut entries[place].1
    }

    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Scalar { text, .. } if text == wanted)
    }

    fn inject(&mut self, wanted: &[(&'static str, String)]) {
        let annotations = self.entry("metadata").entry("annotations").entries();
        let mut new = Vec::new();
        for (name, value) in wanted {
            match annotations.iter_mut().find(|(key, _)| key.is(name)) {
                Some((_, there)) => *there = Self::string(value),
                None => new.push((Self::string(name), Self::string(value))),
            }
        }
        annotations.splice(0..0, new);
    }

    fn uninject(&mut self) {
        let ours = |key: &Self| KEYS.iter().any(|name| key.is(name));
        self.entry("metadata").entry("annotations").entries().retain(|(key, _)| !ours(key));
        self.without_empty();
    }

    /// Empty annotations, and then empty metadata, are as good as none.
    fn without_empty(&mut self) {
        let empty = |value: &mut Self| value.entries().is_empty();
        let metadata = self.entry("metadata");
        if empty(metadata.entry("annotations")) {
            metadata.entries().retain(|(key, _)| !key.is("annotations"));
        }
        if empty(self.entry("metadata")) {
            self.entries().retain(|(key, _)| !key.is("metadata"));
        }
    }
}

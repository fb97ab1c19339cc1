//! The proof of an edit: the text before and after are parsed and compared as values, and nothing
//! but what was asked for may differ, order included.

use super::{
    BY_SIDECAR, INJECT, SIDECAR,
    error::ManifestError,
    read::read,
    sidecar::{LISTS, MODE, Sidecar, VOLUMES, volumes},
    tree::{Kind, Node, Tree},
    write::Item,
};

/// What an edit was meant to do to one pod template.
pub(super) struct Intent {
    /// The number of its document.
    pub(super) document: usize,
    /// The way to the template.
    pub(super) path: Vec<usize>,
    pub(super) goal: Goal,
}

/// What of weir there is to be.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    /// Annotations with their values.
    Annotations(Vec<(String, String)>),
    /// The sidecar, its volumes and its annotation.
    Sidecar(Sidecar),
    /// None of either.
    Nothing,
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
pub(super) fn verify(
    before: &Tree,
    after: &str,
    intents: &[Intent],
    keys: &[String],
) -> Result<(), ManifestError> {
    let internal = |what: String| ManifestError::Internal(what);
    let after = read(after).map_err(|error| internal(error.to_string()))?;
    let mut before: Vec<Value> = before.documents.iter().map(Value::of).collect();
    let mut after: Vec<Value> = after.documents.iter().map(Value::of).collect();
    for intent in intents {
        let expected = before.get_mut(intent.document).and_then(|value| value.at(&intent.path));
        let edited = after.get_mut(intent.document).and_then(|value| value.at(&intent.path));
        let (Some(expected), Some(edited)) = (expected, edited) else {
            return Err(internal(format!("document {} lost its pod", intent.document + 1)));
        };
        match &intent.goal {
            Goal::Annotations(annotations) => expected.inject(annotations),
            Goal::Sidecar(sidecar) => {
                expected.inject_sidecar(sidecar);
                expected.inject(&[(INJECT.to_owned(), BY_SIDECAR.to_owned())]);
            }
            Goal::Nothing => {
                expected.uninject(keys);
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

    fn inject(&mut self, wanted: &[(String, String)]) {
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

    fn inject_sidecar(&mut self, sidecar: &Sidecar) {
        let spec = self.entry("spec");
        for key in LISTS.into_iter().rev() {
            spec.list(key);
        }
        let containers = spec.list(LISTS[0]);
        match containers.iter_mut().find(|container| container.named(SIDECAR)) {
            Some(container) => container.update(sidecar),
            None => containers.insert(0, Self::of_item(&sidecar.container())),
        }
        let disks = spec.list(LISTS[1]);
        let missing = |(name, item): (&str, Item)| {
            (!disks.iter().any(|disk| disk.named(name))).then(|| Self::of_item(&item))
        };
        let missing: Vec<_> = volumes().into_iter().filter_map(missing).collect();
        disks.splice(0..0, missing);
    }

    /// What a sidecar that is there gets.
    fn update(&mut self, sidecar: &Sidecar) {
        if let Some(image) = &sidecar.image {
            *self.entry("image") = Self::string(image);
        }
        let args = self.list("args");
        let mode = args.iter().position(|argument| argument.is(MODE)).map_or(0, |place| place + 1);
        let mut new = Vec::new();
        for (flag, list) in sidecar.flags() {
            let wanted = Self::string(&format!("{flag}{list}"));
            let has = |argument: &&mut Self| matches!(argument, Self::Scalar { text, .. } if text.starts_with(&flag));
            match args.iter_mut().find(has) {
                Some(there) if there.is(&format!("{flag}{list}")) => {}
                Some(there) => *there = wanted,
                None => new.push(wanted),
            }
        }
        args.splice(mode..mode, new);
    }

    fn of_item(item: &Item) -> Self {
        match item {
            Item::Quoted(text) | Item::Plain(text) => Self::string(text),
            Item::Word(word) => Self::Scalar { text: (*word).to_owned(), string: false },
            Item::List(items) => Self::Sequence(items.iter().map(Self::of_item).collect()),
            Item::Map(entries) => Self::Mapping(
                entries
                    .iter()
                    .map(|(key, item)| (Self::string(key), Self::of_item(item)))
                    .collect(),
            ),
        }
    }

    /// The list under a key; a new key is the first.
    fn list(&mut self, key: &str) -> &mut Vec<Self> {
        let value = self.entry(key);
        if !matches!(value, Self::Sequence(_)) {
            *value = Self::Sequence(Vec::new());
        }
        match value {
            Self::Sequence(items) => items,
            _ => unreachable!("it was made a list"),
        }
    }

    fn under(&self, wanted: &str) -> Option<&Self> {
        let Self::Mapping(entries) = self else { return None };
        entries.iter().find(|(key, _)| key.is(wanted)).map(|(_, value)| value)
    }

    fn named(&self, name: &str) -> bool {
        self.under("name").is_some_and(|value| value.is(name))
    }

    fn is_sidecar(&self) -> bool {
        let mode = |args: &Self| matches!(args, Self::Sequence(items) if items.iter().any(|it| it.is(MODE)));
        self.named(SIDECAR) && self.under("args").is_some_and(mode)
    }

    fn uninject_sidecar(&mut self) {
        let lists = self.under("spec").and_then(|spec| spec.under(LISTS[0]));
        let Some(Self::Sequence(containers)) = lists else { return };
        if !containers.iter().any(Self::is_sidecar) {
            return;
        }
        let spec = self.entry("spec");
        spec.list(LISTS[0]).retain(|container| !container.is_sidecar());
        if matches!(spec.under(LISTS[1]), Some(Self::Sequence(_))) {
            spec.list(LISTS[1]).retain(|disk| !VOLUMES.iter().any(|name| disk.named(name)));
        }
    }

    fn uninject(&mut self, keys: &[String]) {
        self.uninject_sidecar();
        let ours = |key: &Self| keys.iter().any(|name| key.is(name));
        self.entry("metadata").entry("annotations").entries().retain(|(key, _)| !ours(key));
        self.without_empty();
    }

    /// Empty annotations, and then empty metadata, are as good as none, and so are empty lists of
    /// what a sidecar is in.
    fn without_empty(&mut self) {
        if let Some(Self::Mapping(_)) = self.under("spec") {
            let none = |value: &Self| matches!(value, Self::Sequence(items) if items.is_empty());
            self.entry("spec")
                .entries()
                .retain(|(key, value)| !(LISTS.iter().any(|list| key.is(list)) && none(value)));
        }
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

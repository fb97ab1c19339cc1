//! Which objects a manifest has, and where each one's pods are described.

use super::{
    error::ManifestError,
    tree::{Anchors, Kind, Mapping, Node},
};

/// An object that runs pods, or does not.
#[derive(Debug)]
pub(super) struct Object<'a> {
    /// In lower case, as kubectl writes it.
    pub(super) kind: String,
    pub(super) name: String,
    /// What describes the pods; none for kinds that run none.
    pub(super) template: Option<Template<'a>>,
}

/// The mapping that has a pod's `metadata` and `spec`.
#[derive(Debug)]
pub(super) struct Template<'a> {
    /// The key that it stands under; none for a pod, which is the whole document.
    pub(super) key: Option<&'a Node>,
    pub(super) node: &'a Node,
    pub(super) mapping: &'a Mapping,
    /// Everything that it is in, from the document on, and itself.
    pub(super) around: Vec<&'a Node>,
    /// The way to it from the document: places in mappings and sequences.
    pub(super) path: Vec<usize>,
}

struct Finder<'a> {
    anchors: &'a Anchors<'a>,
    objects: Vec<(usize, Object<'a>)>,
    document: usize,
}

/// Way of the objects of one document.
#[derive(Clone, Default)]
struct Way<'a> {
    around: Vec<&'a Node>,
    path: Vec<usize>,
}

/// The objects of all documents, each with the number of its document.
///
/// # Errors
/// If something is no Kubernetes object, or its pods cannot be found.
pub(super) fn objects<'a>(
    documents: &'a [Node],
    anchors: &'a Anchors<'a>,
) -> Result<Vec<(usize, Object<'a>)>, ManifestError> {
    let mut finder = Finder { anchors, objects: Vec::new(), document: 0 };
    for (number, document) in documents.iter().enumerate() {
        finder.document = number;
        if !document.is_null() {
            finder.object(document, Way::default(), None)?;
        }
    }
    Ok(finder.objects)
}

/// From the object to its pod template, for the kinds that Kubernetes itself has.
fn way_to_pods(kind: &str, api_version: &str) -> Option<&'static [&'static str]> {
    const TEMPLATE: &[&str] = &["spec", "template"];
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (kind, group) {
        ("Pod", "") => Some(&[]),
        ("ReplicationController", "")
        | ("Deployment" | "DaemonSet" | "ReplicaSet", "apps" | "extensions")
        | ("StatefulSet", "apps")
        | ("Job", "batch") => Some(TEMPLATE),
        ("CronJob", "batch") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

// === impl Finder ===

impl<'a> Finder<'a> {
    fn object(
        &mut self,
        node: &'a Node,
        mut way: Way<'a>,
        item_of: Option<&(String, String)>,
    ) -> Result<(), ManifestError> {
        way.around.push(node);
        if node.mapping().is_none() {
            let problem = match node.kind {
                Kind::Alias(_) => "an object is an alias; replace it by its content",
                _ => "not a Kubernetes object: expected a mapping with apiVersion and kind",
            };
            return Err(ManifestError::input(node.at, problem));
        }
        let text = |key| self.anchors.get(node, key).and_then(Node::scalar).unwrap_or_default();
        let (mut kind, mut api_version) = (text("kind").to_owned(), text("apiVersion").to_owned());
        if let (true, Some((of_list, api_of_list))) = (kind.is_empty(), item_of) {
            (kind, api_version) = (of_list.clone(), api_of_list.clone());
        }
        if kind.is_empty() {
            let problem = "not a Kubernetes object: kind is missing";
            return Err(ManifestError::input(node.at, problem));
        }
        if let Some(of) = kind.strip_suffix("List")
            && self.anchors.get(node, "items").is_some()
        {
            return self.items(node, way, &(of.to_owned(), api_version));
        }
        let name = self.name(node)?;
        let lower = kind.to_lowercase();
        let template = match way_to_pods(&kind, &api_version) {
            Some(keys) => Some(self.template(node, way, keys, &format!("{lower} {name:?}"))?),
            None => None,
        };
        self.objects.push((self.document, Object { kind: lower, name, template }));
        Ok(())
    }

    fn items(
        &mut self,
        list: &'a Node,
        way: Way<'a>,
        item_of: &(String, String),
    ) -> Result<(), ManifestError> {
        let (_, items, way) = self.step(list, way, "items", "the list")?;
        match &items.kind {
            Kind::Sequence(all) => {
                for (number, item) in all.iter().enumerate() {
                    let mut way = way.clone();
                    way.path.push(number);
                    self.object(item, way, Some(item_of))?;
                }
                Ok(())
            }
            _ if items.is_null() => Ok(()),
            _ => Err(ManifestError::input(items.at, "expected a sequence at `items`")),
        }
    }

    fn template(
        &self,
        object: &'a Node,
        mut way: Way<'a>,
        keys: &[&str],
        name: &str,
    ) -> Result<Template<'a>, ManifestError> {
        let (mut key, mut node) = (None, object);
        for wanted in keys {
            let (found, value, further) = self.step(node, way, wanted, name)?;
            (key, node, way) = (Some(found), value, further);
        }
        let mapping = node.mapping().ok_or_else(|| {
            ManifestError::input(node.at, format!("{name}: expected a mapping at the pod template"))
        })?;
        if self.anchors.get(node, "spec").is_none_or(|spec| spec.mapping().is_none()) {
            let problem = format!("{name}: the pod has no spec");
            return Err(ManifestError::input(node.at, problem));
        }
        Ok(Template { key, node, mapping, around: way.around, path: way.path })
    }

    /// One key further in, which has to be written out.
    fn step(
        &self,
        node: &'a Node,
        mut way: Way<'a>,
        key: &str,
        name: &str,
    ) -> Result<(&'a Node, &'a Node, Way<'a>), ManifestError> {
        let mapping = node.mapping().ok_or_else(|| {
            ManifestError::input(node.at, format!("{name}: expected a mapping with {key}"))
        })?;
        let Some((found, value)) = mapping.get(key)? else {
            return Err(missing(mapping, node, key, name));
        };
        written_out(value, key, name)?;
        let number = mapping.entries.iter().position(|(name, _)| std::ptr::eq(name, found));
        way.path.extend(number);
        way.around.push(value);
        Ok((found, value, way))
    }

    fn name(&self, object: &'a Node) -> Result<String, ManifestError> {
        let metadata = self.anchors.get(object, "metadata");
        let of = |key| metadata.and_then(|metadata| self.anchors.get(metadata, key));
        let Some(name) = of("name").or_else(|| of("generateName")) else {
            return Ok(String::new());
        };
        name.scalar().map(str::to_owned).ok_or_else(|| {
            let problem = "the name is not a string; if this is a template, render it first, for \
                           example with `helm template`";
            ManifestError::input(name.at, problem)
        })
    }
}

/// # Errors
/// If the value of a key that is to be changed is an alias: the change would be another's too.
pub(super) fn written_out(value: &Node, key: &str, name: &str) -> Result<(), ManifestError> {
    match value.kind {
        Kind::Alias(_) => Err(ManifestError::input(
            value.at,
            format!(
                "{name}: {key} is an alias, so that a change would affect other objects; replace \
                 it by its content"
            ),
        )),
        _ => Ok(()),
    }
}

/// The error for a key that is not there, or not here.
fn missing(mapping: &Mapping, node: &Node, key: &str, name: &str) -> ManifestError {
    match mapping.merge() {
        Some((merge, _)) => from_merge(merge, key, name),
        None => ManifestError::input(node.at, format!("{name}: {key} is missing; add it")),
    }
}

/// The error for a key that may come by a merge key.
pub(super) fn from_merge(merge: &Node, key: &str, name: &str) -> ManifestError {
    let problem = format!("{name}: {key} may come from this merge key; write {key} beside it");
    ManifestError::input(merge.at, problem)
}

//! Kubernetes manifests: weir's annotations on pod templates, or its sidecar in them, put into a text
//! and taken out again, with every other byte as it was. Pure: text in, text and a report out.

mod edit;
mod error;
mod find;
mod read;
mod relaxed;
mod remove;
mod sidecar;
mod tree;
mod verify;
mod write;

pub use error::{ManifestError, Position};
pub use sidecar::{MODE as SIDECAR_MODE, Sidecar};

use std::fmt;

use edit::{Change, Editor};
use find::Object;
use read::read;
use tree::Node;
use verify::{Goal, Intent, verify};

/// The annotation that asks for weir.
pub const INJECT: &str = "weir.dev/inject";
/// Its value.
pub const ENABLED: &str = "enabled";
/// Its value that forbids injection.
pub const DISABLED: &str = "disabled";
/// Its value on a pod that captures itself, by a sidecar: weir on the node leaves it alone.
pub const BY_SIDECAR: &str = "sidecar";
/// The name of the sidecar's container.
pub const SIDECAR: &str = "weir";
/// The image of a sidecar where none is named.
pub const DEFAULT_IMAGE: &str = concat!("localhost/weir:", env!("CARGO_PKG_VERSION"));
/// What the annotations of weir's settings begin with.
pub const PREFIX: &str = "config.weir.dev/";

/// What is true and false to YAML 1.1, as kubectl reads it.
const YES: [&str; 4] = ["true", "yes", "on", "y"];
const NO: [&str; 4] = ["false", "no", "off", "n"];

/// The settings that weir knows, and those to write. The caller has the list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The names of all that have an annotation, which is [`PREFIX`] and the name.
    pub known: Vec<&'static str>,
    /// Names with values, to write in this order. What is not given is left as it is. For a sidecar,
    /// they are its arguments `--NAME=VALUE`.
    pub given: Vec<(&'static str, String)>,
}

/// A manifest after the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The text.
    pub text: String,
    /// One line per object, in the order of the text.
    pub report: Vec<Line>,
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its kind in lower case.
    pub kind: String,
    /// Its name, possibly empty.
    pub name: String,
    /// What happened.
    pub result: Outcome,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got the annotations, or the sidecar.
    Injected,
    /// It had some, and got others or other values.
    Updated,
    /// It had all that was asked for.
    AlreadyInjected,
    /// What was weir's was taken away.
    Uninjected,
    /// There was nothing to take away.
    NotInjected,
    /// It runs no pods that are known here.
    NoPods,
    /// Its pods are in the node's network, where weir captures nothing.
    HostNetwork,
    /// Its annotation says no.
    Disabled,
}

/// Adds weir's annotations to the pods of every object in a manifest.
///
/// # Errors
/// If the text is not UTF-8, no YAML, no manifest, or written so that the annotations cannot be put
/// in without doubt.
pub fn inject(text: &[u8], settings: &Settings) -> Result<Edited, ManifestError> {
    let wanted = settings.annotations();
    edit(text, &settings.keys(), |editor| {
        if let Some(outcome) = unfit(editor) {
            return Ok((outcome, None));
        }
        if let Some(container) = editor.sidecar() {
            let problem = "the pod has weir's sidecar, and `weir node` would capture it a second \
                           time; remove the sidecar first: weir uninject";
            return Err(editor.error(container, problem));
        }
        if let Some(node) = annotation(editor, INJECT)
            && node.scalar() == Some(BY_SIDECAR)
        {
            let problem = format!(
                "{INJECT}: {BY_SIDECAR} says that the pod captures itself; remove the annotation \
                 first: weir uninject"
            );
            return Err(editor.error(node, &problem));
        }
        let pairs: Vec<_> =
            wanted.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let change = editor.inject(&pairs)?;
        Ok((change.into(), Some(Goal::Annotations(wanted.clone()))))
    })
}

/// Adds weir's sidecar, with the volumes that it mounts and the annotation that has weir on the node
/// leave the pod alone, to the pods of every object in a manifest.
///
/// # Errors
/// As [`inject`], where a pod has the annotation that asks for weir on the node, and where it has a
/// user namespace of its own.
pub fn inject_sidecar(text: &[u8], sidecar: &Sidecar) -> Result<Edited, ManifestError> {
    edit(text, &sidecar.settings.keys(), |editor| {
        if let Some(outcome) = unfit(editor) {
            return Ok((outcome, None));
        }
        let asked = annotation(editor, INJECT);
        if let Some(node) = asked.filter(|node| node.scalar() == Some(ENABLED)) {
            let problem = format!(
                "{INJECT} makes `weir node` capture the pod, and a sidecar would capture it a \
                 second time; remove the annotation first: weir uninject"
            );
            return Err(editor.error(node, &problem));
        }
        if let Some(node) = of_spec(editor, "hostUsers").filter(|node| is_boolean(node, &NO)) {
            let problem = "hostUsers: false gives the pod a user namespace of its own, in which \
                           the sidecar's capabilities do not suffice to load and attach BPF \
                           programs; remove hostUsers, or let `weir node` capture the pod: weir \
                           inject without --sidecar";
            return Err(editor.error(node, problem));
        }
        let change = editor.inject_sidecar(sidecar)?;
        Ok((change.into(), Some(Goal::Sidecar(sidecar.clone()))))
    })
}

/// Why nothing is added to a pod.
fn unfit(editor: &Editor<'_>) -> Option<Outcome> {
    if of_spec(editor, "hostNetwork").is_some_and(|node| is_boolean(node, &YES)) {
        return Some(Outcome::HostNetwork);
    }
    let inject = annotation(editor, INJECT).and_then(Node::scalar);
    (inject == Some(DISABLED)).then_some(Outcome::Disabled)
}

/// The value of a key of the pod's spec.
fn of_spec<'a>(editor: &Editor<'a>, key: &str) -> Option<&'a Node> {
    editor.anchors.get(editor.anchors.get(editor.template.node, "spec")?, key)
}

fn is_boolean(node: &Node, words: &[&str]) -> bool {
    node.scalar().is_some_and(|it| words.iter().any(|word| it.eq_ignore_ascii_case(word)))
}

/// The value of an annotation of the editor's template.
fn annotation<'a>(editor: &Editor<'a>, name: &str) -> Option<&'a Node> {
    let metadata = editor.anchors.get(editor.template.node, "metadata")?;
    editor.anchors.get(editor.anchors.get(metadata, "annotations")?, name)
}

/// Takes all of weir's annotations and its sidecar away, and what is empty without them. What [`inject`] made of a
/// text that had none becomes that text again, byte for byte; only `annotations:`, `metadata:`,
/// `initContainers:` and `volumes:` that had been there without a value are not.
///
/// # Errors
/// As [`inject`].
pub fn uninject(text: &[u8], settings: &Settings) -> Result<Edited, ManifestError> {
    edit(text, &settings.keys(), |editor| {
        let (annotations, sidecar) = (editor.uninject()?, editor.uninject_sidecar()?);
        Ok(if annotations || sidecar {
            (Outcome::Uninjected, Some(Goal::Nothing))
        } else {
            (Outcome::NotInjected, None)
        })
    })
}

fn edit(
    bytes: &[u8],
    keys: &[String],
    change: impl Fn(&mut Editor<'_>) -> Result<(Outcome, Option<Goal>), ManifestError>,
) -> Result<Edited, ManifestError> {
    let text = readable(bytes)?;
    let (mark, text) = match text.strip_prefix('\u{feff}') {
        Some(rest) => ("\u{feff}", rest),
        None => ("", text),
    };
    let tree = read(text)?;
    let anchors = tree.anchors();
    let (mut edits, mut intents, mut report) = (Vec::new(), Vec::new(), Vec::new());
    for (document, Object { kind, name, template }) in find::objects(&tree.documents, &anchors)? {
        let mut result = Outcome::NoPods;
        if let Some(template) = &template {
            let object = format!("{kind} {name:?}");
            let mut editor = Editor {
                text,
                tree: &tree,
                anchors: &anchors,
                template,
                name: &object,
                keys,
                edits: Vec::new(),
            };
            let (outcome, goal) = change(&mut editor)?;
            result = outcome;
            edits.append(&mut editor.edits);
            if let Some(goal) = goal {
                intents.push(Intent { document, path: template.path.clone(), goal });
            }
        }
        report.push(Line { kind, name, result });
    }
    let edited = apply(text, edits);
    verify(&tree, &edited, &intents, keys)?;
    Ok(Edited { text: format!("{mark}{edited}"), report })
}

/// The text with the edits, which do not overlap.
fn apply(text: &str, mut edits: Vec<edit::Edit>) -> String {
    edits.sort_by_key(|edit| (edit.bytes.start, edit.bytes.end));
    let mut edited = String::with_capacity(text.len() + 256 * edits.len());
    let mut done = 0;
    for edit in edits {
        edited += &text[done..edit.bytes.start];
        edited += &edit.text;
        done = edit.bytes.end;
    }
    edited + &text[done..]
}

/// The bytes as text with line feeds.
///
/// # Errors
/// At the first byte that is not UTF-8, and at a carriage return alone, which is the end of a line
/// to some parsers and not to others.
fn readable(bytes: &[u8]) -> Result<&str, ManifestError> {
    let error = |at: usize, problem: &str| {
        let before = String::from_utf8_lossy(&bytes[..at]);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Err(ManifestError::input(Position { line, column }, problem))
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(bad) => {
            return error(bad.valid_up_to(), "not UTF-8; convert the file, for example with iconv");
        }
    };
    let mut returns = text.match_indices('\r').map(|(at, _)| at);
    match returns.find(|at| bytes.get(at + 1) != Some(&b'\n')) {
        Some(at) => error(at, "a carriage return without a line feed; end lines with LF or CRLF"),
        None => Ok(text),
    }
}

// === impl Settings ===

impl Settings {
    /// The keys of all annotations of weir.
    fn keys(&self) -> Vec<String> {
        let settings = self.known.iter().map(|name| format!("{PREFIX}{name}"));
        std::iter::once(INJECT.to_owned()).chain(settings).collect()
    }

    /// What is written as annotations, in order.
    fn annotations(&self) -> Vec<(String, String)> {
        let given =
            self.given.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()));
        std::iter::once((INJECT.to_owned(), ENABLED.to_owned())).chain(given).collect()
    }
}

// === impl Outcome ===

impl From<Change> for Outcome {
    fn from(change: Change) -> Self {
        match change {
            Change::New => Self::Injected,
            Change::Updated => Self::Updated,
            Change::Nothing => Self::AlreadyInjected,
        }
    }
}

// === impl Line ===

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ", self.kind, self.name)?;
        f.write_str(match self.result {
            Outcome::Injected => "injected",
            Outcome::Updated => "updated",
            Outcome::AlreadyInjected => "already injected",
            Outcome::Uninjected => "uninjected",
            Outcome::NotInjected => "not injected before",
            Outcome::NoPods => "skipped: runs no pods",
            Outcome::HostNetwork => {
                "skipped: hostNetwork: weir does not capture pods in the node's network"
            }
            Outcome::Disabled => "skipped: weir.dev/inject is disabled",
        })
    }
}

#[cfg(test)]
mod tests;

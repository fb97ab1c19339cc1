//! Kubernetes manifests: weir's annotations on pod templates, put into a text and taken out again,
//! with every other byte as it was. Pure: text in, text and a report out.

mod edit;
mod error;
mod find;
mod remove;
mod tree;
mod verify;

pub use error::{ManifestError, Position};

use std::fmt;

use edit::{Change, Editor};
use find::Object;
use tree::Tree;
use verify::{Intent, verify};

/// The annotation that asks for weir.
pub const INJECT: &str = "weir.dev/inject";
/// Its value.
pub const ENABLED: &str = "enabled";
/// Its value that forbids injection.
pub const DISABLED: &str = "disabled";
/// Ports of inbound connections that the kernel lets pass.
pub const SKIP_INBOUND_PORTS: &str = "config.weir.dev/skip-inbound-ports";
/// Ports of outbound connections that the kernel lets pass.
pub const SKIP_OUTBOUND_PORTS: &str = "config.weir.dev/skip-outbound-ports";
/// Ports forwarded as raw TCP.
pub const OPAQUE_PORTS: &str = "config.weir.dev/opaque-ports";

/// What happens to new connections while no proxy is there: `open` or `closed`.
pub const FAIL: &str = "config.weir.dev/fail";
/// Whether the application sees its clients' own addresses: `true` or `false`.
pub const PRESERVE_CLIENT_IP: &str = "config.weir.dev/preserve-client-ip";

/// All annotations that are weir's, in the order in which they are written.
const KEYS: [&str; 4] = [INJECT, SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS, OPAQUE_PORTS];

/// Port lists to write, as given; [`crate::ports::PortList`] has their form. What is not given is
/// left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// For [`SKIP_INBOUND_PORTS`].
    pub skip_inbound: Option<String>,
    /// For [`SKIP_OUTBOUND_PORTS`].
    pub skip_outbound: Option<String>,
    /// For [`OPAQUE_PORTS`].
    pub opaque: Option<String>,
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
    /// It got the annotations.
    Injected,
    /// It had some, and got others or other values.
    Updated,
    /// It had all of them.
    AlreadyInjected,
    /// They were taken away.
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
pub fn inject(text: &[u8], ports: &Ports) -> Result<Edited, ManifestError> {
    let wanted = ports.annotations();
    edit(text, |editor| {
        let node = editor.template.node;
        let at = |keys: &[&str]| {
            keys.iter().try_fold(node, |node, key| editor.anchors.get(node, key))?.scalar()
        };
        let yes = ["true", "yes", "on", "y"];
        if at(&["spec", "hostNetwork"])
            .is_some_and(|word| yes.iter().any(|yes| word.eq_ignore_ascii_case(yes)))
        {
            return Ok((Outcome::HostNetwork, None));
        }
        if at(&["metadata", "annotations", INJECT]) == Some(DISABLED) {
            return Ok((Outcome::Disabled, None));
        }
        let pairs: Vec<_> = wanted.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let outcome = match editor.inject(&pairs)? {
            Change::New => Outcome::Injected,
            Change::Updated => Outcome::Updated,
            Change::Nothing => Outcome::AlreadyInjected,
        };
        Ok((outcome, Some(Some(wanted.clone()))))
    })
}

/// Takes all of weir's annotations away, and what is empty without them. What [`inject`] made of a
/// text that had none becomes that text again, byte for byte; only `annotations:` and `metadata:`
/// that had been there without a value are not.
///
/// # Errors
/// As [`inject`].
pub fn uninject(text: &[u8]) -> Result<Edited, ManifestError> {
    edit(text, |editor| {
        Ok(if editor.uninject()? {
            (Outcome::Uninjected, Some(None))
        } else {
            (Outcome::NotInjected, None)
        })
    })
}

/// The annotations that an edit is to leave; none if it is to leave no annotation of weir.
type Annotations = Option<Vec<(&'static str, String)>>;

fn edit(
    bytes: &[u8],
    change: impl Fn(&mut Editor<'_>) -> Result<(Outcome, Option<Annotations>), ManifestError>,
) -> Result<Edited, ManifestError> {
    let text = readable(bytes)?;
    let (mark, text) = match text.strip_prefix('\u{feff}') {
        Some(rest) => ("\u{feff}", rest),
        None => ("", text),
    };
    let tree = Tree::parse(text)?;
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
                edits: Vec::new(),
            };
            let (outcome, annotations) = change(&mut editor)?;
            result = outcome;
            edits.append(&mut editor.edits);
            if let Some(annotations) = annotations {
                intents.push(Intent { document, path: template.path.clone(), annotations });
            }
        }
        report.push(Line { kind, name, result });
    }
    let edited = apply(text, edits);
    verify(&tree, &edited, &intents)?;
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

// === impl Ports ===

impl Ports {
    /// What they are written as, in order.
    fn annotations(&self) -> Vec<(&'static str, String)> {
        let values = [
            Some(ENABLED.to_owned()),
            self.skip_inbound.clone(),
            self.skip_outbound.clone(),
            self.opaque.clone(),
        ];
        KEYS.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))).collect()
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
                "skipped: hostNetwork: weir captures nothing in the node's own network"
            }
            Outcome::Disabled => "skipped: weir.dev/inject is disabled",
        })
    }
}

#[cfg(test)]
mod tests;

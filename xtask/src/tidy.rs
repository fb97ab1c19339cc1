//! `cargo xtask tidy`: the rules of this repository that neither the compiler nor clippy knows.
//!
//! Each rule is a file of `tidy/`. What a rule cannot decide exactly is not a rule.

mod docs;
mod files;
mod imports;
mod layers;
mod markdown;
mod safety;
mod tokens;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// Files that do not conform to a rule yet. A line that is no longer needed is a finding.
const EXCEPTIONS: [(Rule, &str); 0] = [];

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// A Rust file that `syn` cannot read.
    Syntax,
    /// Imports between the top-level modules of the library.
    Layers,
    /// Lines of a file.
    Length,
    /// The `//!` at the top of a file.
    Header,
    /// `SAFETY` comments.
    Safety,
    /// Tables and paths in the documentation.
    Docs,
    /// A line of [`EXCEPTIONS`].
    Exception,
}

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    rule: Rule,
    /// What is wrong, and the next step.
    message: String,
}

/// A Rust file.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    syntax: syn::File,
}

/// The repository.
struct Tree {
    root: PathBuf,
    sources: Vec<Source>,
}

/// Checks the repository at `root` and prints what it finds.
///
/// # Errors
/// Where anything is found, or a file cannot be read.
pub(crate) fn run(root: &Path) -> Result<()> {
    let findings = check(root, &EXCEPTIONS)?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: nothing found");
            Ok(())
        }
        1 => bail!("tidy: 1 finding"),
        count => bail!("tidy: {count} findings"),
    }
}

fn check(root: &Path, exceptions: &[(Rule, &str)]) -> Result<Vec<Finding>> {
    let (tree, mut findings) = Tree::read(root)?;
    layers::check(&tree, &mut findings)?;
    files::check(&tree, &mut findings);
    safety::check(&tree, &mut findings);
    docs::check(&tree, &mut findings)?;
    let (excepted, mut findings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| exceptions.contains(&(finding.rule, finding.path.as_str())));
    for (rule, path) in exceptions {
        if !excepted.iter().any(|finding| finding.rule == *rule && finding.path == *path) {
            let message = format!("{path} conforms to `{rule}` now; remove its line");
            findings.push(Finding::new("xtask/src/tidy.rs", 1, Rule::Exception, message));
        }
    }
    findings.sort();
    Ok(findings)
}

// === impl Tree ===

impl Tree {
    /// Reads all Rust files but those in `target` and hidden folders. Those that cannot be parsed
    /// are findings.
    fn read(root: &Path) -> Result<(Self, Vec<Finding>)> {
        let (mut sources, mut findings) = (Vec::new(), Vec::new());
        let visible = |entry: &walkdir::DirEntry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0 || !(name.starts_with('.') || name == "target")
        };
        for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(visible) {
            let entry = entry?;
            if entry.path().extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
            let text = fs::read_to_string(entry.path()).with_context(|| format!("read {path}"))?;
            match syn::parse_file(&text) {
                Ok(syntax) => sources.push(Source { path, text, syntax }),
                Err(error) => {
                    let message = format!("{error}; `cargo check` says more");
                    let line = error.span().start().line;
                    findings.push(Finding::new(path, line, Rule::Syntax, message));
                }
            }
        }
        Ok((Self { root: root.to_owned(), sources }, findings))
    }

    fn source(&self, path: &str) -> Result<&Source> {
        let found = self.sources.iter().find(|source| source.path == path);
        found.with_context(|| {
            format!("no Rust file {path}; has it moved? then tell xtask/src/tidy/")
        })
    }

    fn text(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root.join(path))
            .with_context(|| format!("cannot read {path}; has it moved? then tell xtask/src/tidy/"))
    }
}

// === impl Finding ===

impl Finding {
    fn new(path: impl Into<String>, line: usize, rule: Rule, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, message } = self;
        write!(f, "{path}:{line}: {rule}: {message}")
    }
}

// === impl Rule ===

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "syntax",
            Self::Layers => "layers",
            Self::Length => "length",
            Self::Header => "header",
            Self::Safety => "safety",
            Self::Docs => "docs",
            Self::Exception => "exception",
        })
    }
}

#[cfg(test)]
mod tests;

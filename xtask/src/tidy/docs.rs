//! What the documentation says twice: tables that list what the code lists, and paths.

mod code;

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};

use super::{
    Finding, Rule, Tree,
    markdown::{Row, code_spans, table},
};
use crate::picture;

/// Where the settings are.
const SETTINGS: [&str; 2] = ["proxy/src/config/table.rs", "proxy/src/config/table/output.rs"];
/// Where the exit codes are.
const EXIT: &str = "proxy/src/cli/exit.rs";
/// Where the BPF programs are.
const PROGRAMS: &str = "proxy-ebpf/src/";
/// Folders of the repository: a code span that begins with one is a path.
const FOLDERS: [&str; 7] =
    ["deploy/", "docs/", "proxy-common/", "proxy-ebpf/", "proxy/", "tests/", "xtask/"];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) -> Result<()> {
    let mut keys = BTreeSet::new();
    for path in SETTINGS {
        keys.extend(code::lists(tree.source(path)?, "keys"));
    }
    let titles = ["key in the file", "flag", "default", "changes", "meaning"];
    compare(tree, "docs/CLI.md", &titles, &keys, SETTINGS[0], findings)?;
    let codes = code::numbers(tree.source(EXIT)?, "code")?;
    compare(tree, "docs/CLI.md", &["code", "meaning"], &codes, EXIT, findings)?;
    let programs = code::programs(tree.sources.iter().filter(|it| it.path.starts_with(PROGRAMS)));
    let titles = ["program", "hook", "file"];
    compare(tree, "docs/ARCHITECTURE.md", &titles, &programs, PROGRAMS, findings)?;
    check_picture(tree, findings)?;
    check_paths(tree, findings)
}

/// The picture is what `cargo xtask picture` draws.
fn check_picture(tree: &Tree, findings: &mut Vec<Finding>) -> Result<()> {
    if tree.text(picture::FILE)? != picture::draw() {
        let message = "differs from its table of steps; run `cargo xtask picture`".to_owned();
        findings.push(Finding::new(picture::FILE, 1, Rule::Docs, message));
    }
    Ok(())
}

/// The keys of a table are those of the code.
fn compare(
    tree: &Tree,
    document: &str,
    titles: &[&str],
    code: &BTreeSet<String>,
    home: &str,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut add = |line, message| {
        findings.push(Finding::new(document, line, Rule::Docs, message));
    };
    let Some(rows) = table(&tree.text(document)?, titles) else {
        add(1, format!("no table `| {} |` for what {home} lists; write it", titles.join(" | ")));
        return Ok(());
    };
    let keys: Vec<(usize, String)> = rows.iter().flat_map(keys).collect();
    for (line, key) in keys.iter().filter(|(_, key)| !code.contains(key)) {
        add(*line, format!("`{key}` is not in {home}; correct or remove the row"));
    }
    let last = rows.last().map_or(1, |row| row.line);
    for key in code.iter().filter(|key| !keys.iter().any(|(_, it)| it == *key)) {
        add(last, format!("`{key}` of {home} is not in the table; add a row"));
    }
    Ok(())
}

/// What a row is about: the code spans of its first cell, or its number. Of a table with a file,
/// all cells.
fn keys(row: &Row) -> Vec<(usize, String)> {
    let spans = |cell: &str| code_spans(cell).map(str::to_owned).collect::<Vec<_>>();
    let first = &row.cells[0];
    let keys = match row.cells.len() {
        3 => vec![row.cells.iter().flat_map(|cell| spans(cell)).collect::<Vec<_>>().join(" ")],
        _ if first.parse::<u8>().is_ok() => vec![first.clone()],
        _ => spans(first),
    };
    keys.into_iter().map(|key| (row.line, key)).collect()
}

/// Paths of this repository that documents name lead somewhere.
fn check_paths(tree: &Tree, findings: &mut Vec<Finding>) -> Result<()> {
    for document in documents(tree)? {
        for (at, line) in tree.text(&document)?.lines().enumerate() {
            for path in code_spans(line).filter(|span| is_path(span)) {
                if !tree.root.join(path).exists() {
                    let message = format!("there is no {path}; name where it is now");
                    findings.push(Finding::new(&document, at + 1, Rule::Docs, message));
                }
            }
        }
    }
    Ok(())
}

fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    FOLDERS.iter().any(|folder| span.starts_with(folder)) && span.chars().all(plain)
}

/// The Markdown files at the top and in `docs`, but for the changelog: it tells of what was.
fn documents(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        let entries = fs::read_dir(tree.root.join(folder)).context("no folder docs")?;
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") && name != "CHANGELOG.md" {
                let separator = if folder.is_empty() { "" } else { "/" };
                found.push(format!("{folder}{separator}{name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}

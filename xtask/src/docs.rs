//! `cargo xtask docs`: the tables of settings in the documentation, as weir prints them
//! (`weir man --tables`).

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::test;

/// The documents with such tables.
const DOCUMENTS: [&str; 3] = ["docs/CLI.md", "docs/KUBERNETES.md", "docs/CONFIG.md"];
/// Before a table, with its name.
const BEGIN: &str = "<!-- table ";
/// After a table.
const END: &str = "<!-- end of table -->";

/// Flags of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if a table differs from what weir prints
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let weir = ["run", "--quiet", "--bin", "weir", "--", "man", "--tables"];
    let output = test::command(root, &weir).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    for document in DOCUMENTS {
        let path = root.join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {document}"))?;
        let wanted = with_tables(&text, &printed).with_context(|| document.to_owned())?;
        if wanted == text {
            continue;
        }
        ensure!(!args.check, "a table in {document} is out of date; run cargo xtask docs");
        fs::write(&path, wanted).with_context(|| format!("cannot write {document}"))?;
    }
    Ok(())
}

/// The document with each table between its comments as it is printed.
fn with_tables(document: &str, printed: &str) -> Result<String> {
    let mut text = String::new();
    let mut rest = document;
    while let Some(at) = rest.find(BEGIN) {
        let line = rest[at..].find('\n').context("a comment without a table")? + at + 1;
        let end = rest[line..].find(END).context("a table without its end")? + line;
        let comment = &rest[at..line];
        let Some((_, table)) = printed.split_once(comment) else {
            bail!("weir prints no table for {}", comment.trim());
        };
        let table = table.split(BEGIN).next().unwrap_or_default();
        text.push_str(&rest[..line]);
        text.push_str(table);
        rest = &rest[end..];
    }
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_replaced_and_the_rest_stays() {
        let printed = "<!-- table a -->\n| 1 |\n<!-- table b -->\n| 2 |\n";
        let document = "x\n<!-- table b -->\n| old |\n<!-- end of table -->\ny\n";
        let wanted = "x\n<!-- table b -->\n| 2 |\n<!-- end of table -->\ny\n";
        assert_eq!(with_tables(document, printed).unwrap(), wanted);
        assert_eq!(with_tables(wanted, printed).unwrap(), wanted);
        assert!(with_tables("<!-- table c -->\n<!-- end of table -->\n", printed).is_err());
        assert!(with_tables("<!-- table b -->\n| 2 |\n", printed).is_err());
    }
}

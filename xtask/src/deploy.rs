//! `cargo xtask manifests`: the plain Kubernetes manifests, rendered from the Helm chart.

pub(crate) mod helm;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// What the plain manifests are rendered as. Node agents that others wait for live there: the
/// priority class is admitted, and no pod security standard refuses them.
const NAMESPACE: &str = "kube-system";

const HEAD: &str = "\
# weir on every node. Made by `cargo xtask manifests` from deploy/chart/weir with its default values:
# change those, not this file.
";

/// Flags of `cargo xtask manifests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the file differs from the output of the chart
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    helm::install()?;
    let (path, text) = (manifests(root), plain(root)?);
    if args.check {
        let current = fs::read_to_string(&path).unwrap_or_default();
        ensure!(current == text, "{}", stale(&path));
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The chart's directory.
fn chart(root: &Path) -> PathBuf {
    root.join("deploy/chart/weir")
}

/// Where the plain manifests are.
fn manifests(root: &Path) -> PathBuf {
    root.join("deploy/manifests/weir.yaml")
}

fn stale(path: &Path) -> String {
    format!("{} is not what the chart renders; run cargo xtask manifests", path.display())
}

/// What the plain manifests must be.
fn plain(root: &Path) -> Result<String> {
    let rendered = helm::render(&chart(root), &json!({}), NAMESPACE)?;
    let objects = helm::objects(rendered).into_iter();
    let objects = objects.map(|text| format!("---\n{}\n", text.trim()));
    Ok(HEAD.to_owned() + &objects.collect::<String>())
}

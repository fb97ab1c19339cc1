//! Helm renders the chart. Debian 12 has no Helm; its library comes from PyPI, with a Python binding.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_tests::process::run;

use crate::venv::Venv;

/// One version: what a chart renders to must not change under it.
const PACKAGE: &str = "helm-python-sdk==0.2.2";
const PROGRAM: &str = include_str!("helm.py");
const LIMIT: Duration = Duration::from_secs(60);

/// The text of each template that rendered to something, by file name.
pub(crate) type Rendered = BTreeMap<String, String>;

/// What the Python program answers.
#[derive(Deserialize)]
struct Answer {
    /// What `helm lint --strict` finds.
    findings: Vec<String>,
    /// By template, as `weir/templates/NAME`.
    templates: BTreeMap<String, String>,
}

/// Installs Helm where it is missing.
///
/// # Errors
///
/// Fails without a way to PyPI.
pub(crate) fn install() -> Result<()> {
    if venv().file("helm_python").is_some() {
        return Ok(());
    }
    println!("installing {PACKAGE} from PyPI, to render the chart");
    venv().install(PACKAGE)
}

/// Renders a chart as release `weir`.
///
/// # Errors
///
/// Fails where Helm is not installed, and when values do not fit the schema, the chart does not pass
/// `helm lint --strict`, or a template cannot be rendered.
pub(crate) fn render(chart: &Path, values: &Value, namespace: &str) -> Result<Rendered> {
    let python = venv().python();
    ensure!(
        python.exists(),
        "Helm is not installed in {}; run cargo xtask setup, which needs a way to PyPI",
        venv().dir().display()
    );
    let request = json!({
        "chart": chart, "values": values, "name": "weir", "namespace": namespace,
    });
    let mut command = Command::new(python);
    let output = run(command.args(["-c", PROGRAM, &request.to_string()]), LIMIT)?.ok()?;
    let answer: Answer = serde_json::from_str(&output.stdout)
        .with_context(|| format!("not what was expected: {}", output.stdout))?;
    ensure!(answer.findings.is_empty(), "helm lint: {}", answer.findings.join("; "));
    let written = answer.templates.into_iter().filter_map(|(path, text)| {
        let name = path.rsplit('/').next()?.to_owned();
        (!text.trim().is_empty()).then_some((name, text))
    });
    Ok(written.collect())
}

/// What is to be created, in that order: rights and settings before what needs them.
pub(crate) fn objects(rendered: Rendered) -> Vec<String> {
    let rank = |name: &str| {
        let first = ["serviceaccount.yaml", "rbac.yaml", "configmap.yaml", "daemonset.yaml"];
        first.iter().position(|first| *first == name).unwrap_or(first.len())
    };
    let files = rendered.into_iter().filter(|(name, _)| name.ends_with(".yaml"));
    let mut files: Vec<(String, String)> = files.collect();
    // Stable: the others stay in the order of their names.
    files.sort_by_key(|(name, _)| rank(name));
    files.into_iter().map(|(_, text)| text).collect()
}

// === helpers ===

fn venv() -> Venv {
    Venv::new("helm")
}

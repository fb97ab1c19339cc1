//! Recording and alerting rules for Prometheus: what they ask for is compared in `dashboard.rs` with a
//! running weir, and their alerts here with the page that says what to do about each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The rules, in the order of the file.
fn rules() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/weir.rules.yml");
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    let groups = file["groups"].as_array().context("no groups")?;
    let rules = groups.iter().map(|group| group["rules"].as_array().cloned().context("no rules"));
    Ok(rules.collect::<Result<Vec<_>>>()?.concat())
}

/// The names that a key has in the rules.
fn named(key: &str) -> Result<Vec<String>> {
    Ok(rules()?.iter().filter_map(|rule| rule[key].as_str().map(str::to_owned)).collect())
}

/// Names of the series that rules record.
pub(super) fn recorded() -> Result<Vec<String>> {
    named("record")
}

/// Each expression with the name of its rule.
pub(super) fn expressions() -> Result<Vec<(String, String)>> {
    let of = |rule: &Value| {
        let name =
            rule["alert"].as_str().or(rule["record"].as_str()).context("a rule without a name")?;
        let expression = rule["expr"].as_str().with_context(|| format!("{name} has no expr"))?;
        Ok((name.to_owned(), expression.to_owned()))
    };
    rules()?.iter().map(of).collect()
}

#[test]
fn each_alert_has_its_row_in_the_page_of_troubles() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/TROUBLESHOOTING.md");
    let page = fs::read_to_string(path)?;
    let rows = page.lines().skip_while(|line| *line != "| alert | meaning | what to do |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<_> =
        rows.filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect();
    let alerts: BTreeSet<_> = named("alert")?.into_iter().collect();
    ensure!(alerts.len() > 5, "{alerts:?}");
    ensure!(listed == alerts, "docs/TROUBLESHOOTING.md has {listed:?}, the rules have {alerts:?}");
    Ok(())
}

#[test]
fn each_alert_says_how_bad_it_is_and_what_it_is_about() -> Result<()> {
    for rule in rules()?.iter().filter(|rule| rule["alert"].is_string()) {
        let severity = rule["labels"]["severity"].as_str();
        ensure!(matches!(severity, Some("warning" | "critical")), "{rule}");
        ensure!(rule["annotations"]["summary"].as_str().is_some_and(|it| it.len() > 10), "{rule}");
    }
    Ok(())
}

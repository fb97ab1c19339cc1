//! What came of a kernel, and all kernels together in one table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::{Deserialize, Serialize};

use super::machine::{Accelerator, Ended};
use super::protocol::{Outcome, Test};

/// What `weir check -o json` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Check {
    pub(super) ready: bool,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Finding {
    name: String,
    level: String,
    detail: String,
}

/// What came of one kernel.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Report {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The commit that was tested, as `git describe` says it.
    pub(super) revision: String,
    /// Whether weir runs on it.
    pub(super) supported: bool,
    pub(super) accelerator: Accelerator,
    /// What weir found in the guest; none where it said nothing that can be read.
    pub(super) check: Option<Check>,
    /// Every test that ended, with milliseconds.
    pub(super) results: Vec<(Test, Outcome, u64)>,
    /// Tests that began and did not end.
    pub(super) unfinished: Vec<Test>,
    /// Tests that it was not given, and why.
    pub(super) not_run: Vec<(Test, String)>,
    /// How many tests it was given.
    pub(super) given: usize,
    /// Tests in which a program was refused by the verifier.
    pub(super) refused: Vec<Test>,
    /// Complaints of the kernel: kind and line.
    pub(super) troubles: Vec<(String, String)>,
    /// What the guest could not get over, in its own words.
    pub(super) fatal: Option<String>,
    pub(super) ended: Ended,
    pub(super) took: Duration,
}

// === impl Report ===

impl Report {
    fn count(&self, wanted: Outcome) -> usize {
        self.results.iter().filter(|(_, outcome, _)| *outcome == wanted).count()
    }

    /// What is wrong, in sentences; empty where all is well.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match &self.check {
            None => faults.push("weir check said nothing that can be read".into()),
            Some(check) if check.ready != self.supported => {
                let verdict = if check.ready { "ready" } else { "not ready" };
                faults.push(format!("weir check finds this kernel {verdict}"));
            }
            Some(_) => {}
        }
        faults.extend(self.fatal.iter().map(|why| format!("the guest gave up: {why}")));
        if self.ended != Ended::Off {
            faults.push(format!("the machine hung: {}", self.ended));
        }
        for (test, outcome, _) in &self.results {
            match outcome {
                Outcome::Passed => {}
                Outcome::Failed => faults.push(format!("{test} failed")),
                Outcome::Hung => faults.push(format!("{test} did not end in time")),
                Outcome::Missing => faults.push(format!("{test} is not in its program")),
            }
        }
        faults.extend(self.unfinished.iter().map(|test| format!("{test} began and did not end")));
        if self.given == 0 {
            faults.push("no test was chosen".into());
        }
        if self.results.len() < self.given {
            let lost = self.given - self.results.len();
            faults.push(format!("{lost} of {} tests have no result", self.given));
        }
        faults.extend(
            self.refused.iter().map(|test| format!("{test}: the verifier refused a program")),
        );
        faults.extend(self.troubles.iter().map(|(kind, line)| format!("kernel: {kind}: {line}")));
        faults
    }

    fn verdict(&self) -> &'static str {
        match (self.faults().is_empty(), self.supported) {
            (false, _) => "FAILED",
            (true, true) => "passed",
            (true, false) => "refused as it should be",
        }
    }

    fn row(&self) -> Vec<String> {
        let bad = self.given - self.count(Outcome::Passed).min(self.given);
        let mut kinds: Vec<&str> = self.troubles.iter().map(|(kind, _)| kind.as_str()).collect();
        kinds.dedup();
        vec![
            self.release.clone(),
            self.revision.clone(),
            self.accelerator.to_string(),
            self.check.as_ref().map_or("no answer", Check::verdict).into(),
            self.count(Outcome::Passed).to_string(),
            bad.to_string(),
            self.not_run.len().to_string(),
            if kinds.is_empty() { "none".into() } else { kinds.join(", ") },
            self.refused.len().to_string(),
            format!("{} min {} s", self.took.as_secs() / 60, self.took.as_secs() % 60),
            self.verdict().into(),
        ]
    }
}

// === impl Check ===

impl Check {
    fn verdict(&self) -> &'static str {
        if self.ready { "ready" } else { "not ready" }
    }

    fn level(&self, name: &str) -> Option<(&str, &str)> {
        let mut found = self.findings.iter().filter(|finding| finding.name == name);
        found.next().map(|finding| (finding.level.as_str(), finding.detail.as_str()))
    }
}

/// All kernels together, as Markdown that reads well on a terminal too.
pub(super) fn table(reports: &[Report]) -> String {
    let mut table = plain([
        "kernel",
        "weir",
        "by",
        "weir check",
        "passed",
        "failed",
        "not run",
        "kernel's complaints",
        "refused by the verifier",
        "time",
        "verdict",
    ]);
    for report in reports {
        table.add_row(report.row());
    }
    let mut text = format!("{}\n", trimmed(&table));
    for report in reports {
        for fault in report.faults() {
            let _ = write!(text, "\n- {}: {fault}", report.release);
        }
    }
    text.push_str(&format!("\n\nWhat `weir check` finds on each:\n\n{}\n", differences(reports)));
    text.push_str(&format!("\nNot run, and why:\n\n{}", left_out(reports)));
    text
}

/// Findings that are not the same on every kernel, or not good on one.
fn differences(reports: &[Report]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for finding in reports.iter().filter_map(|r| r.check.as_ref()).flat_map(|c| &c.findings) {
        if !names.contains(&finding.name.as_str()) {
            names.push(&finding.name);
        }
    }
    let releases = reports.iter().map(|report| report.release.as_str());
    let mut table = plain(["finding"].into_iter().chain(releases));
    for name in names {
        let cells = reports.iter().map(|report| {
            match report.check.as_ref().and_then(|check| check.level(name)) {
                Some(("ok", _)) => "✓".to_owned(),
                Some((level, detail)) => {
                    let mark = if level == "fail" { "×" } else { "‼" };
                    format!("{mark} {}", detail.replace('|', "/"))
                }
                None => "-".to_owned(),
            }
        });
        table.add_row([name.to_owned()].into_iter().chain(cells));
    }
    trimmed(&table)
}

/// By reason: the kernels, and the tests of each program.
fn left_out(reports: &[Report]) -> String {
    type Groups<'a> = BTreeMap<(&'a str, Vec<&'a str>), BTreeMap<&'a str, usize>>;
    let mut by_test: BTreeMap<(&Test, &str), Vec<&str>> = BTreeMap::new();
    for report in reports {
        for (test, reason) in &report.not_run {
            by_test.entry((test, reason)).or_default().push(&report.release);
        }
    }
    let mut groups: Groups<'_> = BTreeMap::new();
    for ((test, reason), releases) in by_test {
        *groups.entry((reason, releases)).or_default().entry(&test.target).or_default() += 1;
    }
    let mut table = plain(["reason", "kernels", "tests"]);
    for ((reason, releases), targets) in groups {
        let kernels =
            if releases.len() == reports.len() { "all".into() } else { releases.join(", ") };
        let tests: Vec<String> =
            targets.iter().map(|(target, count)| format!("{target} ({count})")).collect();
        table.add_row([reason.to_owned(), kernels, tests.join(", ")]);
    }
    trimmed(&table)
}

fn plain<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A kernel on which one test passed and one was not run.
#[cfg(test)]
pub(super) fn sample() -> Report {
    let test = |name: &str| Test { target: "ports".into(), name: name.into() };
    let check =
        r#"{"ready":true,"findings":[{"name":"jit","level":"warn","detail":"off","hint":"on"}]}"#;
    Report {
        release: "6.1.0".into(),
        revision: "0123abc".into(),
        supported: true,
        accelerator: Accelerator::Tcg,
        check: serde_json::from_str(check).ok(),
        results: vec![(test("a"), Outcome::Passed, 1)],
        unfinished: Vec::new(),
        not_run: vec![(test("b"), "makes load".into())],
        given: 1,
        refused: Vec::new(),
        troubles: Vec::new(),
        fatal: None,
        ended: Ended::Off,
        took: Duration::from_secs(61),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut Report);

    #[test]
    fn all_is_well_only_when_nothing_is_wrong() {
        assert_eq!(sample().faults(), [""; 0]);
        let cases: [(&str, Spoil); 8] = [
            ("said nothing", |r| r.check = None),
            ("finds this kernel ready", |r| r.supported = false),
            ("failed", |r| r.results[0].1 = Outcome::Failed),
            ("1 of 2 tests have no result", |r| r.given = 2),
            ("the machine hung", |r| r.ended = Ended::Silent(Duration::from_secs(9))),
            ("oops", |r| r.troubles.push(("oops".into(), "Oops: 0000".into()))),
            ("the verifier refused", |r| r.refused.push(r.results[0].0.clone())),
            ("no test was chosen", |r| (r.given, r.results) = (0, Vec::new())),
        ];
        for (fault, spoil) in cases {
            let mut report = sample();
            spoil(&mut report);
            let faults = report.faults();
            assert!(faults.iter().any(|found| found.contains(fault)), "{fault}: {faults:?}");
            assert_eq!(report.verdict(), "FAILED");
        }
    }

    #[test]
    fn the_table_has_kernels_findings_and_what_was_not_run() {
        let mut old = sample();
        (old.release, old.supported) = ("5.10.0".into(), false);
        old.check = old.check.map(|check| Check { ready: false, ..check });
        let text = table(&[old, sample()]);
        for part in [
            "| 5.10.0 |",
            "0123abc",
            "refused as it should be",
            "‼ off",
            "makes load",
            "ports (1)",
            "all",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}

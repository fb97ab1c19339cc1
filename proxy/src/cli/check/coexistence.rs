//! What else works on the same connections: one line for each finding of the capture layer's survey.

use std::{os::fd::BorrowedFd, path::Path};

use super::{Finding, Level};
use crate::check::coexist::{self, Severity};

pub(super) fn findings(cgroup: &Path, netns: BorrowedFd<'_>) -> Vec<Finding> {
    let survey = coexist::survey(cgroup, netns);
    if survey.findings.is_empty() {
        // Without the slash at the end that a root's path may have.
        let cgroup = cgroup.components().as_path().display();
        let detail = format!("no other program processes connections of {cgroup}");
        return vec![Finding::ok("coexistence", detail)];
    }
    survey.findings.into_iter().map(line).collect()
}

fn line(finding: coexist::Finding) -> Finding {
    let coexist::Finding { area, what, place, effect, severity, advice } = finding;
    let level = match severity {
        Severity::Note => Level::Ok,
        Severity::Warn => Level::Warn,
        Severity::Fail => Level::Fail,
    };
    Finding {
        name: area.into(),
        level,
        detail: format!("{what} ({place}): {effect}"),
        hint: (level != Level::Ok).then_some(advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_needs_no_hint() {
        let finding = |severity, advice: &str| coexist::Finding {
            area: "connect hooks",
            what: "cil_sock4_connect (id 7) on connect4".into(),
            place: "above, /sys/fs/cgroup".into(),
            effect: "runs after weir's".into(),
            severity,
            advice: advice.into(),
        };
        let note = line(finding(Severity::Note, ""));
        assert_eq!((note.level, note.hint), (Level::Ok, None));
        assert_eq!(
            note.detail,
            "cil_sock4_connect (id 7) on connect4 (above, /sys/fs/cgroup): runs after weir's"
        );
        let fail = line(finding(Severity::Fail, "detach it"));
        assert_eq!((fail.level, fail.hint.as_deref()), (Level::Fail, Some("detach it")));
    }
}

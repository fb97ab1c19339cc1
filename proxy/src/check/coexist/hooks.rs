//! Programs of others on the hooks of the cgroup that weir attaches to, by the order in which they
//! and weir's run, and those that keep weir from attaching at all.

use std::path::{Path, PathBuf};

use super::{
    Finding, Severity, blind,
    sockets::{self, uses_sock_map},
};
use crate::{
    capture::{
        AttachType, CaptureError,
        foreign::{
            Overlap, Refusal, Relation, Tree, called, is_ours, overlaps, own_programs, refusals,
        },
        query::Attached,
    },
    host::cgroup,
};

/// Hooks whose programs concern weir in the same way.
struct Family {
    area: &'static str,
    hooks: &'static [AttachType],
}

const CONNECT: Family =
    Family { area: "connect hooks", hooks: &[AttachType::Connect4, AttachType::Connect6] };
const NAMES: Family = Family {
    area: "address hooks",
    hooks: &[
        AttachType::Getpeername4,
        AttachType::Getpeername6,
        AttachType::Getsockname4,
        AttachType::Getsockname6,
    ],
};
const STREAM: Family = Family { area: "sockops hook", hooks: &[AttachType::SockOps] };
const OPTION: Family = Family { area: "getsockopt hook", hooks: &[AttachType::Getsockopt] };
const SET_OPTION: Family = Family { area: "setsockopt hook", hooks: &[AttachType::Setsockopt] };

/// Programs of others at one place, with the hook of each.
struct Group {
    relation: Relation,
    cgroup: PathBuf,
    programs: Vec<(AttachType, Attached)>,
}

pub(super) fn findings(cgroup: &Path) -> Vec<Finding> {
    match try_findings(cgroup) {
        Ok(findings) => findings,
        Err(error) => vec![blind("cgroup hooks", cgroup.display().to_string(), &error)],
    }
}

fn try_findings(cgroup: &Path) -> Result<Vec<Finding>, CaptureError> {
    let tree = Tree::around(cgroup)?;
    let mut findings: Vec<_> = refusals(&tree)?.iter().map(refusal).collect();
    findings.extend(weirs(&tree.here)?);
    let own = own_programs();
    let mut seen = Vec::new();
    for group in groups(&tree, &CONNECT)? {
        seen.extend(group.programs.iter().map(|(_, program)| program.id));
        findings.push(connect(&group, &own));
    }
    findings.extend(only_over_weir(&own, &seen));
    findings.extend(groups(&tree, &NAMES)?.iter().map(names));
    findings.extend(groups(&tree, &STREAM)?.iter().map(stream));
    findings.extend(groups(&tree, &OPTION)?.iter().map(option));
    findings.extend(groups(&tree, &SET_OPTION)?.iter().map(set_option));
    Ok(findings)
}

/// A program that keeps weir's from a hook, or is displaced by it.
fn refusal(found: &Refusal) -> Finding {
    let (area, severity) = match (found.refuses, found.is_optional()) {
        (true, false) => ("exclusive program", Severity::Fail),
        (true, true) => ("exclusive program", Severity::Warn),
        (false, _) => ("overridable program", Severity::Warn),
    };
    Finding {
        area,
        what: found.what(),
        place: found.place(),
        effect: found.effect(),
        severity,
        advice: found.advice().into(),
    }
}

/// Other weirs.
fn weirs(cgroup: &Path) -> Result<Vec<Finding>, CaptureError> {
    let mut found = overlaps(cgroup)?;
    found.dedup_by(|a, b| a.cgroup == b.cgroup && a.relation == b.relation);
    let finding = |overlap: Overlap| Finding {
        area: "another weir",
        what: format!("program id {}", overlap.program),
        place: place(overlap.relation.name(), &overlap.cgroup),
        effect:
            "already captures connections of this cgroup; a second weir does not attach, because \
                 the two would redirect to each other"
                .into(),
        severity: Severity::Warn,
        advice: "stop it or capture another cgroup; if no weir is running, its pinned programs \
                 remain (`weir detach --all`)"
            .into(),
    };
    Ok(found.into_iter().map(finding).collect())
}

fn connect(group: &Group, own: &[Attached]) -> Finding {
    let covers_weir = group.programs.iter().all(|(_, program)| own.contains(program));
    let (effect, severity, advice) = match (group.relation, covers_weir) {
        (Relation::Same, _) => (
            "runs before weir's: weir sees, dials and reports the address that it has translated",
            Severity::Note,
            "",
        ),
        (Relation::Below, _) => (
            "runs before weir's for its cgroup: weir sees, dials and reports the address that it \
             has translated",
            Severity::Note,
            "",
        ),
        (Relation::Above, true) => (
            "runs after weir's (unless attached with BPF_F_PREORDER): weir sees the address that \
             the application used, this program sees a captured connection to loopback, and then \
             weir's own connection to that address",
            Severity::Note,
            "",
        ),
        (Relation::Above, false) => (
            "runs after weir's and sees only captured connections to loopback, not weir's own \
             connections: weir cannot reach addresses that it translates, and can reach addresses \
             that it forbids",
            Severity::Warn,
            "run weir in a cgroup below it too, or exempt the addresses that it handles: \
             --skip-cidrs",
        ),
    };
    finding(&CONNECT, group, effect, severity, advice)
}

/// Programs that see weir's own connections and not the workload's.
fn only_over_weir(own: &[Attached], seen: &[u32]) -> Option<Finding> {
    let programs: Vec<_> =
        own.iter().filter(|program| !is_ours(program) && !seen.contains(&program.id)).collect();
    (!programs.is_empty()).then(|| Finding {
        area: CONNECT.area,
        what: programs.iter().map(|program| called(program)).collect::<Vec<_>>().join(", "),
        place: cgroup::own().map_or_else(
            |_| "weir's own cgroup".into(),
            |path| format!("weir's own cgroup {}", path.display()),
        ),
        effect:
            "sees the connections that weir makes for the workload, but not direct connections \
                 of the workload"
                .into(),
        severity: Severity::Warn,
        advice: "run weir in a cgroup that the program does not cover, if that is not intended"
            .into(),
    })
}

fn names(group: &Group) -> Finding {
    let effect = match group.relation {
        Relation::Above => {
            "runs after weir's, on the address of a direct connection; the application gets its \
             answer"
        }
        Relation::Same | Relation::Below => {
            "runs before weir's, whose answer replaces it on captured connections"
        }
    };
    finding(&NAMES, group, effect, Severity::Note, "")
}

fn stream(group: &Group) -> Finding {
    if !group.programs.iter().any(|(_, program)| uses_sock_map(program.id)) {
        let effect = "sees the same sockets; if it clears callback flags that are set, weir gets \
                      no statistics of direct connections";
        return finding(&STREAM, group, effect, Severity::Note, "");
    }
    let effect = match group.relation {
        Relation::Above => {
            "adds sockets to a sock map, after weir's: with --sk-msg on they are already in weir's \
             map, and it gets EBUSY if its map has a program of the same type"
        }
        Relation::Same | Relation::Below => {
            "adds sockets to a sock map, before weir's: if that map has a program of the same \
             type, weir's sk_msg gets EBUSY and leaves such connections on the TCP stack"
        }
    };
    finding(&STREAM, group, effect, Severity::Warn, sockets::ADVICE)
}

fn option(group: &Group) -> Finding {
    let effect = "also runs; weir's answers SO_ORIGINAL_DST of captured connections and does not \
                  change other options";
    finding(&OPTION, group, effect, Severity::Note, "")
}

fn set_option(group: &Group) -> Finding {
    let effect = match group.relation {
        Relation::Above => {
            "also runs, after weir's, which changes nothing; if it refuses or changes an option, \
             weir's connection still has the application's value"
        }
        Relation::Same | Relation::Below => {
            "also runs, before weir's, which changes nothing; if it refuses an option, weir's \
             connection still has it"
        }
    };
    finding(&SET_OPTION, group, effect, Severity::Note, "")
}

// === helpers ===

/// Programs of others, by place.
fn groups(tree: &Tree, family: &Family) -> Result<Vec<Group>, CaptureError> {
    let mut groups: Vec<Group> = Vec::new();
    for &hook in family.hooks {
        for (relation, cgroup, program) in tree.programs(hook)? {
            if is_ours(&program) {
                continue;
            }
            match groups.iter_mut().find(|g| g.cgroup == cgroup && g.relation == relation) {
                Some(group) => group.programs.push((hook, program)),
                None => groups.push(Group { relation, cgroup, programs: vec![(hook, program)] }),
            }
        }
    }
    Ok(groups)
}

fn finding(
    family: &Family,
    group: &Group,
    effect: &str,
    severity: Severity,
    advice: &str,
) -> Finding {
    let what: Vec<_> = group
        .programs
        .iter()
        .map(|(hook, program)| format!("{} on {}", called(program), hook.name()))
        .collect();
    Finding {
        area: family.area,
        what: what.join(", "),
        place: place(group.relation.name(), &group.cgroup),
        effect: effect.into(),
        severity,
        advice: advice.into(),
    }
}

/// "above, /sys/fs/cgroup"
fn place(relation: &str, cgroup: &Path) -> String {
    format!("{relation}, {}", cgroup.display())
}

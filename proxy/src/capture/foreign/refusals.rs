//! Programs that keep weir's from a hook, or are displaced by it.

use std::path::{Path, PathBuf};

use super::Tree;
use crate::capture::{
    CaptureError, WITHOUT_OPTIONS,
    bpf::AttachType,
    query::{self, Attached, Mode},
};

/// Programs that were not attached for others beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The hook.
    pub hook: AttachType,
    /// Those programs.
    pub programs: Vec<Attached>,
    /// The cgroup that they are attached to.
    pub cgroup: PathBuf,
    /// "here" or "above".
    pub relation: &'static str,
    /// The kernel refuses weir's program; otherwise weir's runs in their place.
    pub refuses: bool,
}

/// Why the kernel refuses weir's programs on a cgroup, in words for an error message; none where
/// nothing is in the way, or where that cannot be asked. For a failed attach with `EPERM`, whose
/// cause the kernel does not tell. `optional`: of a hook that weir does without.
#[must_use]
pub fn obstacle(cgroup: &Path, optional: bool) -> Option<String> {
    let found = refusals(&Tree::around(cgroup).ok()?).ok()?;
    let refusal = found.iter().find(|it| it.refuses && it.is_optional() == optional)?;
    Some(format!(
        "{} ({}) {}; {}",
        refusal.what(),
        refusal.place(),
        refusal.effect(),
        refusal.advice()
    ))
}

/// What the kernel answers to an attempt to attach (`kernel/bpf/cgroup.c`, `__cgroup_bpf_attach`
/// and `hierarchy_allows_attach`). weir attaches by links, which are `BPF_F_ALLOW_MULTI`.
///
/// # Errors
/// Where a cgroup cannot be asked.
pub(crate) fn refusals(tree: &Tree) -> Result<Vec<Refusal>, CaptureError> {
    let mut found = Vec::new();
    for hook in AttachType::OF_CGROUPS {
        let mut add = |programs, cgroup: &Path, relation, refuses| {
            found.push(Refusal { hook, programs, cgroup: cgroup.into(), relation, refuses });
        };
        let here = ask(&tree.here, hook)?;
        if !here.programs.is_empty() {
            if here.mode != Mode::Multi {
                add(here.programs, &tree.here, "here", true);
            }
            continue;
        }
        for cgroup in &tree.above {
            let above = ask(cgroup, hook)?;
            match above.mode {
                _ if above.programs.is_empty() => continue,
                Mode::Multi => {}
                Mode::Exclusive => add(above.programs, cgroup, "above", true),
                Mode::Override => add(above.programs, cgroup, "above", false),
            }
            // The nearest ancestor with a program decides.
            break;
        }
    }
    Ok(found)
}

// === impl Refusal ===

impl Refusal {
    /// Whether weir attaches all the same, without this hook.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.hook == AttachType::Setsockopt
    }

    /// The programs, and their hook.
    #[must_use]
    pub fn what(&self) -> String {
        let programs: Vec<_> = self.programs.iter().map(super::called).collect();
        format!("{} on {}", programs.join(", "), self.hook.name())
    }

    /// "above, /sys/fs/cgroup"
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}, {}", self.relation, self.cgroup.display())
    }

    /// What that means for weir.
    #[must_use]
    pub fn effect(&self) -> String {
        if !self.refuses {
            return "is attached with BPF_F_ALLOW_OVERRIDE: weir's program replaces it in the \
                    captured cgroup"
                .into();
        }
        let consequence =
            if self.is_optional() { WITHOUT_OPTIONS } else { "weir does not attach then" };
        format!(
            "is attached without BPF_F_ALLOW_MULTI, so that the kernel refuses weir's program on \
             this hook (EPERM); {consequence}"
        )
    }

    /// The next step.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        if self.refuses {
            "attach it by a link or with BPF_F_ALLOW_MULTI, or capture a cgroup that is not below it"
        } else {
            "attach it by a link or with BPF_F_ALLOW_MULTI; then both run"
        }
    }
}

// === helpers ===

fn ask(cgroup: &Path, hook: AttachType) -> Result<query::Here, CaptureError> {
    query::cgroup_here(cgroup, hook)
        .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })
}

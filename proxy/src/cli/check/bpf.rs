//! Requirements that are answered by loading something.

use super::Finding;
use crate::capture::probe::{self, Support};

pub(super) fn findings() -> Vec<Finding> {
    let programs = probe::PROGRAMS.into_iter().map(|(name, kind)| {
        let needed = name != "sk_msg";
        judge(format!("program {name}"), probe::program(kind), needed)
    });
    let maps = probe::MAPS
        .into_iter()
        .map(|(name, kind)| judge(format!("map {name}"), probe::map(kind), true));
    programs.chain(maps).chain([others()]).collect()
}

fn judge(name: String, support: Support, needed: bool) -> Finding {
    match (support, needed) {
        (Support::Yes, _) => Finding::ok(name, "loads"),
        (Support::No, true) => Finding::fail(
            name,
            "not supported by this kernel",
            "use a kernel of 5.15 or later with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and \
             CONFIG_BPF_STREAM_PARSER",
        ),
        (Support::No, false) => {
            Finding::warn(name, "not supported by this kernel", "leave --sk-msg off")
        }
        (Support::Unknown(why), _) => Finding::fail(
            name,
            format!("cannot be tried: {why}"),
            "see capabilities above; in a container, seccomp may forbid bpf(2)",
        ),
    }
}

/// Programs of others on the connect hooks run beside weir's: worth knowing, no obstacle.
fn others() -> Finding {
    let name = "other programs on connect hooks";
    match probe::foreign_connect_programs(&OURS) {
        Ok(names) if names.is_empty() => Finding::ok(name, "none"),
        Ok(names) => Finding::warn(
            name,
            names.join(", "),
            "leaf cgroups run first: weir sees the address before a load balancer at the root \
             (Cilium, say) rewrites it",
        ),
        Err(why) => {
            Finding::warn(name, format!("cannot be listed: {why}"), "run as root to see them")
        }
    }
}

/// weir's own programs on socket addresses, as the kernel truncates their names.
const OURS: [&str; 6] =
    ["connect4", "connect6", "getpeername4", "getpeername6", "getsockname4", "getsockname6"];

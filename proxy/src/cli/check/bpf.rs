//! Requirements that are answered by loading something.

use super::Finding;
use crate::{
    capture::{Support, WITHOUT_OPTIONS, fields, sk_msg_self_test, tap_self_test, trial},
    check::{features, probe},
};

pub(super) fn findings() -> Vec<Finding> {
    let programs = probe::PROGRAMS.into_iter().map(|(name, kind)| {
        let without = match name {
            "sk_msg" => Some("leave --sk-msg off"),
            "socket filter" => Some("connect(2) succeeds before the destination has accepted"),
            _ => None,
        };
        judge(format!("program {name}"), probe::program(kind), without)
    });
    let maps = probe::MAPS
        .into_iter()
        .map(|(name, kind)| judge(format!("map {name}"), probe::map(kind), None));
    programs.chain(maps).chain(abilities()).chain([sk_msg(), tap()]).collect()
}

/// What a start with `--sk-msg on` tries too: kernels that load the program can still be told by
/// applications.
fn sk_msg() -> Finding {
    let name = "sk_msg self-test";
    match sk_msg_self_test() {
        Ok(()) => Finding::ok(name, "applications cannot notice"),
        Err(error) => Finding::warn(
            name,
            error.to_string(),
            "leave --sk-msg off; where it is on, weir continues without it",
        ),
    }
}

/// What a workload with `--http-engine tap` tries too.
fn tap() -> Finding {
    let name = "tap self-test";
    match tap_self_test() {
        Ok(()) => Finding::ok(name, "shows what a connection carries"),
        Err(error) => {
            // With the verifier's log it is many lines.
            let text = error.to_string();
            let detail = text.split(" Verifier output").next().unwrap_or_default().to_owned();
            Finding::warn(
                name,
                detail,
                "works: --http-engine tap passes connections through; it needs Linux 6.12 or later \
                 with CONFIG_DEBUG_INFO_BTF",
            )
        }
    }
}

/// What came later than the types of programs and maps.
fn abilities() -> [Finding; 6] {
    [
        socket_fields(),
        match trial::netns_cookie_in_sockops() {
            Support::Yes => Finding::ok("netns cookie in sockops", "loads"),
            // Without it, connections of two namespaces cannot be told apart.
            support => judge("netns cookie in sockops".into(), support, None),
        },
        lesser(
            "program sk_lookup",
            features::sk_lookup(),
            "inbound connections are not captured",
            "use Linux 5.9 or later with CONFIG_INET and CONFIG_BPF_SYSCALL",
        ),
        lesser(
            "program cgroup/setsockopt",
            features::setsockopt(),
            WITHOUT_OPTIONS,
            "works; set keep-alive before connect(2), or use Linux 5.3 or later",
        ),
        lesser(
            "sk_lookup ingress_ifindex",
            trial::ingress_ifindex(),
            "connections from inside are identified by their addresses instead",
            "works; Linux 5.17 or later identifies them by their interface",
        ),
        lesser(
            "bpf_link_update",
            features::link_update(),
            "an upgrade cannot swap programs, only replace them",
            "use Linux 5.7 or later",
        ),
    ]
}

/// What of the kernel's own sockets the hooks can read.
fn socket_fields() -> Finding {
    let name = "fields of sockets";
    let hint = "works; kernels with CONFIG_DEBUG_INFO_BTF have them, readable with CAP_SYS_ADMIN or \
         CAP_PERFMON";
    match fields::unknown() {
        Ok(unknown) if unknown.is_empty() => Finding::ok(name, "all known"),
        Ok(unknown) => {
            let detail = format!("unknown: {}: {}", unknown.join(", "), fields::WITHOUT);
            Finding::warn(name, detail, hint)
        }
        Err(error) => Finding::warn(name, format!("{error}: {}", fields::WITHOUT), hint),
    }
}

/// An ability without which weir works, with less.
fn lesser(name: &str, support: Support, without: &str, hint: &str) -> Finding {
    match support {
        Support::Yes => Finding::ok(name, "there"),
        Support::No => Finding::warn(name, format!("not available: {without}"), hint),
        Support::Unknown(why) => {
            Finding::warn(name, format!("cannot be tested: {why}"), "see capabilities above")
        }
    }
}

/// `without`: what is to be known where weir does without it.
fn judge(name: String, support: Support, without: Option<&str>) -> Finding {
    match (support, without) {
        (Support::Yes, _) => Finding::ok(name, "loads"),
        (Support::No, None) => Finding::fail(
            name,
            "not supported by this kernel",
            "use Linux 5.15 or later with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and \
             CONFIG_BPF_STREAM_PARSER",
        ),
        (Support::No, Some(without)) => {
            Finding::warn(name, "not supported by this kernel", without)
        }
        (Support::Unknown(why), _) => Finding::fail(
            name,
            format!("cannot be tested: {why}"),
            "see capabilities above; in a container, seccomp may forbid bpf(2)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_lesser_ability_is_no_requirement() {
        let level = |support| lesser("x", support, "less", "hint").level;
        assert_eq!(level(Support::Yes), Level::Ok);
        assert_eq!(level(Support::No), Level::Warn);
        assert_eq!(level(Support::Unknown("EPERM".into())), Level::Warn);
    }
}

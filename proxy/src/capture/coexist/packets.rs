//! Packet filters of the network namespace that may turn a connection elsewhere, before weir has it
//! or after. Outbound, weir's hook runs at connect(2), before there is a packet: rules see the
//! connection to weir's listener on loopback, and then weir's own to the original destination.
//! Inbound, prerouting comes before the lookup of the listener.

use std::{fs, io, os::fd::BorrowedFd, thread};

use nix::sched::{CloneFlags, setns};

use super::{
    Finding, Severity, blind,
    nftables::{self, Chain, Hook, Ruleset, Turn},
};

/// What can be read inside a namespace.
struct Seen {
    nftables: io::Result<Ruleset>,
    /// "ip nat" and the like.
    legacy: Vec<String>,
}

pub(super) fn findings(netns: BorrowedFd<'_>) -> Vec<Finding> {
    let seen = match inside(netns, look) {
        Ok(seen) => seen,
        Err(error) => return vec![blind("packet filter", "the network namespace", &error)],
    };
    let mut findings = match seen.nftables {
        Ok(ruleset) => ruleset.chains.iter().filter_map(|chain| judge(chain, &ruleset)).collect(),
        Err(error) => vec![blind("nftables", "the network namespace", &error)],
    };
    findings.extend(legacy(&seen.legacy));
    findings
}

/// Runs `f` on a thread of its own inside a network namespace; for looking, not for long.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` where `netns` is no network namespace.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("weir-netns-look".into());
        let looking = thread.spawn_scoped(scope, || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            io::Result::Ok(f())
        })?;
        looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn look() -> Seen {
    let tables = |family: &str| {
        // Of this thread's namespace; absent without the module, and readable by root only.
        fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"))
            .unwrap_or_default()
            .lines()
            .map(|table| format!("{family} {table}"))
            .collect::<Vec<_>>()
    };
    Seen { nftables: nftables::read(), legacy: [tables("ip"), tables("ip6")].concat() }
}

fn judge(chain: &Chain, ruleset: &Ruleset) -> Option<Finding> {
    let turns = |turn| ruleset.turns(chain, turn);
    let (effect, severity, advice) = match (chain.hook, chain.kind.as_str()) {
        (Hook::Output, "nat") if turns(Turn::Nat) => (
            "redirects outgoing connections: weir captures before that, its own connection to the \
             destination is redirected then; but rules that match every port or loopback take \
             captured connections away from weir's listener",
            Severity::Warn,
            "exempt loopback first: `oif lo return`, or exempt the ports from weir: \
             --skip-outbound-ports",
        ),
        (Hook::Prerouting, "nat") if turns(Turn::Nat) => (
            "redirects incoming connections before a listener is looked up: weir sees the address \
             and port that they were redirected to",
            Severity::Warn,
            "port lists of weir mean the ports behind the redirection",
        ),
        (Hook::Prerouting, _) if turns(Turn::Tproxy) => (
            "gives incoming connections to a transparent proxy, before weir can: those are not \
             captured",
            Severity::Warn,
            "exempt them from one of the two: --skip-inbound-ports",
        ),
        (Hook::Input | Hook::Output, "filter") if chain.drops_by_default => (
            "drops what no rule accepts: captured connections go through lo, to a port of 127.0.0.1 \
             or ::1 that changes with every start",
            Severity::Note,
            "",
        ),
        _ => return None,
    };
    let hook = format!("{:?}", chain.hook).to_lowercase();
    Some(Finding {
        area: "nftables",
        what: format!("chain {} ({}, {hook})", chain.name, chain.kind),
        place: format!("table {} {}", chain.family, chain.table),
        effect: effect.into(),
        severity,
        advice: advice.into(),
    })
}

/// iptables of before nftables: its rules have no interface that tells them one by one.
fn legacy(tables: &[String]) -> Option<Finding> {
    let turning: Vec<_> = tables
        .iter()
        .filter(|table| table.ends_with(" nat") || table.ends_with(" mangle"))
        .cloned()
        .collect();
    (!turning.is_empty()).then(|| Finding {
        area: "iptables-legacy",
        what: format!("tables {}", turning.join(", ")),
        place: "the network namespace".into(),
        effect: "is in use; REDIRECT and DNAT in OUTPUT redirect weir's own connections, those in \
                 PREROUTING and TPROXY come before weir"
            .into(),
        severity: Severity::Warn,
        advice: "look for such rules: iptables-legacy-save, ip6tables-legacy-save".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_tables_count_if_they_can_turn_connections() {
        let tables = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(legacy(&tables(&["ip filter", "ip6 raw"])), None);
        let found = legacy(&tables(&["ip filter", "ip nat", "ip6 nat"])).unwrap();
        assert_eq!(found.what, "tables ip nat, ip6 nat");
    }
}

//! Packet filters of the network namespace that may turn a connection elsewhere, before weir has it
//! or after. Outbound, weir's hook runs at connect(2), before there is a packet: rules see the
//! connection to weir's listener on loopback, and then weir's own to the original destination.
//! Inbound, prerouting comes before the lookup of the listener.

use std::{io, os::fd::BorrowedFd, thread};

use nix::sched::{CloneFlags, setns};

use super::{
    Finding, Severity, blind,
    nftables::{self, Chain, Hook, Ruleset, Turn},
    xtables::{self, Table},
};

/// What can be read inside a namespace.
struct Seen {
    nftables: io::Result<Ruleset>,
    legacy: io::Result<Vec<Table>>,
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
    match seen.legacy {
        Ok(tables) => findings.extend(legacy(&tables)),
        Err(error) => findings.push(blind("iptables-legacy", "the network namespace", &error)),
    }
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
    Seen { nftables: nftables::read(), legacy: xtables::tables() }
}

fn judge(chain: &Chain, ruleset: &Ruleset) -> Option<Finding> {
    let turns = |turn| ruleset.turns(chain, turn);
    let (effect, severity, advice) = match (chain.hook, chain.kind.as_str()) {
        (Hook::Output, "nat") if turns(Turn::Nat) => (
            "redirects outgoing connections: weir captures before that, and its own connection to \
             the destination is redirected; but rules that match every port or loopback take \
             captured connections away from weir's listener",
            Severity::Warn,
            "exempt loopback first: `oif lo return`, or exempt the ports from weir: \
             --skip-outbound-ports",
        ),
        (Hook::Prerouting, "nat") if turns(Turn::Nat) => (
            "redirects incoming connections before the listener lookup: weir sees the redirected \
             address and port",
            Severity::Warn,
            "port lists of weir apply to the ports after the redirection",
        ),
        (Hook::Prerouting, _) if turns(Turn::Tproxy) => (
            "sends incoming connections to a transparent proxy before weir: they are not captured",
            Severity::Warn,
            "exempt them in one of the two: --skip-inbound-ports",
        ),
        (Hook::Input | Hook::Output, "filter") if chain.drops_by_default => (
            "drops packets that no rule accepts: captured connections go through lo, to ports of \
             127.0.0.1, 127.64.0.0/10 and ::1 that change with every start",
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

/// iptables of before nftables.
fn legacy(tables: &[Table]) -> Option<Finding> {
    let turning = |table: &Table| {
        let targets: Vec<_> = table.turns().collect();
        (!targets.is_empty())
            .then(|| format!("{} in table {} {}", targets.join(" and "), table.family, table.name))
    };
    let turning: Vec<_> = tables.iter().filter_map(turning).collect();
    (!turning.is_empty()).then(|| Finding {
        area: "iptables-legacy",
        what: format!("rules of {}", turning.join(", ")),
        place: "the network namespace".into(),
        effect: "redirect connections: REDIRECT and DNAT in OUTPUT redirect weir's own, those in \
                 PREROUTING and TPROXY run before weir"
            .into(),
        severity: Severity::Warn,
        advice: "look for such rules: iptables-legacy-save, ip6tables-legacy-save".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_tables_count_if_they_turn_connections() {
        let table = |family, name: &str, targets: &[&str]| Table {
            family,
            name: name.to_owned(),
            chains: Vec::new(),
            targets: targets.iter().map(ToString::to_string).collect(),
        };
        let nat = |targets| table("ip", "nat", targets);
        assert_eq!(legacy(&[table("ip", "filter", &["REJECT"]), nat(&["MASQUERADE"])]), None);
        let tables = [nat(&["REDIRECT", "DNAT", "LOG"]), table("ip6", "mangle", &["TPROXY"])];
        let found = legacy(&tables).unwrap();
        let expected = "rules of DNAT and REDIRECT in table ip nat, TPROXY in table ip6 mangle";
        assert_eq!(found.what, expected);
    }
}

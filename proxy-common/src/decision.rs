//! The checks that a connection passes to be captured, in the order in which the hooks make them: the
//! one table behind the hooks, `weir explain` and docs/ARCHITECTURE.md.
//!
//! The first check that fails lets the connection go direct, with one of the check's reasons. The hooks
//! are not driven by the table, since the verifier has to follow each of them: they name the check that
//! each part of their code makes, and the compiler compares ([`is_part`]).

use crate::{Direction, Reason};

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// It is a TCP stream socket.
    Tcp,
    /// The workload has a configuration.
    Configured,
    /// Inbound connections of the workload are captured. One that fails is not counted.
    Captured,
    /// The socket is in the workload's network namespace.
    Namespace,
    /// The destination is not a loopback address, or these are captured.
    Loopback,
    /// It is not a connection of the proxy.
    OwnTraffic,
    /// The client is outside of the workload's network namespace.
    Outside,
    /// The port is not in state skip.
    PortRule,
    /// The destination is in no skipped prefix.
    SkippedPrefix,
    /// There is no include list, or the port is on it.
    IncludeList,
    /// The destination was not learned to be raw TCP, or such destinations are not bypassed.
    Learned,
    /// The workload's engine is not the tap, which leaves connections as they are.
    Proxied,
    /// No foreign program filters what the workload's cgroup sends or receives.
    Filter,
    /// The proxy's connection can have what the application has set on its socket.
    Socket,
    /// The destination's class of addresses can be captured: [`crate::AddressClass::refused`].
    Address,
    /// The kernel has a route to the destination.
    Route,
    /// A socket listens there. Outbound, of destinations in the workload's own namespace only.
    Listened,
    /// The proxy has not just failed to reach the destination.
    Failure,
    /// The proxy listens, with source ports left.
    Listener,
    /// The proxy has shown a sign of life in time.
    Heartbeat,
    /// The destination is not the listener that the connection would be redirected to.
    OwnListener,
    /// The workload's share of connections on their way is not used up.
    Share,
}

/// Of outbound connections, in `connect4` and `connect6`.
pub const OUTBOUND: [Check; 20] = [
    Check::Tcp,
    Check::Configured,
    Check::Namespace,
    Check::Loopback,
    Check::OwnTraffic,
    Check::PortRule,
    Check::SkippedPrefix,
    Check::IncludeList,
    Check::Learned,
    Check::Proxied,
    Check::Filter,
    Check::Socket,
    Check::Address,
    Check::Route,
    Check::Listened,
    Check::Failure,
    Check::Listener,
    Check::Heartbeat,
    Check::OwnListener,
    Check::Share,
];

/// Of inbound connections, in `sk_lookup`. Segments of other protocols are not looked at.
pub const INBOUND: [Check; 10] = [
    Check::Configured,
    Check::Captured,
    Check::Outside,
    Check::PortRule,
    Check::IncludeList,
    Check::Filter,
    Check::Learned,
    Check::Listened,
    Check::Heartbeat,
    Check::Listener,
];

/// The checks of one direction, in order.
#[must_use]
pub const fn checks(direction: Direction) -> &'static [Check] {
    match direction {
        Direction::Outbound => &OUTBOUND,
        Direction::Inbound => &INBOUND,
    }
}

/// True where `checks` are all those of the table from `from` up to `to`, in its order.
#[must_use]
pub const fn is_part(table: &[Check], from: usize, to: usize, checks: &[Check]) -> bool {
    if to > table.len() || from + checks.len() != to {
        return false;
    }
    let mut at = 0;
    while at < checks.len() {
        if table[from + at] as u8 != checks[at] as u8 {
            return false;
        }
        at += 1;
    }
    true
}

// === impl Check ===

impl Check {
    /// Why a connection goes direct that fails; empty for what is not counted. Besides, where a helper
    /// of the kernel fails it is [`Reason::HookError`], and of the last checks, which are about the
    /// proxy, [`Reason::FailClosed`] where the workload wants that.
    #[must_use]
    pub const fn reasons(self) -> &'static [Reason] {
        match self {
            Self::Tcp => &[Reason::NotTcp],
            Self::Configured => &[Reason::Unconfigured],
            Self::Captured => &[],
            Self::Namespace => &[Reason::OtherNetns],
            Self::Loopback => &[Reason::Loopback],
            Self::OwnTraffic => &[Reason::OwnTraffic],
            Self::Outside => &[Reason::FromInside],
            Self::PortRule => &[Reason::SkipPort],
            Self::SkippedPrefix => &[Reason::SkipCidr],
            Self::IncludeList => &[Reason::NotIncluded],
            Self::Learned => &[Reason::Learned],
            Self::Proxied => &[Reason::Tapped],
            Self::Filter => &[Reason::Filtered],
            Self::Socket => &[Reason::BoundDevice, Reason::Signed, Reason::BoundPort],
            Self::Address => &[Reason::LinkLocal, Reason::NoRoute],
            Self::Route => &[Reason::NoRoute],
            Self::Listened => &[Reason::NotListening],
            Self::Failure => &[Reason::FailedBefore],
            Self::Listener => &[Reason::NoListener, Reason::ShortOfPorts],
            Self::Heartbeat => &[Reason::Stale],
            Self::OwnListener => &[Reason::OwnListener],
            Self::Share => &[Reason::PendingFull],
        }
    }

    /// The check as `weir explain` and the documentation name it.
    #[must_use]
    pub const fn question(self) -> &'static str {
        match self {
            Self::Tcp => "TCP?",
            Self::Configured => "configured?",
            Self::Captured => "inbound captured?",
            Self::Namespace => "same namespace?",
            Self::Loopback => "loopback wanted?",
            Self::OwnTraffic => "weir's own connection?",
            Self::Outside => "from outside?",
            Self::PortRule => "port skipped?",
            Self::SkippedPrefix => "address skipped?",
            Self::IncludeList => "port included?",
            Self::Learned => "learned?",
            Self::Proxied => "tapped?",
            Self::Filter => "filtered?",
            Self::Socket => "transferable?",
            Self::Address => "unicast, global?",
            Self::Route => "reachable?",
            Self::Listened => "listened on?",
            Self::Failure => "reached before?",
            Self::Listener => "proxy listening?",
            Self::Heartbeat => "heartbeat fresh?",
            Self::OwnListener => "weir's own listener?",
            Self::Share => "share left?",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, format, string::String, vec::Vec};

    use super::*;

    const ARCHITECTURE: &str = include_str!("../../docs/ARCHITECTURE.md");

    /// Reasons that no check gives: see [`Check::reasons`], and counts of other things.
    const OTHERS: [Reason; 7] = [
        Reason::Redirected,
        Reason::HookError,
        Reason::FailClosed,
        Reason::ListeningFull,
        Reason::ReportLost,
        Reason::OptionLost,
        Reason::TapLost,
    ];

    #[test]
    fn every_reason_to_go_direct_belongs_to_a_check() {
        let all = || [&OUTBOUND[..], &INBOUND[..]].concat().into_iter();
        let given: HashSet<Reason> = all().flat_map(Check::reasons).copied().collect();
        for reason in Reason::ALL {
            assert_ne!(given.contains(&reason), OTHERS.contains(&reason), "{}", reason.name());
        }
        for table in [&OUTBOUND[..], &INBOUND[..]] {
            assert_eq!(table.iter().collect::<HashSet<_>>().len(), table.len(), "each check once");
        }
    }

    #[test]
    fn a_part_has_the_same_checks_at_the_same_place() {
        let part = [Check::Outside, Check::PortRule];
        assert!(is_part(&INBOUND, 2, 4, &part));
        assert!(is_part(&INBOUND, 10, 10, &[]));
        assert!(!is_part(&INBOUND, 1, 3, &part));
        assert!(!is_part(&INBOUND, 2, 5, &part));
        assert!(!is_part(&INBOUND, 2, 4, &[Check::PortRule, Check::Outside]));
        assert!(!is_part(&INBOUND, 9, 11, &part));
    }

    /// The rows of the table below a heading: the code spans of each.
    fn rows(heading: &str) -> Vec<Vec<&'static str>> {
        let (_, below) = ARCHITECTURE.split_once(heading).expect("the heading is there");
        let lines = below.lines().skip_while(|line| !line.starts_with('|'));
        let table = lines.take_while(|line| line.starts_with('|')).skip(2);
        table.map(|row| row.split('`').skip(1).step_by(2).collect()).collect()
    }

    #[test]
    fn the_documentation_has_the_checks_in_this_order() {
        for (heading, table) in
            [("#### Outbound checks\n", &OUTBOUND[..]), ("#### Inbound checks\n", &INBOUND[..])]
        {
            let code = table.iter().map(|check| {
                let reasons = check.reasons().iter().map(|reason| reason.name());
                [check.question()].into_iter().chain(reasons).collect::<Vec<_>>()
            });
            let code: Vec<_> = code.collect();
            let said: String = code.iter().map(|row| format!("{row:?}\n")).collect();
            assert_eq!(rows(heading), code, "{heading}the code has:\n{said}");
        }
    }
}

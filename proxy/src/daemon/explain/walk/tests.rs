//! The walk against the predicates that the hooks call, and against the order of the table.

use std::time::Duration;

use weir_common::decision::{self, INBOUND, OUTBOUND};

use super::*;
use crate::{capture::words, config::Fail};

/// A destination that nothing keeps from being captured.
fn open() -> Facts {
    Facts {
        flags: Some(flags::CAPTURE_INBOUND | flags::CAPTURE_LOOPBACK | flags::ROUTES_COMPLETE),
        wants_inbound: true,
        rule: (PortState::Detect, Source::Default, false),
        skipped: false,
        bypassed: None,
        route: Some((true, None)),
        listened: true,
        failed: None,
        phase: "capturing",
        wait: None,
        fail: Fail::Open,
        leads_back: false,
        balanced: false,
        untapped: None,
        raw: false,
    }
}

fn walked(facts: &Facts, to: &str, direction: Direction) -> Walked {
    let address = SocketAddr::new(to.parse().unwrap(), 80);
    walk(decision::checks(direction), facts, address, direction)
}

/// Every class of addresses, and what the predicates that the hooks call say of it.
#[test]
fn address_classes_are_as_the_hooks_have_them() {
    for to in [
        "192.0.2.1",
        "::ffff:192.0.2.1",
        "169.254.1.1",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "127.0.0.1",
        "127.64.1.2",
        "2001:db8::1",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "::1",
    ] {
        let class = AddressClass::of(&words(to.parse().unwrap()));
        let outbound = walked(&open(), to, Direction::Outbound).verdict;
        let expected = class.refused().unwrap_or(Reason::Redirected);
        assert_eq!(outbound.reason, Some(expected), "{to}: {outbound:?}");
        // What the kernel discards comes to no hook.
        let inbound = walked(&open(), to, Direction::Inbound).verdict;
        let expected = match class {
            AddressClass::Multicast | AddressClass::Broadcast => None,
            AddressClass::Loopback => Some(Reason::FromInside),
            AddressClass::Unicast | AddressClass::LinkLocal => Some(Reason::Redirected),
        };
        assert_eq!(inbound.reason, expected, "{to}: {inbound:?}");
        // With loopback left alone.
        let facts = Facts { flags: Some(0), ..open() };
        let outbound = walked(&facts, to, Direction::Outbound).verdict;
        assert_eq!(outbound.reason == Some(Reason::Loopback), class.is_loopback(), "{to}");
    }
}

/// A change of the facts that makes a check fail, where that does not depend on the socket.
fn breaking(check: Check, direction: Direction, facts: &mut Facts) -> Option<&'static str> {
    let flags = facts.flags.get_or_insert(0);
    let in_direction = |outbound, inbound| match direction {
        Direction::Outbound => outbound,
        Direction::Inbound => inbound,
    };
    let mut to = "192.0.2.1";
    match check {
        Check::Configured => facts.flags = None,
        Check::Captured => *flags &= !flags::CAPTURE_INBOUND,
        Check::Loopback => {
            *flags &= !flags::CAPTURE_LOOPBACK;
            to = "127.0.0.1";
        }
        Check::Outside => to = "127.0.0.1",
        Check::PortRule => facts.rule.0 = PortState::Skip,
        Check::SkippedPrefix => facts.skipped = true,
        Check::IncludeList => {
            *flags |= in_direction(flags::INCLUDE_OUTBOUND, flags::INCLUDE_INBOUND);
        }
        Check::Learned => facts.bypassed = Some(Duration::from_secs(1)),
        Check::Proxied => *flags |= flags::TAP,
        Check::Filter => {
            *flags |= in_direction(flags::OUTBOUND_FILTERED, flags::INBOUND_FILTERED);
        }
        Check::Address => to = "224.0.0.1",
        Check::Route => facts.route = Some((false, None)),
        Check::Listened => {
            facts.listened = false;
            facts.route = Some((true, Some("192.0.2.1".parse().unwrap())));
        }
        Check::Failure => facts.failed = Some(Duration::from_secs(1)),
        Check::Listener => facts.phase = "draining",
        Check::OwnListener => facts.leads_back = true,
        Check::Tcp
        | Check::Namespace
        | Check::OwnTraffic
        | Check::Socket
        | Check::Heartbeat
        | Check::Share => return None,
    }
    Some(to)
}

/// Of two checks that fail, the one that the table has first decides, with a reason of its own.
#[test]
fn the_first_check_of_the_table_that_fails_decides() {
    for (direction, table) in
        [(Direction::Outbound, &OUTBOUND[..]), (Direction::Inbound, &INBOUND[..])]
    {
        for (at, first) in table.iter().enumerate() {
            for later in &table[at..] {
                let mut facts = open();
                breaking(*later, direction, &mut facts);
                // Last: the address is the first one's.
                let Some(to) = breaking(*first, direction, &mut facts) else { continue };
                let Walked { steps, verdict } = walked(&facts, to, direction);
                let (last, passed) = steps.split_last().expect("there is a step");
                assert_eq!(last.test, first.question(), "{direction:?}: {first:?}, {later:?}");
                assert!(last.decisive && passed.iter().all(|step| !step.decisive));
                match verdict.reason {
                    Some(reason) => assert!(first.reasons().contains(&reason), "{first:?}"),
                    None => assert!(first.reasons().is_empty(), "{first:?}"),
                }
            }
        }
    }
}

#[test]
fn what_passes_every_check_is_redirected() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        let verdict = walked(&open(), "192.0.2.1", direction).verdict;
        assert_eq!((verdict.name, verdict.reason), ("detect", Some(Reason::Redirected)));
        let facts = Facts { rule: (PortState::Opaque, Source::Cli, false), ..open() };
        let verdict = walked(&facts, "192.0.2.1", direction).verdict;
        assert_eq!((verdict.name, verdict.source), ("opaque", Source::Cli));
        let verdict = walked(&Facts { raw: true, ..open() }, "192.0.2.1", direction).verdict;
        assert_eq!((verdict.name, verdict.source), ("opaque", Source::Learned));
    }
}

#[test]
fn without_a_proxy_the_workload_s_policy_decides() {
    for (fail, name, reason) in
        [(Fail::Open, "skip", Reason::NoListener), (Fail::Closed, "refuse", Reason::FailClosed)]
    {
        let facts = Facts { phase: "draining", fail, ..open() };
        let verdict = walked(&facts, "192.0.2.1", Direction::Outbound).verdict;
        assert_eq!((verdict.name, verdict.reason), (name, Some(reason)));
    }
}

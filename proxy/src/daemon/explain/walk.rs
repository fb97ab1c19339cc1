//! Goes through a table of checks with what is known, up to the check that decides. Pure.

use std::net::SocketAddr;

use weir_common::{AddressClass, Check, Reason, flags};

use super::facts::Facts;
use crate::{
    admin::protocol::Step,
    capture::address_class,
    config::Fail,
    decision::{Direction, PortState, Source, source_name, state_name},
};

/// The steps up to the decision.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) steps: Vec<Step>,
    pub(super) verdict: Verdict,
}

/// What a connection gets.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) name: &'static str,
    pub(super) source: Source,
    pub(super) why: String,
    /// As which the hook counts it; `None` where no hook runs.
    pub(super) reason: Option<Reason>,
}

/// What a check says.
enum Finding {
    /// Nothing: it depends on the socket, or does not apply.
    Nothing,
    /// The connection passes, for this reason.
    Passes(String),
    /// It does not.
    Fails(String, Verdict),
}

/// Makes the checks of `table` in order.
pub(super) fn walk(
    table: &[Check],
    facts: &Facts,
    address: SocketAddr,
    direction: Direction,
) -> Walked {
    let mut steps = Vec::new();
    let mut add = |test: &str, result: String, decisive: bool| {
        steps.push(Step { test: test.to_owned(), result, decisive });
    };
    if direction == Direction::Inbound
        && let Some(why) = never_comes(address)
    {
        add(Check::Address.question(), "no".to_owned(), true);
        let verdict = Verdict { reason: None, ..skip(Reason::NoRoute, Source::Default, why) };
        return Walked { steps, verdict };
    }
    for check in table {
        match finding(*check, facts, address, direction) {
            Finding::Nothing => {}
            Finding::Passes(result) => add(check.question(), result, false),
            Finding::Fails(result, verdict) => {
                add(check.question(), result, true);
                return Walked { steps, verdict };
            }
        }
    }
    let (result, verdict) = captured(facts, address);
    add("opaque?", result, true);
    Walked { steps, verdict }
}

/// What one check says.
fn finding(check: Check, facts: &Facts, address: SocketAddr, direction: Direction) -> Finding {
    use Finding::{Fails, Nothing, Passes};
    let (ip, port) = (address.ip(), address.port());
    let (state, source, included) = facts.rule;
    match check {
        // What depends on the socket, and what holds while weir answers.
        Check::Tcp
        | Check::Namespace
        | Check::OwnTraffic
        | Check::Socket
        | Check::Heartbeat
        | Check::Share => Nothing,
        Check::Configured if facts.flags.is_some() => Nothing,
        Check::Configured => fails(
            "no",
            skip(Reason::Unconfigured, Source::Default, "the workload has no configuration"),
        ),
        Check::Captured => captures_inbound(facts),
        Check::Loopback
            if address_class(ip).is_loopback() && !facts.has(flags::CAPTURE_LOOPBACK) =>
        {
            let why = "loopback destinations are not captured";
            fails("no: --capture-loopback is off", skip(Reason::Loopback, Source::Config, why))
        }
        Check::Loopback => Nothing,
        Check::Outside if address_class(ip).is_loopback() => {
            let why = "connections to loopback come from inside the namespace";
            fails("no", skip(Reason::FromInside, Source::Default, why))
        }
        Check::Outside => Nothing,
        Check::PortRule => {
            let rule = rule(port, state, source);
            if state == PortState::Skip {
                Fails(format!("yes: {rule}"), skip(Reason::SkipPort, source, rule))
            } else {
                Passes(format!("no: {rule}"))
            }
        }
        Check::SkippedPrefix if facts.skipped => {
            let why = format!("{ip} is in a prefix of --skip-cidrs");
            Fails(format!("yes: {why}"), skip(Reason::SkipCidr, Source::Config, why))
        }
        Check::SkippedPrefix => Passes("no".to_owned()),
        Check::IncludeList => {
            let list = match direction {
                Direction::Outbound => flags::INCLUDE_OUTBOUND,
                Direction::Inbound => flags::INCLUDE_INBOUND,
            };
            if !facts.has(list) {
                Nothing
            } else if included {
                Passes("yes".to_owned())
            } else {
                let why = format!("port {port} is not on the include list");
                Fails(format!("no: {why}"), skip(Reason::NotIncluded, Source::Config, why))
            }
        }
        Check::Learned => facts.bypassed.map_or(Nothing, |left| {
            let why = format!("learned to be raw TCP: bypassed for {} s more", left.as_secs());
            Fails(format!("yes: {why}"), skip(Reason::Learned, Source::Learned, why))
        }),
        Check::Proxied => tapped(facts),
        Check::Filter => {
            let flag = match direction {
                Direction::Outbound => flags::OUTBOUND_FILTERED,
                Direction::Inbound => flags::INBOUND_FILTERED,
            };
            if facts.has(flag) {
                let why = "a foreign program filters the packets of the workload's cgroup";
                fails("yes", skip(Reason::Filtered, Source::Default, why))
            } else {
                Nothing
            }
        }
        Check::Address => refused(address_class(ip)),
        Check::Route => routed(facts),
        Check::Listened => listened(facts, address, direction),
        Check::Failure => facts.failed.map_or(Nothing, |left| {
            let why = format!(
                "a recent connection attempt failed: for {:.1} s more connections go direct",
                left.as_secs_f32()
            );
            Fails("no".to_owned(), skip(Reason::FailedBefore, Source::Learned, why))
        }),
        Check::Listener => proxied(facts),
        Check::OwnListener if facts.leads_back => {
            let why = "the address is weir's own listener";
            fails("yes", skip(Reason::OwnListener, Source::Default, why))
        }
        Check::OwnListener => Nothing,
    }
}

// === helpers ===

fn skip(reason: Reason, source: Source, why: impl Into<String>) -> Verdict {
    Verdict { name: "skip", source, why: why.into(), reason: Some(reason) }
}

fn fails(result: &str, verdict: Verdict) -> Finding {
    Finding::Fails(result.to_owned(), verdict)
}

fn rule(port: u16, state: PortState, source: Source) -> String {
    format!("port {port} is {} ({})", state_name(state), source_name(source))
}

/// Why no connection to an address comes from outside: `tcp_v4_rcv` and `tcp_v6_rcv` discard what was not
/// sent to one host, before any hook.
fn never_comes(address: SocketAddr) -> Option<&'static str> {
    match address_class(address.ip()) {
        AddressClass::Multicast => Some("TCP has no multicast: the kernel discards it"),
        AddressClass::Broadcast => Some("TCP has no broadcast: the kernel discards it"),
        AddressClass::Unicast | AddressClass::Loopback | AddressClass::LinkLocal => None,
    }
}

fn captures_inbound(facts: &Facts) -> Finding {
    if facts.has(flags::CAPTURE_INBOUND) {
        return Finding::Passes("yes, from outside the namespace".to_owned());
    }
    let result = if facts.wants_inbound {
        "no: weir could capture its own connections to the workload"
    } else {
        "no: started with --no-capture-inbound"
    };
    let verdict = skip(Reason::Unconfigured, Source::Config, "inbound is not captured");
    fails(result, Verdict { reason: None, ..verdict })
}

/// Whether the tap sees it, and the proxy does not.
fn tapped(facts: &Facts) -> Finding {
    match (facts.has(flags::TAP), facts.balanced, &facts.untapped) {
        (true, false, _) => {
            let why =
                "engine tap: the connection goes direct, and its bytes are followed in the kernel";
            let verdict = skip(Reason::Tapped, Source::Config, why);
            fails("yes: the engine is tap", Verdict { name: "tap", ..verdict })
        }
        (true, true, _) => {
            Finding::Passes("no: weir chooses the endpoints of a service".to_owned())
        }
        (false, _, Some(why)) => Finding::Passes(format!("no: {why}")),
        (false, _, None) => Finding::Nothing,
    }
}

fn refused(class: AddressClass) -> Finding {
    let Some(reason) = class.refused() else { return Finding::Nothing };
    let why = match class {
        AddressClass::Multicast => "TCP has no multicast: the kernel refuses it",
        AddressClass::Broadcast => "TCP has no broadcast: the kernel refuses it",
        AddressClass::LinkLocal | AddressClass::Unicast | AddressClass::Loopback => {
            "link-local addresses are not captured: they need an interface"
        }
    };
    fails("no", skip(reason, Source::Default, why))
}

fn routed(facts: &Facts) -> Finding {
    match facts.route {
        None => Finding::Passes("unknown: the routing rules cannot be mirrored".to_owned()),
        Some((true, source)) => Finding::Passes(
            source.map_or_else(|| "yes".to_owned(), |source| format!("yes: from {source}")),
        ),
        Some((false, _)) => {
            let why = "no route: the application gets the kernel's own error";
            fails("no: the kernel has no route", skip(Reason::NoRoute, Source::Default, why))
        }
    }
}

fn listened(facts: &Facts, address: SocketAddr, direction: Direction) -> Finding {
    if direction == Direction::Outbound && !facts.is_local(address.ip()) {
        return Finding::Nothing;
    }
    if facts.listened {
        return Finding::Passes("yes".to_owned());
    }
    let (result, why) = match direction {
        Direction::Outbound => (
            "no: the address is local",
            "no socket listens on the local address: the kernel refuses it",
        ),
        Direction::Inbound => (
            "no: the kernel answers until the workload listens",
            "the workload does not listen there: the kernel answers",
        ),
    };
    fails(result, skip(Reason::NotListening, Source::Default, why))
}

/// Whether the proxy is there.
fn proxied(facts: &Facts) -> Finding {
    let phase = facts.phase;
    if phase == "capturing" {
        return Finding::Passes("yes".to_owned());
    }
    let (name, reason) = match facts.fail {
        Fail::Open => ("skip", Reason::NoListener),
        Fail::Closed => ("refuse", Reason::FailClosed),
    };
    let result = facts.wait.as_ref().map_or_else(
        || format!("no: weir is {phase}"),
        |why| format!("no: weir is {phase}: {why}"),
    );
    let verdict = skip(reason, Source::Default, "no proxy is listening");
    Finding::Fails(result, Verdict { name, ..verdict })
}

/// What a connection gets that has passed all checks.
fn captured(facts: &Facts, address: SocketAddr) -> (String, Verdict) {
    let (state, source, _) = facts.rule;
    let rule = rule(address.port(), state, source);
    let (name, source, why) = if state == PortState::Opaque {
        ("opaque", source, rule)
    } else if facts.raw {
        ("opaque", Source::Learned, "the last connections were raw TCP".to_owned())
    } else {
        ("detect", source, format!("{rule}: the first bytes decide"))
    };
    let result = match name {
        "opaque" => format!("yes: {why}"),
        _ => "no: proxied with protocol detection".to_owned(),
    };
    (result, Verdict { name, source, why, reason: Some(Reason::Redirected) })
}

#[cfg(test)]
mod tests;

//! Goes through the connect hook's tests for one address, with the same maps and in the same order
//! (`proxy-ebpf/src/connect.rs`), and says which one decides.

use std::{net::SocketAddr, time::Instant};

use weir_common::AddressClass;

use crate::{
    admin::protocol::{Explanation, Seen, Step},
    capture::{CaptureError, address_class},
    config::Fail,
    decision::{Direction, PortState, Source, source_name, state_name},
    telemetry::stats::StatsSnapshot,
    workload::Workload,
    workloads::WaitingWorkload,
};

/// The steps so far, and the decision once there is one.
struct Trail {
    steps: Vec<Step>,
    verdict: Option<(&'static str, Source, String)>,
}

/// What a connection to `address` would get.
pub(super) fn explain(
    workload: &Workload,
    stats: &StatsSnapshot,
    address: SocketAddr,
    direction: Direction,
) -> Result<Explanation, CaptureError> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let mut trail = Trail { steps: Vec::new(), verdict: None };
    match direction {
        Direction::Outbound => outbound(workload, address, &mut trail)?,
        Direction::Inbound => inbound(workload, address, &mut trail)?,
    }
    let (verdict, source, why) = trail.verdict.unwrap_or_else(|| {
        ("detect", Source::Default, "no rule matches: the first bytes decide".to_owned())
    });
    Ok(Explanation {
        address,
        direction,
        verdict: verdict.to_owned(),
        source,
        why,
        steps: trail.steps,
        seen: seen(stats, workload.name(), address, direction),
    })
}

/// What a connection gets of a workload that is wanted and not captured now.
pub(super) fn waiting(
    workload: &WaitingWorkload,
    address: SocketAddr,
    direction: Direction,
) -> Explanation {
    let mut trail = Trail { steps: Vec::new(), verdict: None };
    let why = format!("weir waits to capture the workload: {}", workload.wait.why);
    trail.decide("captured?", "no".to_owned(), ("skip", Source::Default, why.clone()));
    Explanation {
        address: SocketAddr::new(address.ip().to_canonical(), address.port()),
        direction,
        verdict: "skip".to_owned(),
        source: Source::Default,
        why,
        steps: trail.steps,
        seen: Vec::new(),
    }
}

fn outbound(
    workload: &Workload,
    address: SocketAddr,
    trail: &mut Trail,
) -> Result<(), CaptureError> {
    let kernel = workload.kernel();
    let (ip, port) = (address.ip(), address.port());
    if ip.is_loopback() && !workload.settings().outbound.capture_loopback {
        trail.decide(
            "loopback wanted?",
            "no: --capture-loopback is off".to_owned(),
            ("skip", Source::Config, "loopback destinations are not captured".to_owned()),
        );
        return Ok(());
    }
    let (state, source, included) = kernel.port(Direction::Outbound, port)?;
    let rule = format!("port {port} is {} ({})", state_name(state), source_name(source));
    if state == PortState::Skip {
        trail.decide("port skipped?", format!("yes: {rule}"), ("skip", source, rule));
        return Ok(());
    }
    trail.pass("port skipped?", format!("no: {rule}"));
    if kernel.is_skipped_prefix(ip)? {
        let why = format!("{ip} is in a prefix of --skip-cidrs");
        trail.decide("address skipped?", format!("yes: {why}"), ("skip", Source::Config, why));
        return Ok(());
    }
    trail.pass("address skipped?", "no".to_owned());
    if workload.policy().has_include_list(Direction::Outbound) {
        if !included {
            let why = format!("port {port} is not on the include list");
            trail.decide("port included?", format!("no: {why}"), ("skip", Source::Config, why));
            return Ok(());
        }
        trail.pass("port included?", "yes".to_owned());
    }
    if bypassed(workload, Direction::Outbound, address, trail)? || reach(workload, address, trail)?
    {
        return Ok(());
    }
    if workload.own().leads_back(address) {
        trail.decide(
            "weir's own listener?",
            "yes".to_owned(),
            ("skip", Source::Default, "the address is weir's own listener".to_owned()),
        );
        return Ok(());
    }
    opaque_or_detect(workload, address, Direction::Outbound, (state, source, rule), trail);
    Ok(())
}

/// As `proxy-ebpf/src/inbound.rs` decides about a connection from outside.
fn inbound(
    workload: &Workload,
    address: SocketAddr,
    trail: &mut Trail,
) -> Result<(), CaptureError> {
    let kernel = workload.kernel();
    let port = address.port();
    if !workload.settings().inbound.capture {
        trail.decide(
            "inbound captured?",
            "no: started with --no-capture-inbound".to_owned(),
            ("skip", Source::Config, "inbound is not captured".to_owned()),
        );
        return Ok(());
    }
    trail.pass("inbound captured?", "yes, from outside the namespace".to_owned());
    let (state, source, included) = kernel.port(Direction::Inbound, port)?;
    let rule = format!("port {port} is {} ({})", state_name(state), source_name(source));
    if state == PortState::Skip {
        trail.decide("port skipped?", format!("yes: {rule}"), ("skip", source, rule));
        return Ok(());
    }
    trail.pass("port skipped?", format!("no: {rule}"));
    if workload.policy().has_include_list(Direction::Inbound) {
        if !included {
            let why = format!("port {port} is not on the include list");
            trail.decide("port included?", format!("no: {why}"), ("skip", Source::Config, why));
            return Ok(());
        }
        trail.pass("port included?", "yes".to_owned());
    }
    if bypassed(workload, Direction::Inbound, address, trail)? {
        return Ok(());
    }
    let listened = if kernel.listens_on(address)? {
        "yes"
    } else {
        "no: the kernel answers until the workload listens"
    };
    trail.pass("listened on?", listened.to_owned());
    if listening(workload, trail) {
        return Ok(());
    }
    opaque_or_detect(workload, address, Direction::Inbound, (state, source, rule), trail);
    Ok(())
}

/// Scope, routes and the state of the proxy; true where that decided.
fn reach(
    workload: &Workload,
    address: SocketAddr,
    trail: &mut Trail,
) -> Result<bool, CaptureError> {
    let ip = address.ip();
    let refused = match address_class(ip) {
        AddressClass::Unicast | AddressClass::Loopback => None,
        AddressClass::LinkLocal => Some(
            "link-local addresses are not captured: they need an \
                                         interface",
        ),
        AddressClass::Multicast => Some("TCP has no multicast: the kernel refuses it"),
        AddressClass::Broadcast => Some("TCP has no broadcast: the kernel refuses it"),
    };
    if let Some(why) = refused {
        let verdict = ("skip", Source::Default, why.to_owned());
        trail.decide("unicast, global?", "no".to_owned(), verdict);
        return Ok(true);
    }
    match workload.kernel().route(ip)? {
        None => {
            trail.pass("reachable?", "unknown: the routing rules cannot be mirrored".to_owned());
        }
        Some((true, source)) => {
            trail.pass(
                "reachable?",
                source.map_or_else(|| "yes".to_owned(), |source| format!("yes: from {source}")),
            );
            if source == Some(ip) || ip.is_loopback() {
                let what = "the address is local: without a listener the kernel refuses it";
                trail.pass("listened on?", what.to_owned());
            }
        }
        Some((false, _)) => {
            trail.decide(
                "reachable?",
                "no: the kernel has no route".to_owned(),
                (
                    "skip",
                    Source::Default,
                    "no route: the application gets the kernel's own error".to_owned(),
                ),
            );
            return Ok(true);
        }
    }
    if let Some(left) = workload.kernel().let_fail_for(address)? {
        let why = format!(
            "a recent connection attempt failed: for {:.1} s more connections go direct",
            left.as_secs_f32()
        );
        trail.decide("reached before?", "no".to_owned(), ("skip", Source::Learned, why));
        return Ok(true);
    }
    Ok(listening(workload, trail))
}

/// Whether the proxy is there; true where it is not, which decides.
fn listening(workload: &Workload, trail: &mut Trail) -> bool {
    let phase = workload.phase();
    if phase == "capturing" {
        trail.pass("proxy listening?", "yes".to_owned());
        return false;
    }
    let verdict = match workload.settings().workload.fail {
        Fail::Open => "skip",
        Fail::Closed => "refuse",
    };
    trail.decide(
        "proxy listening?",
        workload.wait().map_or_else(
            || format!("no: weir is {phase}"),
            |wait| format!("no: weir is {phase}: {}", wait.why),
        ),
        (verdict, Source::Default, "no proxy is listening".to_owned()),
    );
    true
}

/// What a port that is not skipped gets.
fn opaque_or_detect(
    workload: &Workload,
    address: SocketAddr,
    direction: Direction,
    (state, source, rule): (PortState, Source, String),
    trail: &mut Trail,
) {
    if state == PortState::Opaque {
        trail.decide("opaque?", format!("yes: {rule}"), ("opaque", source, rule));
        return;
    }
    if workload.learning().known(direction, address, Instant::now()) {
        let why = "the last connections were raw TCP".to_owned();
        trail.decide("opaque?", format!("yes: {why}"), ("opaque", Source::Learned, why));
        return;
    }
    trail.verdict = Some(("detect", source, format!("{rule}: the first bytes decide")));
    trail.steps.push(Step {
        test: "opaque?".to_owned(),
        result: "no: proxied with protocol detection".to_owned(),
        decisive: true,
    });
}

/// Whether the destination was learned and is bypassed, which decides.
fn bypassed(
    workload: &Workload,
    direction: Direction,
    address: SocketAddr,
    trail: &mut Trail,
) -> Result<bool, CaptureError> {
    let Some(left) = workload.kernel().bypass_for(direction, address)? else { return Ok(false) };
    let why = format!("learned to be raw TCP: bypassed for {} s more", left.as_secs());
    trail.decide("learned?", format!("yes: {why}"), ("skip", Source::Learned, why));
    Ok(true)
}

fn seen(
    stats: &StatsSnapshot,
    workload: &str,
    address: SocketAddr,
    direction: Direction,
) -> Vec<Seen> {
    stats
        .rows
        .iter()
        .filter(|row| &*row.workload == workload)
        .filter(|row| row.destination == Some(address) && row.direction == direction)
        .map(|row| Seen {
            treatment: row.treatment,
            source: row.source,
            reason: row.reason.clone(),
            why: row.why.clone(),
            connections: row.connections,
        })
        .collect()
}

// === impl Trail ===

impl Trail {
    fn pass(&mut self, test: &str, result: String) {
        self.steps.push(Step { test: test.to_owned(), result, decisive: false });
    }

    fn decide(&mut self, test: &str, result: String, verdict: (&'static str, Source, String)) {
        self.steps.push(Step { test: test.to_owned(), result, decisive: true });
        self.verdict = Some(verdict);
    }
}

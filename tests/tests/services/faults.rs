//! Requests that fail or wait on purpose, and those of one client that stay together: from a file of the
//! configuration, and from annotations of a route.

use anyhow::{Result, ensure};
use weir_tests::{Lab, metrics::Metrics, process::wait_until, site::PATIENCE};

use super::{
    place::PORT,
    routes::{Door, Place},
    table::{ONE, RuleText},
};

/// A service with two servers.
const PAIR: &[(&str, u32)] = &[("pair", 1)];

/// A rule for all requests, and what a route's annotations say of it: the same in both.
fn place(door: Door, rule: RuleText, annotations: &str) -> Result<Place> {
    let flags = |lab: &Lab| -> Result<Vec<String>> {
        let flags = door.flags(lab, &[rule])?;
        if matches!(door, Door::Objects) {
            let file = lab.dir().join("routes/route.yaml");
            let text = std::fs::read_to_string(&file)?;
            let annotated = format!("metadata: {{name: all, annotations: {{{annotations}}}}}");
            let text = text.replace("metadata: {name: all}", &annotated);
            ensure!(text.contains(annotations), "{text}");
            std::fs::write(&file, text)?;
        }
        Ok(flags)
    };
    Place::with(flags, "echo_named.py")
}

fn count(place: &Place, outcome: &str) -> Result<f64> {
    let metrics = Metrics::scrape(&place.lab.client)?;
    let outcome = format!("outcome=\"{outcome}\"");
    Ok(metrics.sum("weir_route_requests_total", &["kind=\"HTTPRoute\"", "rule=\"0\"", &outcome]))
}

#[test]
fn a_part_of_the_requests_fails_and_all_wait() -> Result<()> {
    for door in Door::ALL {
        let rule = RuleText {
            matches: &["path=/"],
            toml: "fault = { abort = { status = 503, percent = 30 }, delay = { time = \"1ms\", percent = 100 } }",
            yaml: "",
            backends: ONE,
        };
        let place = place(door, rule, "config.weir.dev/fault: '30%=503, 100%=delay 1ms'")?;
        let (answers, connections) = place.answers(&["GET /"; 100])?;
        let aborted = answers.iter().filter(|it| it.is("response x-weir-error=fault")).count();
        let served = answers.iter().filter(|it| it.status == 200 && it.server() == "echo-v1");
        ensure!((29..=31).contains(&aborted), "{door:?}: {aborted}");
        ensure!(served.count() + aborted == 100 && connections == 1, "{door:?}: {answers:?}");
        let records = place.records(100)?;
        let ends = |it: &&weir_tests::record::Record| it.text("weir_error") == "fault";
        ensure!(records.requests_to(PORT).iter().filter(|it| ends(it)).count() == aborted);
        let is = |outcome: &str, expected: usize| -> Result<()> {
            let counted = count(&place, outcome)?;
            ensure!((counted - expected as f64).abs() < 0.5, "{outcome}: {counted} != {expected}");
            Ok(())
        };
        is("aborted", aborted)?;
        is("forwarded", 100 - aborted)?;
        is("delayed", 100 - aborted)?;
        let said = place.daemon.ask(&["routes"])?.ok()?.stdout;
        let line = "    faults: 30% answered with 503, 100% delayed by 1.00ms\n";
        ensure!(said.contains(line), "{said}");
    }
    Ok(())
}

/// What waits has not been sent: its time is up before.
#[test]
fn a_request_waits_before_it_is_sent() -> Result<()> {
    for door in Door::ALL {
        let rule = RuleText {
            matches: &["path=/"],
            toml: "timeouts = { request = \"500ms\" }\nfault = { delay = { time = \"1h\", percent = 100 } }",
            yaml: "timeouts: {request: 500ms}",
            backends: ONE,
        };
        let place = place(door, rule, "config.weir.dev/fault: 100%=delay 1h")?;
        let (answers, connections) = place.answers(&["GET /", "POST /"])?;
        let late = answers.iter().filter(|it| it.is("response x-weir-error=timeout")).count();
        ensure!(late == 2 && answers[0].status == 504 && connections == 1, "{door:?}: {answers:?}");
        let records = place.records(2)?;
        let first = records.requests_to(PORT)[0];
        let of = |field: &str| first.text(field);
        ensure!(of("end") == "answered" && of("weir_error") == "timeout", "{first:?}");
    }
    Ok(())
}

#[test]
fn requests_of_one_client_go_to_one_endpoint() -> Result<()> {
    for door in Door::ALL {
        let rule = RuleText {
            matches: &["path=/"],
            toml: "affinity = { header = \"x-user\" }",
            yaml: "",
            backends: PAIR,
        };
        let place = place(door, rule, "config.weir.dev/affinity: header=x-user")?;
        let requests: Vec<_> =
            (0..90).map(|at| format!("GET / X-User: user-{}", at % 30)).collect();
        let requests: Vec<_> = requests.iter().map(String::as_str).collect();
        let (answers, _) = place.answers(&requests)?;
        let servers: Vec<_> = answers.iter().map(|it| it.server().to_owned()).collect();
        ensure!(servers[..30] == servers[30..60] && servers[..30] == servers[60..], "{servers:?}");
        for server in ["echo-v1", "echo-v2"] {
            ensure!(servers.iter().any(|it| it == server), "{door:?} {server}: {servers:?}");
        }
        // Without the field they are balanced as others: which of them goes where, latency decides.
        place.answers(&["GET /"; 20])?;
        wait_until("the choices", PATIENCE, || {
            let metrics = Metrics::scrape(&place.lab.client)?;
            let chosen = metrics.sum("weir_balancer_choices_total", &["reason=\"affinity\""]);
            Ok((89.5..90.5).contains(&chosen))
        })?;
        let said = place.daemon.ask(&["routes"])?.ok()?.stdout;
        ensure!(said.contains("    one endpoint for each: header x-user\n"), "{said}");
    }
    Ok(())
}

//! Requests that a route has sent once more, what that may cost, and how many requests may pass: the behaviours that the Gateway API's
//! conformance asks for, from a file of the configuration and from a directory of objects.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_tests::{Lab, metrics::Metrics};

use super::{
    place::{PORT, VIP},
    routes::{Door, Place},
    table::RuleText,
};

/// A service with two servers.
const PAIR: &[(&str, u32)] = &[("pair", 1)];

/// Retries are ten a second at least: no test of one server asks for more of them.
const RULES: &[RuleText] = &[
    RuleText {
        matches: &["path=/retry"],
        toml: "retry = { codes = \"500, 502-504\", attempts = 2, backoff = \"1ms\" }",
        yaml: "retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}",
        backends: PAIR,
    },
    RuleText {
        matches: &["path=/retry/late"],
        toml: "timeouts = { request = \"1h\", backend = \"500ms\" }\nretry = { attempts = 3, backoff = \"1ms\" }",
        yaml: "timeouts: {request: 1h, backendRequest: 500ms}\n    retry: {attempts: 3, backoff: 1ms}",
        backends: PAIR,
    },
    RuleText {
        matches: &["path=/retry/short"],
        toml: "timeouts = { request = \"700ms\", backend = \"500ms\" }\nretry = { attempts = 3, backoff = \"1m\" }",
        yaml: "timeouts: {request: 700ms, backendRequest: 500ms}\n    retry: {attempts: 3, backoff: 1m}",
        backends: PAIR,
    },
    RuleText {
        matches: &["path=/storm"],
        toml: "retry = { codes = \"503\", attempts = 3, backoff = \"1ms\" }",
        yaml: "retry: {codes: [503], attempts: 3, backoff: 1ms}",
        backends: PAIR,
    },
];

fn retries(metrics: &Metrics, outcomes: &[&str]) -> f64 {
    let of = |outcome: &&str| {
        let outcome = format!("outcome=\"{outcome}\"");
        metrics.sum("weir_retries_total", &["level=\"3\"", &outcome])
    };
    outcomes.iter().map(of).sum()
}

#[test]
fn failures_are_asked_for_again_at_another_server() -> Result<()> {
    for door in Door::ALL {
        let place = Place::new(door, RULES)?;
        let good = [
            "GET /retry?fail=echo-v1",
            "GET /retry?fail=echo-v2",
            "GET /retry?close=echo-v1",
            "GET /retry?close=echo-v2",
            "GET /retry/late?hang=echo-v1",
            "GET /retry/late?hang=echo-v2",
        ];
        let (answers, _) = place.answers(&good)?;
        for (request, answer) in good.iter().zip(&answers) {
            let other = if request.ends_with('1') { "echo-v2" } else { "echo-v1" };
            ensure!(
                answer.status == 200 && answer.server() == other,
                "{door:?} {request}: {answer:?}"
            );
        }
        let (answers, _) = place.answers(&[
            // Nothing helps; this is not to be done twice; and there is no time for more.
            "GET /retry?status=503",
            "POST /retry?status=503",
            "GET /retry?status=501",
            "GET /retry/short?delay=3600",
        ])?;
        let statuses: Vec<_> = answers.iter().map(|it| it.status).collect();
        ensure!(statuses == [503, 503, 501, 504], "{door:?}: {answers:?}");
        let records = place.records(10)?;
        let requests = records.requests_to(PORT);
        let attempts: Vec<_> =
            requests[6..].iter().map(|it| it.number("attempts").max(1)).collect();
        ensure!(attempts == [3, 1, 1, 1], "{door:?}: {attempts:?}");
        let metrics = Metrics::scrape(&place.lab.client)?;
        ensure!(retries(&metrics, &["failure"]) > 1.5, "{}", metrics.text());
        ensure!(retries(&metrics, &["no_time"]) > 0.5, "{}", metrics.text());
        let said = place.daemon.ask(&["routes"])?.ok()?.stdout;
        let line = "    retries: up to 3 after 503, no answer; backoff 1.00ms\n";
        ensure!(said.contains(line), "{said}");
    }
    Ok(())
}

#[test]
fn a_rule_lets_so_many_requests_pass() -> Result<()> {
    // None is due again before the test is over.
    const LIMITED: &[RuleText] = &[RuleText {
        matches: &["path=/limited"],
        toml: "rate_limit = { requests = 1, per = \"1h\", burst = 3 }",
        yaml: "",
        backends: PAIR,
    }];
    let place = Place::new(Door::Config, LIMITED)?;
    let (answers, connections) = place.answers(&["GET /limited"; 5])?;
    let statuses: Vec<_> = answers.iter().map(|it| it.status).collect();
    ensure!(statuses == [200, 200, 200, 429, 429] && connections == 1, "{answers:?}");
    ensure!(answers[4].is("response x-weir-error=rate-limit"), "{answers:?}");
    let said = place.daemon.ask(&["routes"])?.ok()?.stdout;
    ensure!(said.contains("    rate limit: 1 in 3600s, 3 at once\n"), "{said}");
    Ok(())
}

/// All servers fail, and three retries are allowed: a fifth of the requests is sent once more, and ten in each
/// second, however long this takes.
#[test]
fn an_outage_is_not_made_worse_than_the_budget_allows() -> Result<()> {
    const REQUESTS: usize = 500;
    let place = Place::new(Door::Objects, RULES)?;
    let start = Instant::now();
    let (answers, _) = place.answers(&["GET /storm?status=503"; REQUESTS])?;
    // Of the seconds by which the budget counts, so many have begun at most.
    let seconds = start.elapsed().as_secs_f64() + 2.0;
    ensure!(answers.len() == REQUESTS && answers.iter().all(|it| it.status == 503));
    let records = place.records(REQUESTS)?;
    let attempts =
        records.requests_to(PORT).iter().map(|it| it.number("attempts").max(1)).sum::<u64>();
    let metrics = Metrics::scrape(&place.lab.client)?;
    let again = retries(&metrics, &["success", "failure"]);
    ensure!((attempts as f64 - REQUESTS as f64 - again).abs() < 0.5, "{attempts} {again}");
    let most = REQUESTS as f64 * 0.25 + 10.0 * seconds;
    ensure!((90.0..=most).contains(&again), "{again} in {seconds} s");
    // Each request was given up for the budget, or after three retries.
    let given_up = retries(&metrics, &["no_budget"]);
    ensure!(given_up >= REQUESTS as f64 - again / 3.0 - 0.5, "{given_up} {again}");
    Ok(())
}

#[test]
fn calls_are_asked_for_again_and_have_time_limits() -> Result<()> {
    let flags = |lab: &Lab| {
        let mut flags = Door::Config.flags(lab, &[])?;
        let file = lab.dir().join("routes.toml");
        let text = std::fs::read_to_string(&file)?;
        let services = text.split("[[route]]").next().unwrap_or_default();
        let route = "[[route]]\nname = \"calls\"\nparent = \"echo\"\nkind = \"grpc\"\n\
            [[route.rule]]\nmatch = [{ service = \"weir.test.Echo\" }]\nbackends = [{ service = \"pair\" }]\n\
            retry = { codes = \"unavailable\", attempts = 2, backoff = \"1ms\" }\n\
            timeouts = { request = \"1h\", backend = \"500ms\" }\n\
            [[route.rule]]\nbackends = [{ service = \"echo-v1\" }]\ntimeouts = { request = \"500ms\" }\n";
        std::fs::write(&file, format!("{services}{route}"))?;
        flags.truncate(2);
        Ok(flags)
    };
    let place = Place::with(flags, "grpc_routed.py")?;
    let calls = json!([
        ["/weir.test.Echo/One", {"fail": "echo-v1"}],
        ["/weir.test.Echo/One", {"fail": "echo-v2"}],
        ["/weir.test.Echo/One", {"hang": "echo-v1"}],
        ["/weir.test.Echo/One", {"hang": "echo-v2"}],
        ["/weir.test.Echo/One", {"fail": "all"}],
        ["/weir.test.Other/One", {"hang": "echo-v1"}],
    ]);
    let target = format!("{VIP}:{PORT}");
    let said = place.ask(&["grpc_routed.py", "call", &target], &calls)?;
    for (at, name) in ["echo-v2", "echo-v1", "echo-v2", "echo-v1"].into_iter().enumerate() {
        ensure!(said[at][0] == 0 && said[at][1]["name"] == name, "{at}: {said}");
    }
    ensure!(said[4][0] == 14, "{said}");
    ensure!(said[5] == json!([4, "timeout"]), "{said}");
    let records = place.records(6)?;
    let requests = records.requests_to(PORT);
    let of =
        |at: usize, field: &str| requests.get(at).map(|it| it.text(field)).context("no record");
    ensure!(of(4, "attempts")? == "3" && of(4, "grpc_status")? == "14", "{:?}", requests[4]);
    ensure!(of(5, "weir_error")? == "timeout" && of(5, "grpc_status")? == "4", "{:?}", requests[5]);
    Ok(())
}

//! `weir routes`: the routes that a running weir knows, and what of them is in force.

use std::{fmt::Write, time::Duration};

use super::{
    Exit,
    control::ControlArgs,
    output::{OutputArgs, narrate},
    services::sources,
};
use crate::{
    admin::protocol::GetRoutes,
    service::{
        BackendReport, RequestReport, RetryReport, RouteReport, RoutesReport, RuleReport,
        TimeoutsReport,
    },
    units::human_duration,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir routes
  weir routes -o json | jq '.routes[] | select(.problems != [])'

A line that begins with ! is not in force, and says why.")]
pub(super) struct Args {
    #[command(flatten)]
    weir: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let report = args.weir.ask(GetRoutes)?;
    if report.routes.is_empty() {
        narrate("no routes are known");
    }
    args.output.print(&report, text)?;
    Ok(Exit::Success)
}

pub(super) fn text(report: &RoutesReport) -> String {
    report.routes.iter().map(route).collect::<String>() + &sources(&report.sources)
}

/// What `weir explain` says of a request.
pub(super) fn explain(request: &str, report: Option<&RequestReport>) -> String {
    let Some(report) = report else {
        return format!("    request {request}: the destination has no routes\n");
    };
    let mut out = format!("    request {request}: {}\n", report.outcome);
    if let (Some(route), Some(by)) = (&report.route, &report.by) {
        put(&mut out, &format!("      route: {route}, by {by}"));
    }
    let mut of_rule = String::new();
    report.rule.iter().for_each(|it| rule(&mut of_rule, it));
    of_rule.lines().for_each(|line| put(&mut out, &format!("    {line}")));
    out
}

fn route(report: &RouteReport) -> String {
    let RouteReport { kind, route, source, in_force, .. } = report;
    let parents = if in_force.is_empty() { "nothing".to_owned() } else { in_force.join(", ") };
    let clients = if report.consumer { ", for clients of its namespace" } else { "" };
    let mut out = format!("{kind} {route} (from {source}) for {parents}{clients}\n");
    report.problems.iter().for_each(|it| put(&mut out, &format!("  ! {it}")));
    report.notes.iter().for_each(|it| put(&mut out, &format!("  note: {it}")));
    report.rules.iter().for_each(|it| rule(&mut out, it));
    out
}

fn rule(out: &mut String, rule: &RuleReport) {
    put(out, &format!("  rule {}: {}", rule.rule, rule.matches.join(" or ")));
    rule.filters.iter().for_each(|it| put(out, &format!("    {it}")));
    let TimeoutsReport { request, backend, idle } = rule.timeouts;
    let limits = [("request", request), ("backend", backend), ("idle", idle)];
    let limits: Vec<_> = limits
        .into_iter()
        .filter_map(|(name, seconds)| {
            let limit = Duration::try_from_secs_f64(seconds?).unwrap_or(Duration::MAX);
            Some(format!("{name} {}", human_duration(limit)))
        })
        .collect();
    if !limits.is_empty() {
        put(out, &format!("    time limits: {}", limits.join(", ")));
    }
    if let Some(limit) = &rule.rate_limit {
        put(out, &format!("    rate limit: {limit}"));
    }
    if let Some(affinity) = &rule.affinity {
        put(out, &format!("    one endpoint for each: {affinity}"));
    }
    if let Some(fault) = &rule.fault {
        put(out, &format!("    faults: {fault}"));
    }
    if let Some(RetryReport { codes, attempts, backoff }) = &rule.retry {
        let backoff =
            human_duration(Duration::try_from_secs_f64(*backoff).unwrap_or(Duration::MAX));
        let on = [codes.as_slice(), &["no answer".to_owned()]].concat().join(", ");
        put(out, &format!("    retries: up to {attempts} after {on}; backoff {backoff}"));
    }
    for BackendReport { service, port, weight, share, endpoints } in &rule.backends {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let share = share * 100.0;
        let endpoints = match endpoints {
            None => "not known: 500".to_owned(),
            Some(0) => "no endpoints: 503".to_owned(),
            Some(1) => "1 endpoint".to_owned(),
            Some(count) => format!("{count} endpoints"),
        };
        put(out, &format!("    -> {service}{port} weight {weight} ({share:.1}%), {endpoints}"));
    }
}

fn put(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}

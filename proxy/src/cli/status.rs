//! `weir status`: what is running.

use std::fmt::Write;

use super::{Exit, control::ControlArgs, output::OutputArgs};
use crate::{
    admin::protocol::{
        GetKernelCounters, GetStatus, KernelCounters, PodState, SpanExport, Status, WorkloadStatus,
    },
    budget::Figures,
    config::fail_name,
    units::{human_bytes, human_duration},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir status\n  weir status -o json | jq .status.phase")]
pub(super) struct Args {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    pub(super) status: Status,
    pub(super) kernel: KernelCounters,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let status = args.control.ask(GetStatus)?;
    let kernel = args.control.ask(GetKernelCounters)?;
    args.output.print(&Report { status, kernel }, table)?;
    Ok(Exit::Success)
}

/// What the workload does, and what would happen without the proxy.
fn state(workload: &WorkloadStatus) -> String {
    let inbound = match (workload.inbound, workload.preserve_client_ip) {
        (false, _) => "outbound only",
        (true, false) => "both directions",
        (true, true) => "both directions, client addresses preserved",
    };
    format!(
        "{}, {inbound}, {} open; fails {}; learns {}",
        workload.phase,
        workload.open_connections,
        fail_name(workload.fail),
        workload.learn.name()
    )
}

/// What the workload has of something, and what it may have.
fn budget(Figures { budget, used, limit, exceeded }: &Figures) -> String {
    let name = budget.replace('_', " ");
    let amount = |amount: u64| match budget.as_str() {
        "memory" => human_bytes(amount),
        _ => amount.to_string(),
    };
    let exceeded = if *exceeded > 0 { format!(", exceeded {exceeded}×") } else { String::new() };
    format!("{name} {} of {}{exceeded}", amount(*used), amount(*limit))
}

/// Where spans go, and what has become of them.
fn export(spans: &SpanExport) -> String {
    let SpanExport { url, exported, .. } = spans;
    let lost =
        [("dropped", spans.dropped), ("rejected", spans.rejected), ("not sent", spans.failed)];
    let lost = lost.into_iter().filter(|(_, count)| *count > 0);
    let lost: String = lost.map(|(what, count)| format!(", {count} {what}")).collect();
    format!("to {url}: {exported} exported{lost}")
}

pub(super) fn table(report: &Report) -> String {
    let Report { status, kernel } = report;
    let mut lines = vec![
        ("weir", format!("{}, pid {}", status.version, status.pid)),
        ("phase", format!("{}, up {}", status.phase, human_duration(status.uptime))),
        ("connections", format!("{} open", status.open_connections)),
        ("sk_msg", status.sk_msg.clone()),
    ];
    if let Some(bytes) = status.resident_bytes {
        let kernel = status.kernel_bytes.map(human_bytes);
        let kernel = kernel.map_or_else(String::new, |it| format!(", {it} of the kernel for maps"));
        lines.push(("memory", format!("{}{kernel}", human_bytes(bytes))));
    }
    if let Some(admin) = status.admin {
        lines.push(("metrics", format!("http://{admin}/metrics")));
    }
    if let Some(spans) = &status.spans {
        lines.push(("spans", export(spans)));
        lines.extend(spans.problem.iter().map(|problem| ("problem", problem.clone())));
    }
    if let Some(problem) = &status.source_problem {
        lines.push(("problem", problem.clone()));
    }
    for pod in status.pods.iter().filter(|pod| pod.state != PodState::Captured) {
        let state = match pod.state {
            PodState::Waiting => "waiting",
            PodState::Failed => "failed, retrying",
            PodState::Refused => "refused",
            PodState::CapturesItself => "captures itself",
            PodState::Captured | PodState::Unknown => "?",
        };
        let why = pod.why.as_deref().unwrap_or("no reason given");
        lines.push(("pod", format!("{}/{}: {state}: {why}", pod.namespace, pod.name)));
    }
    if status.workloads.is_empty() {
        let advice = if status.node {
            "none; annotate a pod, or its namespace, with weir.dev/inject: enabled"
        } else {
            "none; add one with `weir workload add`"
        };
        lines.push(("workload", advice.to_owned()));
    }
    for workload in &status.workloads {
        let listeners: Vec<_> = workload.listeners.iter().map(ToString::to_string).collect();
        lines.push(("workload", format!("{} in {}", workload.name, workload.cgroup)));
        if let Some(netns) = &workload.netns {
            lines.push(("  netns", netns.clone()));
        }
        lines.push(("  state", state(workload)));
        if let Some(why) = &workload.why {
            lines.push(("  waits", why.clone()));
        }
        if !workload.connect.is_empty() {
            lines.push(("  connect", workload.connect.clone()));
        }
        if !workload.engine.is_empty() {
            lines.push(("  engine", workload.engine.clone()));
        }
        lines.push(("  listeners", listeners.join(", ")));
        lines.push(("  hooks", workload.hooks.join(", ")));
        lines.extend(workload.budget.iter().map(|figures| ("  budget", budget(figures))));
        for (direction, reasons) in kernel.workloads.get(&workload.name).into_iter().flatten() {
            for (reason, count) in reasons.iter().filter(|(_, count)| **count > 0) {
                lines.push(("  kernel", format!("{direction} {count} {reason}")));
            }
        }
    }
    lines.into_iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<13}{value}").expect("writing to a string cannot fail");
        text
    })
}

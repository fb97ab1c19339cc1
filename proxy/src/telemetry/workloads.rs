//! What the kernel side knows about each workload, asked for at each scrape.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use weir_common::{Reason, decision::checks};

use super::{
    PodLabels,
    asked::Asked,
    labels::{Of, WorkloadLabels},
};
use crate::{
    budget::Figures,
    decision::{Direction, direction_name},
};

/// What hooks count beside what their checks find.
const OF_OUTBOUND: [Reason; 6] = [
    Reason::Redirected,
    Reason::HookError,
    Reason::FailClosed,
    Reason::ReportLost,
    Reason::OptionLost,
    Reason::TapLost,
];
const OF_INBOUND: [Reason; 4] =
    [Reason::Redirected, Reason::HookError, Reason::FailClosed, Reason::ListeningFull];

/// One workload, for `weir_workload_info`, `weir_workload_capturing`, `weir_workload_waiting`,
/// `weir_kernel_decisions_total` and `weir_budget_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// Its name.
    pub workload: Arc<str>,
    /// The pod that it is.
    pub pod: Option<PodLabels>,
    /// `open` or `closed`: what happens to new connections without a proxy.
    pub fail: &'static str,
    /// `off`, `opaque` or `bypass`.
    pub learn: &'static str,
    /// Whether inbound connections are captured.
    pub inbound: bool,
    /// False while new connections do not come to the proxy: draining, out of descriptors, waiting.
    pub capturing: bool,
    /// What it waits for: `cgroup`, `netns`, `process`, `hooks` or `start`.
    pub waiting: Option<&'static str>,
    /// All that it could wait for.
    pub waits: &'static [&'static str],
    /// How often the hooks decided what.
    pub decisions: Vec<(Direction, Reason, u64)>,
    /// What it has of what workloads share.
    pub budget: Vec<Figures>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    #[prometheus(flatten)]
    of: Of,
    fail: &'static str,
    learn: &'static str,
    inbound: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitingLabels {
    #[prometheus(flatten)]
    of: Of,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    #[prometheus(flatten)]
    of: Of,
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    #[prometheus(flatten)]
    of: Of,
    budget: String,
}

// === impl Asked ===

impl Collector for Asked<WorkloadFacts> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.source();
        let Some(source) = source.as_ref() else { return Ok(()) };
        let all: Vec<(Of, WorkloadFacts)> = source().into_iter().map(|it| (of(&it), it)).collect();
        let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
        let help = "Workloads and their settings; always 1.";
        let mut metric = encoder.encode_descriptor("weir_workload_info", help, None, gauge)?;
        for (of, it) in &all {
            let labels = InfoLabels {
                of: of.clone(),
                fail: it.fail,
                learn: it.learn,
                inbound: if it.inbound { "true" } else { "false" },
            };
            ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
        }
        let help = "1 if new connections are captured, else 0.";
        let mut metric = encoder.encode_descriptor("weir_workload_capturing", help, None, gauge)?;
        for (of, it) in &all {
            let labels = WorkloadLabels { of: of.clone() };
            ConstGauge::new(i64::from(it.capturing)).encode(metric.encode_family(&labels)?)?;
        }
        let help = "1 for a workload that waits for capture, by the missing object, else 0.";
        let mut metric = encoder.encode_descriptor("weir_workload_waiting", help, None, gauge)?;
        for (of, it) in &all {
            for &reason in it.waits {
                let labels = WaitingLabels { of: of.clone(), reason };
                let waits = i64::from(it.waiting == Some(reason));
                ConstGauge::new(waits).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Decisions of the BPF programs.";
        let mut metric = encoder.encode_descriptor("weir_kernel_decisions", help, None, counter)?;
        for (of, it) in &all {
            for (direction, reason, count) in counts(&it.decisions) {
                let labels = DecisionLabels {
                    of: of.clone(),
                    direction: direction_name(direction),
                    reason: reason.name(),
                };
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        budgets(&mut encoder, &all)
    }
}

/// `weir_budget_used`, `weir_budget_limit` and `weir_budget_exceeded_total`.
fn budgets(encoder: &mut DescriptorEncoder<'_>, all: &[(Of, WorkloadFacts)]) -> fmt::Result {
    let labels = |of: &Of, figures: &Figures| BudgetLabels {
        of: of.clone(),
        budget: figures.budget.clone(),
    };
    let figures = || all.iter().flat_map(|(of, it)| it.budget.iter().map(move |one| (of, one)));
    let gauge = |number: u64| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
    let help = "Use of shared resources by a workload.";
    let mut metric =
        encoder.encode_descriptor("weir_budget_used", help, None, MetricType::Gauge)?;
    for (of, one) in figures() {
        gauge(one.used).encode(metric.encode_family(&labels(of, one))?)?;
    }
    let help = "Current limit of a workload on shared resources.";
    let mut metric =
        encoder.encode_descriptor("weir_budget_limit", help, None, MetricType::Gauge)?;
    for (of, one) in figures() {
        gauge(one.limit).encode(metric.encode_family(&labels(of, one))?)?;
    }
    let help = "Refusals because a workload was at its limit.";
    let mut metric =
        encoder.encode_descriptor("weir_budget_exceeded", help, None, MetricType::Counter)?;
    for (of, one) in figures() {
        let counter = ConstCounter::new(one.exceeded);
        counter.encode(metric.encode_family(&labels(of, one))?)?;
    }
    Ok(())
}

/// A count for each reason that a hook of a direction can have, and for those that have been counted.
fn counts(counted: &[(Direction, Reason, u64)]) -> Vec<(Direction, Reason, u64)> {
    let mut all = counted.to_vec();
    for direction in [Direction::Outbound, Direction::Inbound] {
        let further = match direction {
            Direction::Outbound => &OF_OUTBOUND[..],
            Direction::Inbound => &OF_INBOUND,
        };
        let of_checks = checks(direction).iter().flat_map(|check| check.reasons());
        for reason in of_checks.chain(further) {
            if !all.iter().any(|(of, it, _)| (*of, *it) == (direction, *reason)) {
                all.push((direction, *reason, 0));
            }
        }
    }
    all
}

fn of(facts: &WorkloadFacts) -> Of {
    Of { workload: Arc::clone(&facts.workload), pod: facts.pod.clone().map(Arc::new) }
}

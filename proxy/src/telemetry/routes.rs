//! What has come of the requests of routes, asked for at each scrape.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

use super::asked::Asked;

/// Requests of one rule, for `weir_route_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: &'static str,
    /// The route's name.
    pub route: String,
    /// The rule, as records name it.
    pub rule: String,
    /// Requests by what has come of them.
    pub requests: Vec<(&'static str, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    kind: &'static str,
    outcome: &'static str,
    route: String,
    rule: String,
}

// === impl Asked ===

impl Collector for Asked<RouteFacts> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.source();
        let all = source.as_ref().map(|source| source()).unwrap_or_default();
        if all.is_empty() {
            return Ok(());
        }
        let help = "Requests that a rule of a route was for, by what has come of them.";
        let name = "weir_route_requests";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for RouteFacts { kind, route, rule, requests } in all {
            for (outcome, count) in requests {
                let (route, rule) = (route.clone(), rule.clone());
                let labels = RouteLabels { kind, outcome, route, rule };
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

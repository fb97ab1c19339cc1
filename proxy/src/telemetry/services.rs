//! What is known of the services that are in use, asked for at each scrape.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::asked::Asked;

/// One service, for `outbound_http_balancer_endpoints` and `weir_balancer_choices_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name, with the port if that has one.
    pub service: Arc<str>,
    /// Endpoints by state.
    pub endpoints: Vec<(&'static str, u64)>,
    /// Connections that balanced requests share.
    pub connections: u64,
    /// Connections by the reason of their choice.
    pub choices: Vec<(&'static str, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

/// Linkerd's name for the service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    parent: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChoiceLabels {
    service: String,
    reason: &'static str,
}

// === impl Asked ===

impl Collector for Asked<ServiceFacts> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.source();
        let all = source.as_ref().map(|source| source()).unwrap_or_default();
        if all.is_empty() {
            return Ok(());
        }
        let help = "Endpoints of services in use, by state.";
        let name = "outbound_http_balancer_endpoints";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in &all {
            for (state, count) in &it.endpoints {
                let labels = EndpointLabels { parent: it.service.to_string(), state };
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Upstream connections that balanced requests share.";
        let name = "weir_pool_connections";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in &all {
            let count = i64::try_from(it.connections).unwrap_or(i64::MAX);
            let labels = ServiceLabel { service: it.service.to_string() };
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Choices of an endpoint, by reason.";
        let name = "weir_balancer_choices";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for it in &all {
            for (reason, count) in &it.choices {
                let labels = ChoiceLabels { service: it.service.to_string(), reason };
                ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

//! What is known of the services that are in use, asked for at each scrape.

use std::{
    fmt,
    sync::{Arc, RwLock},
};

use crate::sync::{read, write};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// One service, for `outbound_http_balancer_endpoints` and `weir_balancer_choices_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name, with the port if that has one.
    pub service: Arc<str>,
    /// Endpoints by state.
    pub endpoints: Vec<(&'static str, u64)>,
    /// Connections by the reason of their choice.
    pub choices: Vec<(&'static str, u64)>,
}

type Source = Box<dyn Fn() -> Vec<ServiceFacts> + Send + Sync>;

/// Asks when it is asked.
#[derive(Default)]
pub(super) struct ServiceCollector {
    source: RwLock<Option<Source>>,
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

// === impl ServiceCollector ===

impl ServiceCollector {
    pub(super) fn set(&self, source: Source) {
        *write(&self.source) = Some(source);
    }
}

impl fmt::Debug for ServiceCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceCollector").finish_non_exhaustive()
    }
}

impl Collector for ServiceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = read(&self.source);
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

//! What the kernel has allocated for the maps of the programs, asked for at each scrape.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::asked::Asked;

/// One map, for `weir_kernel_memory_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFacts {
    /// Its name.
    pub map: String,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabels {
    map: String,
}

// === impl Asked ===

impl Collector for Asked<MapFacts> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.source();
        let Some(source) = source.as_ref() else { return Ok(()) };
        let help = "Memory that the kernel has allocated for maps of the BPF programs, in bytes.";
        let name = "weir_kernel_memory_bytes";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for MapFacts { map, bytes } in source() {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            ConstGauge::new(bytes).encode(metric.encode_family(&MapLabels { map })?)?;
        }
        Ok(())
    }
}

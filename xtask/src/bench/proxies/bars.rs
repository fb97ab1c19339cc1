//! What weir has to reach, as ratios of medians within a run.

use serde::Serialize;

use super::paths::Way;
use super::proxy::Cores;
use super::results::{Figure, Samples};

/// What a figure of weir is divided by.
#[derive(Clone, Copy)]
enum Against {
    /// One way.
    Way(&'static str),
    /// The other proxy with the highest, or for costs the lowest, median.
    Best,
    /// Nothing: the figure itself.
    Alone,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
    /// Not even the same.
    Below(f64),
}

/// One line of the bar.
struct Bar {
    what: &'static str,
    cells: &'static [&'static str],
    /// The names of the ways begin so.
    of: &'static [&'static str],
    figure: Figure,
    against: Against,
    limit: Limit,
}

/// What came out of a line, for one cell and one way of weir.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) what: &'static str,
    pub(super) cell: &'static str,
    pub(super) way: String,
    pub(super) against: String,
    pub(super) value: f64,
    pub(super) limit: String,
    pub(super) met: bool,
}

const DETECT: &[&str] = &["weir-detect"];
const FORWARDED: &[&str] = &["weir-opaque", "weir-detect"];
const SKIP: &[&str] = &["weir-skip"];

/// What weir is held to.
const BARS: &[Bar] = &[
    Bar {
        what: "skip: connection rate against direct",
        cells: &["connect-1", "connect-16"],
        of: SKIP,
        figure: Figure::Rate,
        against: Against::Way("direct"),
        limit: Limit::AtLeast(0.97),
    },
    Bar {
        what: "skip: throughput against direct",
        cells: &["stream-1", "http1-50-1k"],
        of: SKIP,
        figure: Figure::Rate,
        against: Against::Way("direct"),
        limit: Limit::AtLeast(0.97),
    },
    Bar {
        what: "connect(2) with the hook against direct",
        cells: &["connect-1"],
        of: &["weir-skip", "weir-opaque", "weir-detect"],
        figure: Figure::Connect50Us,
        against: Against::Way("direct"),
        limit: Limit::AtMost(1.05),
    },
    Bar {
        what: "connect(2) with the hook against REDIRECT",
        cells: &["connect-1"],
        of: &["weir-skip", "weir-opaque", "weir-detect"],
        figure: Figure::Connect50Us,
        against: Against::Way("redirect"),
        limit: Limit::Below(1.0),
    },
    Bar {
        what: "HTTP/1: CPU per request against HAProxy",
        cells: &["http1-50-1k"],
        of: DETECT,
        figure: Figure::CpuUs,
        against: Against::Way("haproxy-http"),
        limit: Limit::AtMost(0.72),
    },
    Bar {
        what: "HTTP/1: CPU per request against Envoy",
        cells: &["http1-50-1k"],
        of: DETECT,
        figure: Figure::CpuUs,
        against: Against::Way("envoy-http"),
        limit: Limit::AtMost(0.40),
    },
    Bar {
        what: "HTTP/1: request rate against the best peer",
        cells: &["http1-1-1k", "http1-50-1k"],
        of: DETECT,
        figure: Figure::Rate,
        against: Against::Best,
        limit: Limit::AtLeast(1.15),
    },
    Bar {
        what: "HTTP/2 and gRPC: CPU per request against HAProxy",
        cells: &["http2-50x10", "grpc-50x10"],
        of: DETECT,
        figure: Figure::CpuUs,
        against: Against::Way("haproxy-http"),
        limit: Limit::AtMost(0.70),
    },
    Bar {
        what: "HTTP/2 and gRPC: CPU per request against Envoy",
        cells: &["http2-50x10", "grpc-50x10"],
        of: DETECT,
        figure: Figure::CpuUs,
        against: Against::Way("envoy-http"),
        limit: Limit::AtMost(0.30),
    },
    Bar {
        what: "raw TCP stream: throughput against the best peer",
        cells: &["stream-1", "stream-4", "stream-1-reverse", "stream-4-reverse"],
        of: FORWARDED,
        figure: Figure::Rate,
        against: Against::Best,
        limit: Limit::AtLeast(1.05),
    },
    Bar {
        what: "raw TCP stream: CPU per GB against the best peer",
        cells: &["stream-1", "stream-4", "stream-1-reverse", "stream-4-reverse"],
        of: FORWARDED,
        figure: Figure::CpuUs,
        against: Against::Best,
        limit: Limit::AtMost(0.90),
    },
    Bar {
        what: "memory of the idle process, MiB",
        cells: &["start"],
        of: FORWARDED,
        figure: Figure::IdleMib,
        against: Against::Alone,
        limit: Limit::AtMost(12.0),
    },
    Bar {
        what: "memory per idle connection in userspace, KiB",
        cells: &["idle-tcp", "idle-http1"],
        of: FORWARDED,
        figure: Figure::UserKib,
        against: Against::Alone,
        limit: Limit::AtMost(8.0),
    },
];

/// All lines for which there are figures; with one core, as the bar is defined.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    BARS.iter().flat_map(|bar| bar.judge(samples)).collect()
}

// === impl Bar ===

impl Bar {
    fn judge(&self, samples: &Samples) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for cell in self.cells {
            for way in samples.ways(Cores::One, cell) {
                if self.of.iter().any(|of| way.starts_with(of)) {
                    verdicts.extend(self.verdict(samples, cell, way));
                }
            }
        }
        verdicts
    }

    fn verdict(&self, samples: &Samples, cell: &'static str, way: &str) -> Option<Verdict> {
        let median = |way: &str| Some(samples.spread(Cores::One, cell, way, self.figure)?.median);
        let (against, divisor) = match self.against {
            Against::Alone => (String::new(), 1.0),
            Against::Way(other) => (other.to_owned(), median(other)?),
            Against::Best => self.best(samples, cell)?,
        };
        let value = median(way)? / divisor;
        let (limit, met) = match self.limit {
            Limit::AtLeast(limit) => (format!("≥ {limit}"), value >= limit),
            Limit::AtMost(limit) => (format!("≤ {limit}"), value <= limit),
            Limit::Below(limit) => (format!("< {limit}"), value < limit),
        };
        Some(Verdict { what: self.what, cell, way: way.to_owned(), against, value, limit, met })
    }

    fn best(&self, samples: &Samples, cell: &str) -> Option<(String, f64)> {
        let peers = samples.ways(Cores::One, cell).into_iter().filter(|way| Way::is_peer(way));
        let medians = peers.filter_map(|way| {
            Some((way.to_owned(), samples.spread(Cores::One, cell, way, self.figure)?.median))
        });
        if matches!(self.limit, Limit::AtLeast(_)) {
            medians.max_by(|a, b| a.1.total_cmp(&b.1))
        } else {
            medians.min_by(|a, b| a.1.total_cmp(&b.1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::Cell;
    use super::super::results::{Figures, Sample};
    use super::*;

    fn samples(rows: &[(&str, &str, f64, f64)]) -> Samples {
        let mut samples = Samples::default();
        for (cell, way, rate, cpu) in rows {
            let figures = Figures::new([(Figure::Rate, *rate), (Figure::CpuUs, *cpu)]);
            samples.push(Sample {
                cores: Cores::One.name(),
                cell: (*cell).into(),
                way: (*way).into(),
                round: 0,
                turn: 0,
                figures: Some(figures),
                failure: None,
            });
        }
        samples
    }

    #[test]
    fn streams_are_held_against_the_best_of_each_figure() {
        let verdicts = judge(&samples(&[
            ("stream-1", "direct", 40.0, 0.1),
            ("stream-1", "haproxy-tcp", 20.0, 700.0),
            ("stream-1", "envoy-tcp", 18.0, 400.0),
            ("stream-1", "weir-opaque", 21.0, 380.0),
        ]));
        let found: Vec<_> =
            verdicts.iter().map(|it| (it.against.as_str(), it.value, it.met)).collect();
        assert_eq!(found, [("haproxy-tcp", 1.05, true), ("envoy-tcp", 0.95, false)]);
    }

    #[test]
    fn a_bar_without_a_peer_is_not_judged() {
        assert!(judge(&samples(&[("http1-50-1k", "weir-detect", 1.0, 1.0)])).is_empty());
    }

    #[test]
    fn every_cell_of_the_bar_exists() {
        let all: Vec<_> = Cell::all().iter().map(Cell::to_string).collect();
        for cell in BARS.iter().flat_map(|bar| bar.cells) {
            assert!(all.iter().any(|it| it == cell), "{cell}");
        }
    }
}

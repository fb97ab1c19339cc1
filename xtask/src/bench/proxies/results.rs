//! What was measured, round by round, and what it comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cells::Cell;
use super::proxy::Cores;
use super::stats::Spread;

/// Kinds of figures; the unit is in the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    /// In the cell's unit per second.
    Rate,
    P50Us,
    P99Us,
    P999Us,
    /// Of connect(2) alone.
    Connect50Us,
    Connect99Us,
    /// User and system time of the proxy for each of what the cell counts.
    CpuUs,
    PeakMib,
    IdleMib,
    /// What the kernel says it has allocated for BPF maps.
    MapsMib,
    /// What slabs, vmalloc and per-CPU memory of the whole machine have grown by since before the start.
    SlabMib,
    /// For each idle connection: in the proxy's processes.
    UserKib,
    /// For each idle connection: buffers of all its sockets.
    SocketKib,
    StartMs,
}

/// The figures of one measurement.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Figures(BTreeMap<Figure, f64>);

/// One way, in one cell and one round.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub(super) cores: &'static str,
    pub(super) cell: String,
    pub(super) way: String,
    pub(super) round: usize,
    /// Its place in the round.
    pub(super) turn: usize,
    pub(super) figures: Option<Figures>,
    pub(super) failure: Option<String>,
}

/// All samples.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Samples(Vec<Sample>);

// === impl Figure ===

impl Figure {
    /// Head of a column.
    pub(super) fn title(self, cell: Cell) -> String {
        match self {
            Self::Rate => cell.unit().into(),
            Self::P50Us => "p50 µs".into(),
            Self::P99Us => "p99 µs".into(),
            Self::P999Us => "p99.9 µs".into(),
            Self::Connect50Us => "connect(2) p50 µs".into(),
            Self::Connect99Us => "connect(2) p99 µs".into(),
            Self::CpuUs if cell.per() == "GB" => "CPU s/GB".into(),
            Self::CpuUs => format!("CPU µs/{}", cell.per()),
            Self::PeakMib => "peak MiB".into(),
            Self::IdleMib => "idle MiB".into(),
            Self::MapsMib => "maps MiB".into(),
            Self::SlabMib => "slab MiB".into(),
            Self::UserKib => "KiB/connection, process".into(),
            Self::SocketKib => "KiB/connection, socket buffers".into(),
            Self::StartMs => "start ms".into(),
        }
    }

    /// In the unit of the title.
    pub(super) fn shown(self, cell: Cell, spread: Spread) -> Spread {
        let seconds = self == Self::CpuUs && cell.per() == "GB";
        if seconds { spread.times(1e-6) } else { spread }
    }
}

// === impl Figures ===

impl Figures {
    pub(super) fn new(figures: impl IntoIterator<Item = (Figure, f64)>) -> Self {
        Self(figures.into_iter().collect())
    }

    pub(super) fn set(&mut self, figure: Figure, value: f64) {
        self.0.insert(figure, value);
    }

    pub(super) fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }
}

// === impl Samples ===

impl Samples {
    pub(super) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }

    /// The ways of a cell, in the order in which they came first.
    pub(super) fn ways(&self, cores: Cores, cell: &str) -> Vec<&str> {
        let mut ways = Vec::new();
        for sample in self.0.iter().filter(|it| it.cores == cores.name() && it.cell == cell) {
            if !ways.contains(&sample.way.as_str()) {
                ways.push(&sample.way);
            }
        }
        ways
    }

    /// Whether one of its rounds did.
    pub(super) fn failed(&self, cores: Cores, cell: &str, way: &str) -> bool {
        let mine = |it: &&Sample| it.cores == cores.name() && it.cell == cell && it.way == way;
        self.0.iter().filter(mine).any(|it| it.failure.is_some())
    }

    /// Over the rounds. Nothing where one round has failed: what works sometimes is not measured.
    pub(super) fn spread(
        &self,
        cores: Cores,
        cell: &str,
        way: &str,
        figure: Figure,
    ) -> Option<Spread> {
        let mine = |it: &&Sample| it.cores == cores.name() && it.cell == cell && it.way == way;
        let values = self.0.iter().filter(mine).map(|it| it.figures.as_ref()?.get(figure));
        Spread::of(values.collect::<Option<Vec<f64>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(way: &str, rate: Option<f64>) -> Sample {
        let figures = rate.map(|rate| Figures::new([(Figure::Rate, rate)]));
        Sample {
            cores: Cores::One.name(),
            cell: "c".into(),
            way: way.into(),
            round: 0,
            turn: 0,
            figures,
            failure: None,
        }
    }

    #[test]
    fn a_way_that_failed_once_has_no_figure() {
        let mut samples = Samples::default();
        for (way, rate) in [("b", Some(2.0)), ("a", Some(1.0)), ("b", Some(4.0)), ("a", None)] {
            samples.push(sample(way, rate));
        }
        let median = |way| samples.spread(Cores::One, "c", way, Figure::Rate).map(|it| it.median);
        assert_eq!((median("a"), median("b"), median("none")), (None, Some(3.0), None));
        assert_eq!(samples.ways(Cores::One, "c"), ["b", "a"]);
    }
}

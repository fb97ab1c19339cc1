//! Whether what weir held stayed the same.

use std::fmt;

use super::Holdings;

/// How much more the last quarter may hold than the second: a part, and so many KiB of memory or
/// kept descriptors. An allocator gives back late and in large pieces; free buffers, pipes and sockets
/// are kept, up to a bound.
const PART: f64 = 0.05;
const MEASURES: [(&str, u64, Measure); 2] = [
    ("anonymous memory, KiB", 1024, |it| it.anonymous),
    ("kept descriptors", 16, |it| it.kept as u64),
];
/// Rows of the table.
const ROWS: usize = 10;

type Measure = fn(&Holdings) -> u64;

/// What was held after so many connections, when none was open.
#[derive(Clone, Debug)]
pub struct Sample {
    /// So far.
    pub connections: usize,
    /// Then.
    pub holdings: Holdings,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Report {
    /// All of them, each to its end without a loss.
    pub connections: usize,
    /// Those that went through weir for sure: who is reset early is not told.
    pub proxied: usize,
    /// In order.
    pub samples: Vec<Sample>,
}

// === impl Report ===

impl Report {
    /// Descriptors and entries were always the same; memory and what is kept were in the last
    /// quarter what they were in the second.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.changed().is_none() && !self.samples.is_empty() && self.grew().is_empty()
    }

    /// The first sample in which something countable was other than in the first of all.
    #[must_use]
    pub fn changed(&self) -> Option<&Sample> {
        let first = &self.samples.first()?.holdings;
        self.samples.iter().find(|it| !it.holdings.is_as_before(first))
    }

    fn grew(&self) -> Vec<String> {
        let told = MEASURES.into_iter().filter_map(|(name, piece, measure)| {
            let [before, after] = [1, 3].map(|quarter| self.median(quarter, measure));
            let limit = before + (before as f64 * PART) as u64 + piece;
            (after > limit).then(|| format!("{name}: {before}, then {after}"))
        });
        told.collect()
    }

    /// Of the samples of a quarter, counted from 0.
    fn median(&self, quarter: usize, measure: Measure) -> u64 {
        let length = self.samples.len();
        let samples = &self.samples[length * quarter / 4..length * (quarter + 1) / 4];
        let mut values: Vec<u64> = samples.iter().map(|it| measure(&it.holdings)).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connections   PSS KiB  anon KiB descriptors  kept threads  open")?;
        let names = self.samples.first().map(|it| it.holdings.entries.keys());
        for name in names.into_iter().flatten() {
            write!(f, " {name:>9}")?;
        }
        writeln!(f)?;
        let step = self.samples.len().div_ceil(ROWS).max(1);
        let last = self.samples.len().saturating_sub(1);
        let shown = self.samples.iter().enumerate().filter(|(n, _)| n % step == 0 || *n == last);
        for (_, Sample { connections, holdings: it }) in shown {
            write!(
                f,
                "{connections:>11} {:>9} {:>9} {:>11} {:>5} {:>7} {:>5}",
                it.pss, it.anonymous, it.descriptors, it.kept, it.threads, it.connections
            )?;
            for entries in it.entries.values() {
                write!(f, " {entries:>9}")?;
            }
            writeln!(f)?;
        }
        let [before, after] = [1, 3].map(|quarter| self.median(quarter, |it| it.anonymous));
        writeln!(
            f,
            "\n{} connections, none lost, {} through weir; median of anonymous memory {before} KiB in \
             the second quarter, {after} KiB in the last",
            self.connections, self.proxied
        )?;
        if let Some(Sample { connections, holdings }) = self.changed() {
            writeln!(f, "not as at first, after {connections} connections: {holdings}")?;
        }
        for grown in self.grew() {
            writeln!(f, "grown: {grown}")?;
        }
        write!(f, "{}", if self.is_flat() { "flat" } else { "NOT FLAT" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(holdings: impl Fn(usize) -> Holdings) -> Report {
        let sample = |number| Sample { connections: number, holdings: holdings(number) };
        Report { connections: 40, proxied: 40, samples: (0..40).map(sample).collect() }
    }

    fn held(memory: u64, descriptors: usize) -> Holdings {
        let entries = [("PENDING", 0)].into_iter().collect();
        let (pss, anonymous) = (memory, memory);
        Holdings { pss, anonymous, descriptors, kept: 8, threads: 4, connections: 0, entries }
    }

    #[test]
    fn what_stays_is_flat_and_what_grows_is_not() {
        assert!(report(|_| held(10_000, 30)).is_flat());
        assert!(report(|number| held(10_000 + (number as u64 % 7) * 50, 30)).is_flat());
        // 100 KiB a sample.
        let growing = report(|number| held(10_000 + number as u64 * 100, 30));
        assert!(!growing.is_flat() && growing.to_string().contains("grown: anonymous"));
        let leaking = report(|number| held(10_000, 30 + usize::from(number == 39)));
        assert!(!leaking.is_flat() && leaking.to_string().contains("not as at first"));
    }
}

//! Whether what weir held stayed the same.

use std::fmt;

use super::Holdings;

/// How much more memory the last quarter may hold than the second: a part, and KiB. An allocator
/// gives back late and in large pieces.
const PART: f64 = 0.05;
const PIECE: u64 = 1024;
/// Rows of the table.
const ROWS: usize = 10;

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
    /// Descriptors, threads and entries were always the same, and memory was in the last quarter
    /// what it was in the second.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.changed().is_none() && !self.samples.is_empty() && self.grew().is_empty()
    }

    /// The first sample in which something countable was other than in the first of all.
    #[must_use]
    pub fn changed(&self) -> Option<&Sample> {
        let first = &self.samples.first()?.holdings;
        self.samples.iter().find(|it| !it.holdings.is_same_but_for_memory(first))
    }

    fn grew(&self) -> Vec<String> {
        let measures: [(&str, fn(&Holdings) -> u64); 2] =
            [("PSS", |it| it.pss), ("dirty memory", |it| it.dirty)];
        let told = measures.into_iter().filter_map(|(name, measure)| {
            let [before, after] = [1, 3].map(|quarter| self.median(quarter, measure));
            let limit = before + (before as f64 * PART) as u64 + PIECE;
            (after > limit).then(|| format!("{name}: {before} KiB, then {after} KiB"))
        });
        told.collect()
    }

    /// Of the samples of a quarter, counted from 0.
    fn median(&self, quarter: usize, measure: fn(&Holdings) -> u64) -> u64 {
        let length = self.samples.len();
        let samples = &self.samples[length * quarter / 4..length * (quarter + 1) / 4];
        let mut values: Vec<u64> = samples.iter().map(|it| measure(&it.holdings)).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>11} {:>9} {:>9} {:>11} {:>7} {:>5}",
            "connections", "PSS KiB", "dirty KiB", "descriptors", "threads", "open"
        )?;
        let names = self.samples.first().map(|it| it.holdings.entries.keys());
        for name in names.into_iter().flatten() {
            write!(f, " {name:>9}")?;
        }
        writeln!(f)?;
        let step = self.samples.len().div_ceil(ROWS).max(1);
        let last = self.samples.len().saturating_sub(1);
        for (_, Sample { connections, holdings }) in
            self.samples.iter().enumerate().filter(|(n, _)| n % step == 0 || *n == last)
        {
            let Holdings { pss, dirty, descriptors, threads, connections: open, entries } =
                holdings;
            write!(
                f,
                "{connections:>11} {pss:>9} {dirty:>9} {descriptors:>11} {threads:>7} {open:>5}"
            )?;
            for entries in entries.values() {
                write!(f, " {entries:>9}")?;
            }
            writeln!(f)?;
        }
        let medians = |measure| [1, 3].map(|quarter| self.median(quarter, measure));
        let ([pss, pss_after], [dirty, dirty_after]) =
            (medians(|it| it.pss), medians(|it| it.dirty));
        writeln!(
            f,
            "\n{} connections, none lost, {} through weir; medians of the second and the last quarter: \
             PSS {pss} and {pss_after} KiB, dirty {dirty} and {dirty_after} KiB",
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

    fn held(pss: u64, descriptors: usize) -> Holdings {
        let entries = [("PENDING", 0)].into_iter().collect();
        Holdings { pss, dirty: pss, descriptors, threads: 4, connections: 0, entries }
    }

    #[test]
    fn what_stays_is_flat_and_what_grows_is_not() {
        assert!(report(|_| held(10_000, 30)).is_flat());
        assert!(report(|number| held(10_000 + (number as u64 % 7) * 50, 30)).is_flat());
        // 100 KiB a sample.
        let growing = report(|number| held(10_000 + number as u64 * 100, 30));
        assert!(!growing.is_flat() && growing.to_string().contains("grown: PSS"));
        let leaking = report(|number| held(10_000, 30 + usize::from(number == 39)));
        assert!(!leaking.is_flat() && leaking.to_string().contains("not as at first"));
    }
}

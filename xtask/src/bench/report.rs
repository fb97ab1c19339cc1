//! The figures as tables.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use super::lives::Lives;
use super::usage::Usage;
use super::workloads::{Connections, Figures};

/// Median and quartiles.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// Where it was measured.
#[derive(Serialize)]
pub(super) struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    memory_gib: f64,
    rounds: usize,
    load: String,
}

// === impl Spread ===

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = values.len().saturating_sub(1) as f64;
            values.get((last * share).round() as usize).copied().unwrap_or_default()
        };
        Self { median: at(0.5), lower: at(0.25), upper: at(0.75) }
    }

    /// With so many digits after the point.
    fn show(&self, digits: usize) -> String {
        let Self { median, lower, upper } = self;
        format!("{median:.digits$} ({lower:.digits$}–{upper:.digits$})")
    }
}

/// The middle value; of an even number the upper one of the two.
pub(super) fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).median
}

// === impl Machine ===

impl Machine {
    /// # Errors
    ///
    /// Fails without /proc.
    pub(super) fn here(rounds: usize) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo")?, "model name"),
            cpus: std::thread::available_parallelism()?.get(),
            memory_gib: kib / 1024.0 / 1024.0,
            rounds,
            load: read("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, cpu, cpus, memory_gib, load, .. } = self;
        write!(f, "Linux {kernel}, {cpus} CPUs ({cpu}), {memory_gib:.0} GiB; load before {load}.")
    }
}

// === tables ===

/// All tables, as text that is Markdown too.
pub(super) fn tables(figures: &Figures) -> String {
    let Machine { kernel, cpu, cpus, memory_gib, rounds, load } = &figures.machine;
    let mut text = format!(
        "Linux {kernel}, {cpus} CPUs ({cpu}), {memory_gib:.0} GiB; {rounds} rounds; load at the end \
         {load}\n"
    );
    let mut add = |title: &str, table: &Table| {
        let _always_fits = write!(text, "\n{title}\n\n{table}\n");
    };
    add("Adding a workload, as the client of the control socket sees it (ms)", &adding(figures));
    add(
        "Memory, kernel objects and descriptors (in brackets per workload since the row above)",
        &memory(figures),
    );
    let connections = |choose: fn(&super::workloads::Stage) -> &Connections| {
        let stages = figures.stages.iter();
        connections(stages.map(|stage| (stage.workloads, choose(stage))))
    };
    add("Connections of one workload, one after the other (µs)", &connections(|it| &it.one));
    add("Connections of several workloads in turn (µs)", &connections(|it| &it.in_turn));
    add("Doing nothing", &idle(figures));
    add("Ends and beginnings (ms; in brackets per workload)", &lives(&figures.lives));
    text
}

fn adding(figures: &Figures) -> Table {
    let mut table = table(&["n-th", "time", "processor time of weir"]);
    for stage in &figures.stages {
        let cpu = format!("{:.1}", stage.add_cpu_ms);
        table.add_row([stage.workloads.to_string(), stage.add_ms.show(1), cpu]);
    }
    table
}

/// Totals, and in brackets what each workload since the row above has added.
fn memory(figures: &Figures) -> Table {
    let mut table = table(&[
        "workloads",
        "Pss KiB",
        "private KiB",
        "programs",
        "of KiB",
        "maps",
        "of KiB",
        "kernel KiB",
        "descriptors",
        "threads",
    ]);
    let mut before = (0, &figures.empty);
    let rows = figures.stages.iter().map(|stage| (stage.workloads, &stage.usage));
    for (workloads, usage) in std::iter::once(before).chain(rows) {
        let more = workloads.saturating_sub(before.0);
        let each = |get: fn(&Usage) -> u64| {
            let (now, then) = (get(usage), get(before.1));
            if more == 0 {
                return now.to_string();
            }
            format!("{now} ({:+.1})", (now as f64 - then as f64) / more as f64)
        };
        table.add_row([
            workloads.to_string(),
            each(|it| it.pss_kib),
            each(|it| it.private_kib),
            each(|it| it.programs as u64),
            each(|it| it.programs_kib),
            each(|it| it.maps as u64),
            each(|it| it.maps_kib),
            each(|it| it.kernel_kib),
            each(|it| it.descriptors as u64),
            each(|it| it.threads as u64),
        ]);
        before = (workloads, usage);
    }
    table
}

fn connections<'a>(rows: impl Iterator<Item = (usize, &'a Connections)>) -> Table {
    let mut table = table(&["workloads", "from", "direct", "through weir", "more", "weir's CPU"]);
    for (workloads, it) in rows {
        table.add_row([
            workloads.to_string(),
            it.from.to_string(),
            it.direct_us.show(0),
            it.proxied_us.show(0),
            format!("{:.0}", it.proxied_us.median - it.direct_us.median),
            format!("{:.0}", it.cpu_us),
        ]);
    }
    table
}

fn idle(figures: &Figures) -> Table {
    let mut table = table(&["workloads", "CPU µs/s", "of one CPU"]);
    for stage in &figures.stages {
        let share = format!("{:.2} %", stage.idle_us_per_s / 1e4);
        table.add_row([stage.workloads.to_string(), format!("{:.0}", stage.idle_us_per_s), share]);
    }
    table
}

/// Totals, and in brackets per workload.
fn lives(lives: &[Lives]) -> Table {
    let mut table = table(&[
        "workloads",
        "kill -9, restart",
        "its CPU",
        "SIGTERM",
        "start again",
        "its CPU",
        "weir detach",
        "CPU per removal",
    ]);
    for it in lives {
        let each = |total: f64| format!("{total:.0} ({:.1})", total / it.workloads as f64);
        table.add_row([
            it.workloads.to_string(),
            each(it.restart_ms),
            each(it.restart_cpu_ms),
            each(it.stop_ms),
            each(it.start_ms),
            each(it.start_cpu_ms),
            each(it.detach_ms),
            format!("{:.1}", it.remove_cpu_ms),
        ]);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn medians_and_quartiles_do_not_depend_on_the_order() {
        let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((spread.lower, spread.median, spread.upper), (2.0, 3.0, 4.0));
        assert_eq!(Spread::of(Vec::new()).median, 0.0);
    }
}

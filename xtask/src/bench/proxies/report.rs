//! The results: JSON for programs, Markdown for people, and a plot.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde_json::json;

use super::Plan;
use super::bars::{self, Verdict};
use super::cells::Cell;
use super::machine::Machine;
use super::plot;
use super::proxy::Cores;
use super::results::{Figure, Samples};
use super::stats::Spread;

/// From measurements of what the same thing gives twice.
const NOISE: &str = "Less than 10 % (HTTP/1), 25 % (HTTP/2), 50 % (iperf3 against direct) in single \
                     cells is no result.";

const COLUMNS: [Figure; 14] = [
    Figure::Rate,
    Figure::P50Us,
    Figure::P99Us,
    Figure::P999Us,
    Figure::Connect50Us,
    Figure::Connect99Us,
    Figure::StartMs,
    Figure::UserKib,
    Figure::SocketKib,
    Figure::CpuUs,
    Figure::IdleMib,
    Figure::PeakMib,
    Figure::MapsMib,
    Figure::SlabMib,
];

/// Writes all three files, and returns the Markdown.
///
/// # Errors
///
/// Fails when they cannot be written.
pub(super) fn write(
    folder: &Path,
    plan: &Plan,
    machine: &Machine,
    samples: &Samples,
) -> Result<String> {
    fs::create_dir_all(folder)?;
    let verdicts = bars::judge(samples);
    let all = json!({
        "machine": machine, "rounds": plan.rounds, "seconds": plan.seconds, "notes": plan.notes,
        "bars": verdicts, "samples": samples,
    });
    let text = markdown(plan, machine, samples, &verdicts);
    let path = |kind: &str| folder.join(format!("proxies.{kind}"));
    fs::write(path("json"), serde_json::to_string_pretty(&all)? + "\n")
        .and_then(|()| fs::write(path("md"), &text))
        .with_context(|| format!("cannot write {}", path("*").display()))?;
    plot::write(&path("svg"), plan, samples)?;
    Ok(text)
}

fn markdown(plan: &Plan, machine: &Machine, samples: &Samples, verdicts: &[Verdict]) -> String {
    let mut text = format!("# weir beside other proxies\n\n{}\n", head(plan, machine));
    let mut add = |title: &str, table: &Table| {
        let _always_fits = write!(text, "\n## {title}\n\n{table}\n");
    };
    if !verdicts.is_empty() {
        add("The bar", &bar(verdicts));
    }
    for cores in &plan.cores {
        for cell in &plan.cells {
            let name = cell.to_string();
            if !samples.ways(*cores, &name).is_empty() {
                add(&format!("{name}, {cores} core(s)"), &table(*cores, *cell, samples));
            }
        }
    }
    let failures: Vec<_> = samples.iter().filter_map(failure).collect();
    if !failures.is_empty() {
        let _always_fits = write!(text, "\n## Failed\n\n{}", failures.concat());
    }
    text
}

fn head(plan: &Plan, machine: &Machine) -> String {
    let hardware = &machine.hardware;
    let versions: String =
        machine.versions.iter().map(|(name, version)| format!("- {name}: {version}\n")).collect();
    let notes: String = plan.notes.iter().map(|note| format!("- {note}\n")).collect();
    format!(
        "    {}\n\n{}, revision {}. {hardware}\n\n{versions}{notes}\n\
         Medians of {} rounds by turns, {} s each (least–most). Client, proxy and origin share one \
         network namespace's loopback and all processors. CPU is user and system time of all \
         processes of the proxy, its connections' beginnings included; peak is VmHWM, maps is what the \
         kernel says of BPF maps (memlock), slab what SUnreclaim, VmallocUsed, Percpu and KernelStack of \
         /proc/meminfo have grown by since before the start. {NOISE}\n\n\
         ![The main cells](proxies.svg)\n",
        machine.command_line, machine.date, machine.revision, plan.rounds, plan.seconds,
    )
}

fn bar(verdicts: &[Verdict]) -> Table {
    let mut table = empty(&["what", "cell", "weir", "against", "bar", "measured", ""]);
    for it in verdicts {
        table.add_row([
            it.what,
            it.cell,
            &it.way,
            &it.against,
            &it.limit,
            &format!("{:.2}", it.value),
            if it.met { "met" } else { "**not met**" },
        ]);
    }
    table
}

fn table(cores: Cores, cell: Cell, samples: &Samples) -> Table {
    let name = cell.to_string();
    let ways = samples.ways(cores, &name);
    let spread = |way: &str, figure: Figure| {
        Some(figure.shown(cell, samples.spread(cores, &name, way, figure)?))
    };
    let mut columns = COLUMNS.to_vec();
    columns.retain(|figure| ways.iter().any(|way| spread(way, *figure).is_some()));
    let titles: Vec<_> = columns.iter().map(|figure| figure.title(cell)).collect();
    let mut header = vec!["way"];
    header.extend(titles.iter().map(String::as_str));
    let mut table = empty(&header);
    for way in plan_order(&ways) {
        let mut row = vec![way.to_owned()];
        row.extend(columns.iter().map(|figure| spread(way, *figure).map_or("–".into(), show)));
        if samples.failed(cores, &name, way) {
            row[1..].fill("failed".into());
        }
        table.add_row(row);
    }
    table
}

/// weir first, as it is what the reader looks for; direct before everything.
fn plan_order<'a>(ways: &[&'a str]) -> Vec<&'a str> {
    let mut ways = ways.to_vec();
    let rank = |way: &str| match way {
        "direct" => 0,
        _ if way.starts_with("redirect") => 1,
        _ if way.starts_with("weir") => 2,
        _ => 3,
    };
    ways.sort_by_key(|way| (rank(way), *way));
    ways
}

fn show(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    let digits = match median.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn failure(sample: &super::results::Sample) -> Option<String> {
    let failure = sample.failure.as_ref()?.lines().collect::<Vec<_>>().join(" / ");
    let super::results::Sample { cores, cell, way, round, .. } = sample;
    Some(format!("- {cell}, {cores} core(s), round {}: {way}: {failure}\n", round + 1))
}

fn empty(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_figures_have_more_digits() {
        let show = |median| show(Spread { median, least: 1.0, most: 2.0 });
        assert_eq!(show(3.456), "3.46 (1.00–2.00)");
        assert_eq!(show(34.56), "34.6 (1.0–2.0)");
        assert_eq!(show(61_234.5), "61234 (1–2)");
    }
}

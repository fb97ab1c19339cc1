//! The plot: a panel with bars for each of the main cells, rate on the left and cost on the right.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::Plan;
use super::cells::Cell;
use super::proxy::Cores;
use super::results::{Figure, Samples};
use super::stats::Spread;

/// Cells that are drawn, where they were measured.
const MAIN: [&str; 6] =
    ["http1-1-1k", "http1-50-1k", "http2-50x10", "grpc-50x10", "stream-1", "connect-1"];

const WIDTH: u32 = 1100;
const ROW: u32 = 300;

const WEIR: RGBColor = RGBColor(0x1b, 0x6c, 0xa8);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const RANGE: RGBColor = RGBColor(0x30, 0x30, 0x30);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// # Errors
///
/// Fails when the file cannot be written.
pub(super) fn write(path: &Path, plan: &Plan, samples: &Samples) -> Result<()> {
    let cores = *plan.cores.first().context("no cores")?;
    let measured = |cell: &&Cell| {
        let name = cell.to_string();
        MAIN.contains(&name.as_str()) && !samples.ways(cores, &name).is_empty()
    };
    let cells: Vec<_> = plan.cells.iter().filter(measured).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let root = SVGBackend::new(path, (WIDTH, ROW * cells.len() as u32)).into_drawing_area();
    draw(&root, cores, &cells, samples).map_err(|error| anyhow!("cannot draw: {error}"))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(root: &Area<'_>, cores: Cores, cells: &[&Cell], samples: &Samples) -> Drawn {
    root.fill(&WHITE)?;
    for (row, cell) in root.split_evenly((cells.len(), 1)).iter().zip(cells) {
        let sides = row.split_evenly((1, 2));
        for (area, figure) in sides.iter().zip([Figure::Rate, Figure::CpuUs]) {
            panel(area, cores, **cell, figure, samples)?;
        }
    }
    root.present()?;
    Ok(())
}

fn panel(area: &Area<'_>, cores: Cores, cell: Cell, figure: Figure, samples: &Samples) -> Drawn {
    let name = cell.to_string();
    let mut bars: Vec<(&str, Spread)> = samples
        .ways(cores, &name)
        .into_iter()
        .filter_map(|way| {
            let spread = samples.spread(cores, &name, way, figure)?;
            Some((way, figure.shown(cell, spread)))
        })
        .collect();
    bars.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
    let most = bars.iter().map(|bar| bar.1.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(());
    }
    let title = format!("{name}, {cores} core(s): {}", figure.title(cell));
    let count = bars.len();
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(22)
        .y_label_area_size(130)
        .build_cartesian_2d(0.0..most * 1.02, (0..count - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(WHITE)
        .x_labels(5)
        .y_labels(count)
        .y_label_formatter(&|segment| label(segment, &bars))
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(at, (way, spread))| {
        let colour = if way.starts_with("weir") { WEIR } else { OTHERS };
        let corners =
            [(0.0, SegmentValue::Exact(at)), (spread.median, SegmentValue::Exact(at + 1))];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(2, 2, 0, 0);
        bar
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(at, (_, spread))| {
        let middle = || SegmentValue::CenterOf(at);
        PathElement::new(vec![(spread.least, middle()), (spread.most, middle())], RANGE)
    }))?;
    Ok(())
}

fn label(segment: &SegmentValue<usize>, bars: &[(&str, Spread)]) -> String {
    match segment {
        SegmentValue::CenterOf(at) => bars.get(*at).map(|bar| bar.0.to_owned()).unwrap_or_default(),
        _ => String::new(),
    }
}

//! `cargo xtask picture`: draws the life of a held outbound connection as a sequence diagram,
//! `docs/connection.svg`. Its steps are the table [`STEPS`]; `cargo xtask tidy` compares the file with it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use svg::{
    Document,
    node::element::{
        Circle, Definitions, Group, Line, Marker, Path as Shape, Rectangle, Style, Text,
    },
};

/// Where the picture is, from the root of the repository.
pub(crate) const FILE: &str = "docs/connection.svg";

/// The participants, from left to right: a name and where it runs.
const LANES: [(Lane, &str, &str); 5] = [
    (Lane::Application, "application", "workload's cgroup"),
    (Lane::Kernel, "BPF programs", "kernel"),
    (Lane::Main, "main thread", "weir"),
    (Lane::Worker, "worker thread", "weir, one for each CPU"),
    (Lane::Upstream, "upstream server", ""),
];

/// One column of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Application,
    Kernel,
    Main,
    Worker,
    Upstream,
}

/// One row of the picture.
enum Step {
    /// Something passes from one lane to another.
    Passes(Lane, Lane, &'static str),
    /// Something happens within a lane.
    Happens(Lane, &'static str),
}

use Lane::{Application, Kernel, Main, Upstream, Worker};
use Step::{Happens, Passes};

/// What happens, in order.
const STEPS: [Step; 18] = [
    Passes(Application, Kernel, "connect(2) to 10.1.2.3:80"),
    Happens(Kernel, "connect4: the destination becomes a listener of weir"),
    Happens(Kernel, "sockops: the original destination, in PENDING"),
    Passes(Kernel, Main, "SYN dropped, reported (HOLDS)"),
    Passes(Main, Worker, "the least loaded worker"),
    Happens(Worker, "a socket of the workload's namespace, made by a helper thread"),
    Passes(Worker, Upstream, "SYN to 10.1.2.3:80"),
    Passes(Upstream, Worker, "connected, or an error"),
    Passes(Worker, Kernel, "ready in PENDING; the same SYN again, by a raw socket"),
    Passes(Kernel, Application, "handshake; connect(2) returns 0"),
    Passes(Kernel, Main, "accept(2), ACCEPTED"),
    Passes(Main, Worker, "accepted socket"),
    Passes(Application, Worker, "bytes"),
    Passes(Worker, Upstream, "the same bytes, at once"),
    Happens(Worker, "detection and the HTTP observer read a copy"),
    Passes(Upstream, Worker, "bytes"),
    Passes(Worker, Application, "the same bytes, at once"),
    Happens(Worker, "both sides closed: metrics, statistics, access record"),
];

const WIDTH: usize = 1000;
const TOP: usize = 70;
const ROW: usize = 38;

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.lane { font-weight: 600; }
.place, .label { font-size: 12px; }
.place { fill: #59636e; }
.life { stroke: #d1d9e0; stroke-dasharray: 3 4; }
.arrow { stroke: #0969da; stroke-width: 1.5; }
.head, .point { fill: #0969da; }
.ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.place { fill: #9198a1; }
.life { stroke: #3d444d; }
.arrow { stroke: #4493f8; }
.head, .point { fill: #4493f8; }
.ground { fill: #0d1117; }
}";

/// Draws the picture.
///
/// # Errors
/// Where the file cannot be written.
pub(crate) fn run(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    fs::write(&path, draw()).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{FILE} is drawn");
    Ok(())
}

/// The picture as SVG.
pub(crate) fn draw() -> String {
    let height = TOP + STEPS.len() * ROW + ROW;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("role", "img")
        .add(svg::node::element::Title::new("Life of a held outbound connection"))
        .add(Style::new(STYLE))
        .add(Definitions::new().add(head()))
        .add(Rectangle::new().set("class", "ground").set("width", WIDTH).set("height", height));
    for (lane, name, place) in LANES {
        document = document.add(head_of(lane, name, place, height));
    }
    for (number, step) in STEPS.iter().enumerate() {
        document = document.add(row(step, TOP + number * ROW + ROW));
    }
    format!("{document}\n")
}

// === impl Lane ===

impl Lane {
    /// The middle of its column.
    fn x(self) -> usize {
        match self {
            Self::Application => 90,
            Self::Kernel => 300,
            Self::Main => 510,
            Self::Worker => 710,
            Self::Upstream => 910,
        }
    }
}

// === helpers ===

/// The head of an arrow.
fn head() -> Marker {
    Marker::new()
        .set("id", "head")
        .set("viewBox", "0 0 8 8")
        .set("refX", 7)
        .set("refY", 4)
        .set("markerWidth", 8)
        .set("markerHeight", 8)
        .set("orient", "auto")
        .add(Shape::new().set("class", "head").set("d", "M0 0 L8 4 L0 8 z"))
}

fn head_of(lane: Lane, name: &str, place: &str, height: usize) -> Group {
    let x = lane.x();
    Group::new()
        .add(text(name, x, 26).set("class", "lane"))
        .add(text(place, x, 44).set("class", "place"))
        .add(line(x, 56, x, height - 16).set("class", "life"))
}

fn row(step: &Step, y: usize) -> Group {
    match *step {
        Step::Passes(from, to, label) => {
            let arrow =
                line(from.x(), y, to.x(), y).set("class", "arrow").set("marker-end", "url(#head)");
            let middle = usize::midpoint(from.x(), to.x());
            Group::new()
                .add(arrow)
                .add(text(label, within(middle, label), y - 6).set("class", "label"))
        }
        Step::Happens(lane, label) => {
            let point =
                Circle::new().set("class", "point").set("cx", lane.x()).set("cy", y).set("r", 4);
            Group::new()
                .add(point)
                .add(text(label, within(lane.x(), label), y - 8).set("class", "label"))
        }
    }
}

/// The middle of a label that is to stay inside the picture.
fn within(middle: usize, label: &str) -> usize {
    // Half of a character of 12 px is at most 3.2 px wide on average.
    let half = label.len() * 32 / 10;
    middle.clamp(half + 8, WIDTH - half - 8)
}

fn text(content: &str, x: usize, y: usize) -> Text {
    Text::new(content).set("x", x).set("y", y).set("text-anchor", "middle")
}

fn line(x1: usize, y1: usize, x2: usize, y2: usize) -> Line {
    Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2)
}

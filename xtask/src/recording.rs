//! `cargo xtask recording`: runs the demo, and writes what it says as `docs/demo.svg`: a terminal whose
//! lines come as they did, within twenty seconds.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use svg::Document;
use svg::node::element::{Group, Rectangle, SVG, Style, TSpan, Text, Title};

/// Where the recording is, from the root of the repository.
const FILE: &str = "docs/demo.svg";

/// How long it takes before it begins again; the last seconds are for reading.
const LENGTH: Duration = Duration::from_secs(20);
/// Of these.
const END: Duration = Duration::from_secs(4);
/// The longest pause between two lines that is kept, before all are stretched: the demo waits for servers.
const PAUSE: Duration = Duration::from_millis(700);
/// Each line stands for at least this long.
const LINE: Duration = Duration::from_millis(60);

/// What fits into the window.
const ROWS: usize = 26;
const COLUMNS: usize = 100;
const WIDTH: usize = 860;
const ROW: usize = 17;
const MARGIN: usize = 12;

/// Only what the demo says of one command and of the end of weir: the rest is in its output.
const CHAPTERS: [&str; 2] = ["1. ", "3. "];

const STYLE: &str = "
text { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; fill: #d5dbe1; white-space: pre; }
.ground { fill: #14171a; }
.command { fill: #5fc98f; }
.chapter { fill: #ffffff; font-weight: 700; }";

/// A line, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    at: Duration,
    text: String,
}

/// Runs the demo and writes the recording.
///
/// # Errors
/// Where the demo fails, or the file cannot be written.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut command = Command::new(env::current_exe()?);
    let mut demo =
        command.arg("demo").stdout(Stdio::piped()).spawn().context("cannot run the demo")?;
    let said = demo.stdout.take().context("stdout was asked for")?;
    let (begin, mut lines) = (Instant::now(), Vec::new());
    for text in BufReader::new(said).lines() {
        let text = text?;
        println!("{text}");
        lines.push(Line { at: begin.elapsed(), text: without_places(&text, root) });
    }
    ensure!(demo.wait()?.success(), "the demo failed; nothing is written");
    let path = root.join(FILE);
    fs::write(&path, draw(&fitted(chosen(lines))))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{FILE} is written");
    Ok(())
}

/// A path below the repository without what is before.
fn without_places(text: &str, root: &Path) -> String {
    text.replace(&format!("{}/", root.display()), "")
}

/// The lines of the chapters.
fn chosen(lines: Vec<Line>) -> Vec<Line> {
    let mut shown = false;
    let begins =
        |text: &str| text.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    let mut kept = Vec::new();
    for line in lines {
        if begins(&line.text) {
            shown = CHAPTERS.iter().any(|chapter| line.text.starts_with(chapter));
        }
        // Long rules below headings are for terminals.
        if shown && !line.text.starts_with('─') {
            kept.push(line);
        }
    }
    kept
}

/// The same lines over the time of the recording, with no pause that is too long beside the others.
fn fitted(lines: Vec<Line>) -> Vec<Line> {
    let (mut at, mut before) = (Duration::ZERO, None);
    let mut fitted = Vec::new();
    for line in lines {
        let pause = before.map_or(Duration::ZERO, |before| line.at.saturating_sub(before));
        before = Some(line.at);
        at += pause.clamp(LINE, PAUSE);
        fitted.push(Line { at, ..line });
    }
    for line in &mut fitted {
        line.at = (LENGTH - END).mul_f64(line.at.div_duration_f64(at));
    }
    fitted
}

/// The recording as SVG: the lines are one below the other, and move up behind the window.
fn draw(lines: &[Line]) -> String {
    let height = ROWS * ROW + 2 * MARGIN;
    let mut text = Text::new("").set("x", MARGIN).set("xml:space", "preserve");
    for (number, line) in lines.iter().enumerate() {
        let cut: String = line.text.chars().take(COLUMNS).collect();
        let mut span = TSpan::new(cut).set("x", MARGIN).set("y", MARGIN + (number + 1) * ROW - 4);
        let is_chapter = line.text.starts_with(|first: char| first.is_ascii_digit());
        if line.text.trim_start().starts_with("$ ") {
            span = span.set("class", "command");
        } else if is_chapter && CHAPTERS.iter().any(|chapter| line.text.starts_with(chapter)) {
            span = span.set("class", "chapter");
        }
        text = text.add(span);
    }
    // A window within the picture cuts off what is above and below.
    let window = SVG::new().set("width", WIDTH).set("height", height);
    let document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("role", "img")
        .add(Title::new("weir's demo in a terminal"))
        .add(Style::new(format!("{STYLE}\n{}", steps(lines))))
        .add(
            Rectangle::new()
                .set("class", "ground")
                .set("width", WIDTH)
                .set("height", height)
                .set("rx", 8),
        )
        .add(window.add(Group::new().set("class", "lines").add(text)));
    format!("{document}\n")
}

/// With each line all of them go up, so that it is the last one in the window.
fn steps(lines: &[Line]) -> String {
    use std::fmt::Write as _;
    let up = |shown: usize| {
        let (rows, shown) = (i64::try_from(ROWS), i64::try_from(shown));
        (rows.unwrap_or_default() - shown.unwrap_or_default())
            * i64::try_from(ROW).unwrap_or_default()
    };
    let mut css = format!(
        ".lines {{ animation: up {}s step-end infinite; }}\n@keyframes up {{\n0% {{ transform: \
         translateY({}px); }}\n",
        LENGTH.as_secs(),
        up(0)
    );
    for (number, line) in lines.iter().enumerate() {
        let percent = 100.0 * line.at.div_duration_f64(LENGTH);
        let _ = writeln!(css, "{percent:.2}% {{ transform: translateY({}px); }}", up(number + 1));
    }
    css.push('}');
    css
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(millis: u64, text: &str) -> Line {
        Line { at: Duration::from_millis(millis), text: text.to_owned() }
    }

    #[test]
    fn pauses_are_cut_and_everything_fills_the_time() {
        let quick = fitted(vec![line(0, "a"), line(10, "b"), line(9000, "c")]);
        let at: Vec<_> = quick.iter().map(|it| it.at.as_millis()).collect();
        // 60, 120 and 820 before they are stretched.
        assert_eq!(at, [1170, 2341, 16_000]);
        let long = fitted((0..500).map(|number| line(number * 1000, "x")).collect());
        assert!(long.is_sorted_by_key(|it| it.at));
        assert!(long.last().is_some_and(|it| it.at <= LENGTH - END), "{long:?}");
    }

    #[test]
    fn chapters_are_chosen_and_paths_are_not_of_this_machine() {
        let said = ["Starting", "1. One", "────", "$ a", "2. Two", "b", "3. Three", "c"];
        let chosen = chosen(said.iter().map(|text| line(0, text)).collect());
        let texts: Vec<_> = chosen.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["1. One", "$ a", "3. Three", "c"]);
        assert_eq!(
            without_places("python3 /a/b/tests/x.py", Path::new("/a/b")),
            "python3 tests/x.py"
        );
    }

    #[test]
    fn text_is_text_and_each_line_moves_the_others_up() {
        let drawn = draw(&[line(0, "$ echo '<b>&'"), line(1000, "second")]);
        assert!(drawn.contains("&lt;b&gt;&amp;") && !drawn.contains("<b>"), "{drawn}");
        assert!(drawn.contains("class=\"command\""), "{drawn}");
        let up = format!("5.00% {{ transform: translateY({}px); }}", (ROWS - 2) * ROW);
        assert!(drawn.contains(&up), "{drawn}");
    }
}

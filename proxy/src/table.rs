//! Tables for people: aligned columns, nothing else. On a terminal a table fits the width: the columns
//! that matter least are left out first, then the longest texts are cut.

use std::io::{self, IsTerminal, Write as _};

use anstyle::{AnsiColor, Style};

/// Between two columns.
const GAP: usize = 2;

/// No text is cut to less than this many characters.
const LEAST: usize = 8;

/// What marks a cell that reports a failure.
const ALARM: Style = AnsiColor::Red.on_default();

/// How wide a table may be. Without a width all columns are printed, in full and without colour: other
/// programs read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Width(Option<usize>);

/// A column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    head: String,
    /// Aligned to the right, and never cut.
    is_number: bool,
    /// Columns with the highest rank are left out first; those of rank 0 never.
    rank: u8,
    /// Left out on a terminal where no row has anything in it.
    is_optional: bool,
}

/// One cell of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    is_alarm: bool,
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A part of a printed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// With the spaces that align it.
    pub(crate) text: String,
    /// It reports a failure.
    pub(crate) is_alarm: bool,
}

// === impl Width ===

impl Width {
    /// That of a terminal with so many columns.
    #[must_use]
    pub const fn columns(columns: usize) -> Self {
        Self(Some(columns))
    }

    /// That of stdout: of a terminal its number of columns.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        Self::of(stdout.is_terminal(), terminal_size::terminal_size_of(stdout))
    }

    /// The same of stderr.
    #[must_use]
    pub fn of_stderr() -> Self {
        let stderr = io::stderr();
        Self::of(stderr.is_terminal(), terminal_size::terminal_size_of(stderr))
    }

    /// A terminal that does not know its size is 0 wide.
    fn of(is_terminal: bool, size: Option<(terminal_size::Width, terminal_size::Height)>) -> Self {
        let columns = size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        Self(columns.filter(|_| is_terminal))
    }
}

// === impl Column ===

impl Column {
    /// A column of texts.
    pub(crate) fn text(head: &str, rank: u8) -> Self {
        Self { head: head.to_owned(), is_number: false, rank, is_optional: false }
    }

    /// A column of numbers.
    pub(crate) fn number(head: &str, rank: u8) -> Self {
        Self { head: head.to_owned(), is_number: true, rank, is_optional: false }
    }

    /// On a terminal it is left out where all its cells are empty or `-`.
    pub(crate) fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

// === impl Cell ===

impl Cell {
    /// One that reports a failure, if there is one.
    pub(crate) fn alarm_if(is_alarm: bool, text: String) -> Self {
        Self { text, is_alarm }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, is_alarm: false }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn add(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as text, one line per row, without trailing spaces.
    pub(crate) fn print(&self, width: Width) -> String {
        let mut text = Vec::new();
        for line in self.lines(width) {
            for piece in line {
                // Writing to memory does not fail.
                let _ = match piece.is_alarm {
                    true => write!(text, "{ALARM}{}{ALARM:#}", piece.text),
                    false => write!(text, "{}", piece.text),
                };
            }
            text.push(b'\n');
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The header and the rows, as they are printed.
    pub(crate) fn lines(&self, width: Width) -> Vec<Vec<Piece>> {
        let shown = self.fit(width);
        let header: Vec<_> =
            self.columns.iter().map(|column| Cell::from(column.head.as_str())).collect();
        let lines = std::iter::once(&header).chain(&self.rows);
        lines.map(|cells| self.line(cells, &shown, width.0.is_some())).collect()
    }

    /// The columns that are shown, with their widths.
    fn fit(&self, Width(limit): Width) -> Vec<(usize, usize)> {
        let length = |text: &str| text.chars().count();
        let columns = self.columns.iter().enumerate();
        let mut shown: Vec<_> = columns
            .map(|(at, column)| {
                let longest = self.rows.iter().map(|row| length(&row[at].text)).max();
                (at, longest.unwrap_or(0).max(length(&column.head)))
            })
            .collect();
        let Some(limit) = limit else { return shown };
        let is_empty =
            |at: usize| self.rows.iter().all(|row| row[at].text.is_empty() || row[at].text == "-");
        shown.retain(|(at, _)| !(self.columns[*at].is_optional && is_empty(*at)));
        let total = |shown: &[(usize, usize)]| {
            shown.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while total(&shown) > limit {
            let rank = |(_, (at, _)): &(usize, &(usize, usize))| self.columns[*at].rank;
            match shown.iter().enumerate().max_by_key(rank) {
                Some((least, (at, _))) if self.columns[*at].rank > 0 => _ = shown.remove(least),
                _ => break,
            }
        }
        while total(&shown) > limit {
            let excess = total(&shown) - limit;
            let texts = shown.iter_mut().filter(|(at, _)| !self.columns[*at].is_number);
            match texts.max_by_key(|(_, width)| *width) {
                Some((_, width)) if *width > LEAST => *width -= excess.min(*width - LEAST),
                _ => break,
            }
        }
        shown
    }

    fn line(&self, cells: &[Cell], shown: &[(usize, usize)], colour: bool) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut gap = 0;
        for (at, width) in shown {
            let cell = &cells[*at];
            let text = cut(&cell.text, *width);
            let spaces = width - text.chars().count();
            let (before, after) =
                if self.columns[*at].is_number { (spaces, 0) } else { (0, spaces) };
            let plain = |text: String| Piece { text, is_alarm: false };
            pieces.push(plain(" ".repeat(gap + before)));
            pieces.push(Piece { text, is_alarm: colour && cell.is_alarm });
            gap = after + GAP;
        }
        pieces.retain(|piece| !piece.text.is_empty());
        while pieces.last().is_some_and(|piece| piece.text.trim_end().is_empty()) {
            pieces.pop();
        }
        pieces
    }
}

// === helpers ===

/// The text, or its beginning and a sign that there is more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let begin: String = text.chars().take(width.saturating_sub(1)).collect();
    begin + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::text("DESTINATION", 0),
            Column::text("NAME", 1),
            Column::number("REQ", 0),
            Column::number("SENT", 3),
            Column::text("FAILED", 2),
        ]);
        let row = |cells: [&str; 4]| cells.map(Cell::from).to_vec();
        let mut first = row(["192.0.2.1:80", "shop.example", "1000", "12 KiB"]);
        first.push(Cell::alarm_if(true, "3 ECONNREFUSED".to_owned()));
        table.add(first);
        let mut second = row(["[2001:db8::1]:443", "-", "7", "1 B"]);
        second.push("".into());
        table.add(second);
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn other_programs_get_all_columns_without_colour() {
        assert_eq!(
            table().print(Width::default()),
            "DESTINATION        NAME           REQ    SENT  FAILED\n\
             192.0.2.1:80       shop.example  1000  12 KiB  3 ECONNREFUSED\n\
             [2001:db8::1]:443  -                7     1 B\n"
        );
    }

    #[test]
    fn the_columns_that_matter_least_go_first_and_then_texts_are_cut() {
        let heads = |columns| {
            let text = table().print(Width::columns(columns));
            text.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        let expect = |columns, expected: &[&str]| {
            let heads: Vec<String> = heads(columns);
            assert_eq!(heads, expected, "{columns}");
        };
        expect(80, &["DESTINATION", "NAME", "REQ", "SENT", "FAILED"]);
        expect(60, &["DESTINATION", "NAME", "REQ", "FAILED"]);
        expect(40, &["DESTINATION", "NAME", "REQ"]);
        expect(25, &["DESTINATION", "REQ"]);
        assert_eq!(
            table().print(Width::columns(16)),
            "DESTINATI…   REQ\n192.0.2.1…  1000\n[2001:db8…     7\n"
        );
        // Nothing is cut to nothing.
        assert_eq!(widest(&table().print(Width::columns(1))), 14);
    }

    #[test]
    fn failures_are_red_on_a_terminal() {
        let text = table().print(Width::columns(200));
        assert!(text.contains("  \u{1b}[31m3 ECONNREFUSED\u{1b}[0m\n"), "{text:?}");
        assert_eq!(text.matches('\u{1b}').count(), 2);
    }

    #[test]
    fn optional_columns_without_anything_are_left_out_on_a_terminal() {
        let mut empty = Table::new(vec![Column::text("A", 0), Column::text("B", 0).optional()]);
        empty.add(vec!["-".into(), "-".into()]);
        assert_eq!(empty.print(Width::columns(80)), "A\n-\n");
        assert_eq!(empty.print(Width::default()), "A  B\n-  -\n");
        empty.add(vec!["-".into(), "b".into()]);
        assert_eq!(empty.print(Width::columns(80)), "A  B\n-  -\n-  b\n");
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal_unless_that_is_tiny(columns in 26_usize..300) {
            let text = anstream::adapter::strip_str(&table().print(Width::columns(columns))).to_string();
            proptest::prop_assert!(widest(&text) <= columns, "{}", text);
        }
    }
}

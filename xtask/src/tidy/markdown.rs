//! Tables and code spans of Markdown, as far as this repository's documentation uses them.

/// A row of a table, with the number of its line.
pub(super) struct Row {
    pub(super) line: usize,
    pub(super) cells: Vec<String>,
}

/// The rows of the first table with exactly these column titles; `None` where there is none.
pub(super) fn table(text: &str, titles: &[&str]) -> Option<Vec<Row>> {
    let mut rows = text.lines().enumerate().map(|(at, line)| (at + 1, cells(line)));
    rows.find(|(_, cells)| cells.as_ref().is_some_and(|cells| cells == titles))?;
    let body = rows.skip(1).map_while(|(line, cells)| Some(Row { line, cells: cells? }));
    Some(body.collect())
}

/// What is between backticks on a line, in order.
pub(super) fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

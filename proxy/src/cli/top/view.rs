//! What `weir top` shows on a terminal, and what its keys do. No terminal is needed for it.

use std::time::{Duration, SystemTime};

use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::shown::Shown;
use crate::{
    table::{Piece, Width},
    telemetry::stats::Order,
    units::{human_duration, rfc3339},
};

/// What each key does.
const HELP: [(&str, &str); 9] = [
    ("q  Esc", "quit"),
    ("s  S", "next, previous sort order"),
    ("r", "reverse the order"),
    ("f  /", "filter rows by a text; Enter keeps it, Esc drops it"),
    ("p  Space", "pause, continue"),
    ("↑ ↓  k j", "scroll by a row"),
    ("PgUp PgDn", "scroll by a page"),
    ("Home End", "first, last row"),
    ("h  ?", "this help"),
];

const KEYS: &str = " q quit  s sort  f filter  p pause  ↑↓ scroll  h help";

/// The state of the view.
pub(super) struct View {
    /// What rows are about: `destination`.
    by: String,
    order: Order,
    is_reversed: bool,
    filter: String,
    /// The text is being typed; what it was before.
    typing: Option<String>,
    is_paused: bool,
    is_help: bool,
    /// The first row that is shown.
    top: usize,
    /// How many rows there was room for.
    page: usize,
    /// The first row of the last page.
    last: usize,
    sample: Option<Sample>,
}

/// What has happened in an interval.
pub(super) struct Sample {
    pub(super) time: SystemTime,
    pub(super) took: Duration,
    pub(super) shown: Shown,
}

// === impl View ===

impl View {
    pub(super) fn new(by: &str, order: Order) -> Self {
        Self {
            by: by.to_owned(),
            order,
            is_reversed: false,
            filter: String::new(),
            typing: None,
            is_paused: false,
            is_help: false,
            top: 0,
            page: 1,
            last: 0,
            sample: None,
        }
    }

    /// Shows what is new, unless it is paused.
    pub(super) fn update(&mut self, sample: Sample) {
        if !self.is_paused {
            self.sample = Some(sample);
            self.sort();
        }
    }

    /// Does what the key asks for; true if that is the end.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'd'));
        }
        if self.typing.is_some() {
            self.typed(key.code);
            return false;
        }
        if std::mem::take(&mut self.is_help) {
            return key.code == KeyCode::Char('q');
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('s') => self.order_by(1),
            KeyCode::Char('S') => self.order_by(Order::ALL.len() - 1),
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                self.sort();
            }
            KeyCode::Char('f' | '/') => self.typing = Some(self.filter.clone()),
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('h' | '?') => self.is_help = true,
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.top += 1,
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.page),
            KeyCode::PageDown => self.top += self.page,
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = self.last,
            _ => {}
        }
        false
    }

    fn typed(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => self.filter = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() => self.filter.push(c),
            _ => {}
        }
        self.top = 0;
    }

    fn order_by(&mut self, steps: usize) {
        let orders = match &self.sample {
            Some(sample) => sample.shown.orders(),
            None => &Order::ALL,
        };
        let at = orders.iter().position(|order| *order == self.order).unwrap_or(0);
        let steps = if steps == 1 { 1 } else { orders.len() - 1 };
        self.order = orders[(at + steps) % orders.len()];
        self.top = 0;
        self.sort();
    }

    fn sort(&mut self) {
        if let Some(sample) = &mut self.sample {
            sample.shown.sort(self.order, self.is_reversed);
        }
    }

    /// Draws all of it.
    pub(super) fn render(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let rows = [Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)];
        let [head, body, foot] = Layout::vertical(rows).areas(area);
        let Some(sample) = &self.sample else {
            frame.render_widget(Paragraph::new(vec![self.title("waiting for an interval")]), head);
            return frame.render_widget(Paragraph::new(self.footer()), foot);
        };
        let kept = sample.shown.filtered(&self.filter);
        let width = Width::columns(usize::from(area.width));
        let mut lines = kept.table().lines(width).into_iter().map(line);
        let header = lines.next().unwrap_or_default().bold().reversed();
        let lines: Vec<_> = lines.collect();
        self.page = usize::from(body.height).saturating_sub(1).max(1);
        self.last = lines.len().saturating_sub(self.page);
        self.top = self.top.min(self.last);
        let of = format!(
            "{}  {}  {}",
            &rfc3339(sample.time)[11..19],
            human_duration(sample.took),
            sample.shown.counted(kept.len(), &self.by)
        );
        let total = Line::from(fitting(&kept.totals(), usize::from(area.width)));
        frame.render_widget(Paragraph::new(vec![self.title(&of), total]), head);
        let shown = std::iter::once(header).chain(lines.into_iter().skip(self.top));
        frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), body);
        frame.render_widget(Paragraph::new(self.footer()), foot);
        if self.is_help {
            help(frame, area);
        }
    }

    fn title(&self, what: &str) -> Line<'static> {
        let mut spans = vec![Span::from(" weir top  ").bold(), Span::from(what.to_owned())];
        let arrow = if self.is_reversed { "↑" } else { "↓" };
        spans.push(format!("  {arrow}{}", self.order.name()).into());
        if !self.filter.is_empty() && self.typing.is_none() {
            spans.push(Span::from(format!("  /{}", self.filter)).bold());
        }
        if self.is_paused {
            spans.push("  ".into());
            spans.push(Span::from(" PAUSED ").reversed());
        }
        spans.into()
    }

    fn footer(&self) -> Line<'static> {
        match self.typing {
            Some(_) => Line::from(format!(" filter: {}█", self.filter)),
            None => Line::from(KEYS).dim(),
        }
    }
}

// === helpers ===

fn line(pieces: Vec<Piece>) -> Line<'static> {
    let spans = pieces.into_iter().map(|piece| match piece.is_alarm {
        true => Span::styled(piece.text, alarm()),
        false => piece.text.into(),
    });
    spans.collect::<Vec<_>>().into()
}

/// As many of the parts as fit into a line.
fn fitting(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { " " } else { "  " };
        if line.chars().count() + gap.len() + part.chars().count() > width {
            break;
        }
        line.push_str(gap);
        line.push_str(part);
    }
    line
}

/// Without colours if the environment asks for that (no-color.org).
fn alarm() -> Style {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_plain { Style::new().bold() } else { Style::new().fg(Color::Red) }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> =
        HELP.iter().map(|(keys, what)| format!(" {keys:<10} {what}").into()).collect();
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let width = 66.min(area.width);
    let area = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}

#[cfg(test)]
mod tests;

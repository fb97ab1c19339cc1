//! The screen at several sizes, and what keys change of it.

use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyEvent};

use super::*;
use crate::{
    decision::{Direction, Source, Treatment},
    telemetry::stats::{Rate, StatRow, StatsSnapshot},
};

fn row(number: u8, requests: u64, failures: u64) -> StatRow {
    let row = serde_json::json!({
        "workload": "shop",
        "direction": "outbound",
        "destination": format!("192.0.2.{number}:80"),
        "treatment": Treatment::Http1,
        "source": "detected",
        "why": "request line",
        "connections": u64::from(number),
        "open": 1,
        "requests": requests,
        "successes": requests - failures,
        "failures": failures,
        "p50_us": null, "p95_us": null, "p99_us": null,
        "bytes_sent": requests * 1000,
        "bytes_received": requests * 300_000,
        "retransmits": 0,
        "latencies": [[1500, requests - failures], [20_000, failures]],
    });
    let row: StatRow = serde_json::from_value(row).unwrap();
    assert_eq!((row.direction, row.source), (Direction::Outbound, Some(Source::Detected)));
    row
}

/// An interval of two seconds in which `count` destinations got requests, the first one the most.
fn sample(count: u8) -> Sample {
    // Of many no two are to have the same.
    let most = if count > 12 { 4000 } else { 400 };
    let rows = (1..=count).map(|n| row(n, most / u64::from(n), if n == 2 { 20 } else { 0 }));
    let took = Duration::from_secs(2);
    let (before, after) = (StatsSnapshot::default(), StatsSnapshot { rows: rows.collect() });
    let shown = Shown::Rows(Rate::between(&before, &after, took, Order::Requests));
    Sample { time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_800), took, shown }
}

fn drawn(view: &mut View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.render(frame)).unwrap();
    let text = terminal.backend().to_string();
    // In quotes, line by line.
    text.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect()
}

fn view(count: u8) -> View {
    let mut view = View::new("destination", Order::Requests);
    view.update(sample(count));
    view
}

fn press(view: &mut View, keys: &[KeyCode]) -> bool {
    keys.iter().any(|key| view.key(KeyEvent::from(*key)))
}

fn text(view: &mut View, text: &str) {
    text.chars().for_each(|c| assert!(!press(view, &[KeyCode::Char(c)])));
}

/// The destinations' last numbers, from top to bottom.
fn order(view: &mut View) -> Vec<u8> {
    let drawn = drawn(view, 80, 24);
    let rows = drawn.lines().filter_map(|line| line.strip_prefix("192.0.2."));
    rows.map(|row| row.split(':').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_screen_fits_the_terminal() {
    for width in [60, 80, 200] {
        insta::assert_snapshot!(format!("top_{width}"), drawn(&mut view(4), width, 12));
    }
}

#[test]
fn before_the_first_interval_the_keys_are_shown() {
    let mut view = View::new("destination", Order::Requests);
    insta::assert_snapshot!("top_waiting", drawn(&mut view, 80, 5));
    assert!(!press(&mut view, &[KeyCode::Char('s'), KeyCode::Down, KeyCode::Char('p')]));
    assert!(press(&mut view, &[KeyCode::Char('q')]));
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    for (width, height) in [(1, 1), (2, 3), (20, 2), (500, 1)] {
        drawn(&mut view(9), width, height);
        let mut view = view(9);
        press(&mut view, &[KeyCode::Char('h')]);
        drawn(&mut view, width, height);
    }
}

#[test]
fn keys_sort_and_reverse() {
    let mut view = view(3);
    assert_eq!(order(&mut view), [1, 2, 3]);
    text(&mut view, "s");
    assert!(drawn(&mut view, 80, 24).contains("↓connections"));
    assert_eq!(order(&mut view), [3, 2, 1], "the third had most connections");
    text(&mut view, "r");
    assert!(drawn(&mut view, 80, 24).contains("↑connections"));
    assert_eq!(order(&mut view), [1, 2, 3]);
    text(&mut view, "rsss");
    assert!(drawn(&mut view, 80, 24).contains("↓latency"));
    assert_eq!(order(&mut view)[0], 2, "it has the failures, which are slow");
    text(&mut view, "sS");
    assert!(drawn(&mut view, 80, 24).contains("↓latency"));
    // A new interval keeps the order.
    view.update(sample(3));
    assert_eq!(order(&mut view)[0], 2);
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut view = view(12);
    text(&mut view, "/");
    text(&mut view, "2.1q");
    press(&mut view, &[KeyCode::Backspace]);
    assert!(drawn(&mut view, 80, 24).contains("filter: 2.1█"));
    assert!(!press(&mut view, &[KeyCode::Enter]));
    assert_eq!(order(&mut view), [1, 10, 11, 12]);
    let screen = drawn(&mut view, 80, 24);
    assert!(screen.contains("4 of 12 destinations") && screen.contains("/2.1"), "{screen}");
    // The sum is that of the rows that are shown: 400, 40, 36 and 33 requests in two seconds.
    assert!(screen.contains(" 254 req/s"), "{screen}");
    text(&mut view, "fHTTP1");
    assert_eq!(order(&mut view), [0; 0], "as one text");
    press(&mut view, &[KeyCode::Esc]);
    assert_eq!(order(&mut view), [1, 10, 11, 12], "the one before");
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut view = view(3);
    text(&mut view, "p");
    view.update(sample(5));
    assert_eq!(order(&mut view), [1, 2, 3]);
    assert!(drawn(&mut view, 80, 24).contains("PAUSED"));
    text(&mut view, " ");
    view.update(sample(5));
    assert_eq!(order(&mut view), [1, 2, 3, 4, 5]);
}

#[test]
fn rows_scroll_and_never_past_the_last() {
    let mut view = view(40);
    let first = |view: &mut View| order(view)[0];
    drawn(&mut view, 80, 24);
    press(&mut view, &[KeyCode::Down, KeyCode::Down]);
    assert_eq!(first(&mut view), 3);
    press(&mut view, &[KeyCode::PageDown]);
    assert_eq!(first(&mut view), 21, "40 rows, and room for 20");
    press(&mut view, &[KeyCode::Down]);
    assert_eq!(first(&mut view), 21);
    assert_eq!(order(&mut view).last(), Some(&40));
    press(&mut view, &[KeyCode::Home]);
    assert_eq!(first(&mut view), 1);
    press(&mut view, &[KeyCode::End, KeyCode::PageUp]);
    assert_eq!(first(&mut view), 1);
    press(&mut view, &[KeyCode::Up]);
    assert_eq!(first(&mut view), 1);
}

#[test]
fn help_has_every_key_and_any_key_closes_it() {
    let mut view = view(2);
    text(&mut view, "?");
    let screen = drawn(&mut view, 80, 24);
    insta::assert_snapshot!("top_help", screen);
    text(&mut view, "p");
    assert!(!drawn(&mut view, 80, 24).contains("PAUSED"), "it has closed the help");
    text(&mut view, "h");
    assert!(press(&mut view, &[KeyCode::Char('q')]));
}

/// In raw mode Ctrl-C is a key.
#[test]
fn control_c_quits_whatever_is_shown() {
    let mut view = view(2);
    text(&mut view, "/c");
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(view.key(key));
    let key = KeyEvent::new(KeyCode::Char('x'), KeyModifiers::CONTROL);
    assert!(!view.key(key));
}

//! `weir top` and the tables of `weir stat` and `weir connections` in a real pseudo-terminal, with real
//! traffic: what is on the screen at several widths, what keys do, and how the terminal is left.

mod pty;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, run, wait_until};
use weir_tests::servers::nginx::{H2C, HTTP1, Nginx};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, binary};

use pty::Pty;

/// Requests one after the other on one connection, and a connection that says nothing.
const CLIENT: &str = "
import http.client, itertools, socket, sys, time
host, port, other = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
silent = socket.create_connection((host, other))
connection = http.client.HTTPConnection(host, port)
for number in itertools.count():
    connection.request('GET', '/hello.txt', headers={'Host': 'shop.example'})
    connection.getresponse().read()
    if number == 3: print('at work', flush=True)
    time.sleep(0.01)
";

/// A weir with a workload that is at work.
struct Place {
    daemon: Daemon,
    _client: Process,
    _nginx: Nginx,
    _cgroup: Cgroup,
    _lab: Lab,
}

impl Place {
    fn new() -> Result<Self> {
        let (lab, cgroup) = (Lab::new()?, Cgroup::new("top")?);
        let nginx = Nginx::start(&lab)?;
        let daemon = Daemon::start(&lab, &cgroup, &[])?;
        let mut command = lab.client.command(PYTHON);
        command.args(["-c", CLIENT, SERVER_V4, &HTTP1.to_string(), &H2C.to_string()]);
        let client = Process::start("client", cgroup.wrap(&command), lab.dir())?;
        wait_until("requests", PATIENCE, || Ok(client.log().contains("at work")))
            .with_context(|| client.log())?;
        Ok(Self { daemon, _client: client, _nginx: nginx, _cgroup: cgroup, _lab: lab })
    }

    fn command(&self, verb: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(verb).arg("--control").arg(self.daemon.control());
        Ok(command)
    }

    fn pty(&self, verb: &[&str], columns: u16) -> Result<Pty> {
        Pty::start(&self.command(verb)?, columns, 24)
    }

    fn top(&self, columns: u16) -> Result<Pty> {
        let top = self.pty(&["top", "--interval", "200ms"], columns)?;
        top.wait_for(&to())?;
        assert!(top.is_taken()?, "{}", top.text());
        Ok(top)
    }
}

fn to() -> String {
    format!("{SERVER_V4}:{HTTP1}")
}

#[test]
fn the_screen_fits_60_80_and_200_columns() -> Result<()> {
    let place = Place::new()?;
    for (columns, wanted, missing) in [
        (60, "DESTINATION REQ/S SUCCESS P99", "RECEIVED/S"),
        (80, "DESTINATION REQ/S SUCCESS P50 P99", "RECEIVED/S"),
        (200, "DESTINATION DECISION CONN/S OPEN REQ/S SUCCESS P50 P99 SENT/S RECEIVED/S", "…"),
    ] {
        let mut top = place.top(columns)?;
        let text = top.text();
        let rows = top.rows();
        assert_eq!(rows.len(), 24, "{text}");
        assert!(rows[0].starts_with(" weir top  "), "{text}");
        assert!(rows[1].contains(" req/s  100% ok  P50 "), "{text}");
        let header: Vec<_> = rows[2].split_whitespace().collect();
        for column in wanted.split(' ') {
            assert!(header.contains(&column), "{columns}, {column}: {text}");
        }
        assert!(!rows[2].contains(missing), "{columns}: {text}");
        // A row is one line: the one behind the only row is empty.
        assert!(rows[3].starts_with(&to()) && rows[4].trim().is_empty(), "{text}");
        assert!(rows[23].starts_with(" q quit  s sort  f filter"), "{text}");
        top.keys("q")?;
        assert!(top.wait()?.success());
        wait_until("the usual screen", PATIENCE, || top.is_restored())?;
    }
    Ok(())
}

#[test]
fn keys_sort_filter_pause_and_explain_themselves() -> Result<()> {
    let place = Place::new()?;
    let mut top = place.top(100)?;
    top.wait_for("↓requests")?;
    top.keys("s")?;
    top.wait_for("↓connections")?;
    top.keys("/nothing")?;
    top.wait_for("filter: nothing█")?;
    top.keys("\r")?;
    top.wait_for("0 of 1 destination")?;
    assert!(!top.text().contains(&to()), "{}", top.text());
    // As an arrow, whose bytes begin with an escape.
    top.keys("\u{1b}[B")?;
    top.keys("f")?;
    top.wait_for("filter: nothing█")?;
    top.keys(&"\u{7f}".repeat(7))?;
    top.keys("HTTP1\r")?;
    top.wait_for(&to())?;
    top.keys("?")?;
    top.wait_for("filter rows by a text")?;
    top.keys("x")?;
    wait_until("the help to be gone", PATIENCE, || Ok(!top.text().contains("filter rows")))?;
    top.keys("p")?;
    top.wait_for("PAUSED")?;
    let paused = top.rows()[..4].to_vec();
    // As long as some intervals are, nothing changes.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(top.rows()[..4], paused);
    top.keys("p")?;
    wait_until("it to go on", PATIENCE, || Ok(top.rows()[0] != paused[0]))?;
    top.keys("\u{3}")?;
    assert!(top.wait()?.success(), "Ctrl-C is a key");
    wait_until("the usual screen", PATIENCE, || top.is_restored())
}

#[test]
fn a_change_of_the_size_is_followed() -> Result<()> {
    let place = Place::new()?;
    let top = place.top(200)?;
    top.wait_for("RECEIVED/S")?;
    top.resize(60, 10)?;
    wait_until("fewer columns", PATIENCE, || {
        let rows = top.rows();
        Ok(!rows[2].contains("RECEIVED/S")
            && rows[2].contains("REQ/S")
            && rows[9].starts_with(" q quit"))
    })
    .with_context(|| top.text())?;
    top.resize(200, 30)?;
    top.wait_for("RECEIVED/S")?;
    wait_until("keys on the last row", PATIENCE, || Ok(top.rows()[29].starts_with(" q quit")))
        .with_context(|| top.text())
}

#[test]
fn the_terminal_is_restored_when_a_signal_or_an_error_ends_it() -> Result<()> {
    let mut place = Place::new()?;
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut top = place.top(80)?;
        top.signal(signal)?;
        assert_eq!(top.wait()?.signal(), Some(signal as i32), "{}", top.text());
        wait_until("the usual screen", PATIENCE, || top.is_restored()).context(signal.as_str())?;
    }
    let mut top = place.top(80)?;
    place.daemon.stop()?;
    // No weir is running, or it has ended while it was asked.
    let code = top.wait()?.code();
    assert!([Some(4), Some(1)].contains(&code), "{code:?}: {}", top.text());
    wait_until("the usual screen", PATIENCE, || top.is_restored())?;
    // On it, where the message can be read.
    top.wait_for(".sock")
}

#[test]
fn what_is_no_terminal_gets_plain_intervals() -> Result<()> {
    let place = Place::new()?;
    let plain = run(&mut place.command(&["top", "--interval", "200ms", "-c", "2"])?, PATIENCE)?;
    let text = plain.ok()?.stdout;
    assert!(!text.contains('\u{1b}'), "{text}");
    let heads = text.lines().filter(|line| line.ends_with(" of 1 destinations"));
    assert_eq!(heads.count(), 2, "{text}");
    assert!(text.contains("SENT/S  RECEIVED/S"), "{text}");
    // On a terminal too, where a number of intervals is asked for.
    let mut counted = place.pty(&["top", "--interval", "200ms", "-c", "1"], 80)?;
    assert!(counted.wait()?.success());
    counted.wait_for(&to())?;
    assert!(counted.is_restored()?);
    Ok(())
}

#[test]
fn tables_fit_the_terminal() -> Result<()> {
    let place = Place::new()?;
    for (verb, wanted) in [("stat", "SUCCESS"), ("connections", "NAME")] {
        for columns in [60, 80, 200] {
            let mut table = place.pty(&[verb], columns)?;
            assert!(table.wait()?.success(), "{}", table.text());
            table.wait_for(&to())?;
            let rows = table.rows();
            let text = table.text();
            assert!(rows[0].contains("DESTINATION") && rows[0].contains(wanted), "{text}");
            // A line that is too long would go on on the next row.
            let about = |row: &&String| row.contains(&format!("{SERVER_V4}:"));
            let filled = rows.iter().filter(|row| !row.trim().is_empty()).count();
            assert_eq!(filled, rows.iter().filter(about).count() + 1, "{columns}: {text}");
        }
    }
    Ok(())
}

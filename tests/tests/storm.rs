//! weir is replaced, killed, stopped and started again, over and over, while connections of all kinds
//! come and go in both directions. No new connection fails, no byte is lost or changed, and nothing
//! that is open is cut before its time; but what a process was busy with dies with the process.

#[path = "storm/journal.rs"]
mod journal;
#[path = "storm/place.rs"]
mod place;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::load::{Kind, Trip};

use journal::{Event, Journal, Way, What};
use place::Storm;

/// No storm is as long, on the slowest machine: nothing is cut.
const PATIENT: [&str; 2] = ["--drain-deadline", "5m"];
/// How many times.
const ROUNDS: usize = 5;
/// `Heartbeat::LIMIT_NS`: what connects this long after the last sign of life goes direct.
const HEARTBEAT: Duration = Duration::from_secs(2);

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("short")
}

// === Upgrades ===

#[test]
fn upgrades_cut_nothing_and_let_nothing_pass() -> Result<()> {
    let mut storm = Storm::begin(&PATIENT)?;
    for _ in 0..ROUNDS {
        storm.upgrade(None)?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    journal.judge(|_, _| false)?;
    journal.all_proxied(|_, _| true)
}

/// Two weirs at a time use the kernel's set-up of the namespace, and the ports of clients.
#[test]
fn upgrades_with_client_addresses_preserved_cut_nothing() -> Result<()> {
    let mut storm = Storm::begin(&[&PATIENT[..], &["--preserve-client-ip"]].concat())?;
    for round in 0..ROUNDS {
        storm.upgrade((round % 3 == 1).then_some("another"))?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    journal.judge(|_, _| false)?;
    journal.all_proxied(|_, _| true)?;
    let foreign = journal.trips().find(|(way, trip)| {
        let ips = (trip.local.map(|it| it.ip()), trip.seen.map(|it| it.ip()));
        *way == Way::Inbound && trip.is_well() && ips.0 != ips.1
    });
    ensure!(foreign.is_none(), "the application saw another address: {foreign:#?}");
    Ok(())
}

#[test]
fn upgrades_to_another_layout_and_back_cut_nothing() -> Result<()> {
    let mut storm = Storm::begin(&PATIENT)?;
    for round in 0..ROUNDS {
        storm.upgrade((round % 2 == 0).then_some("another"))?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    journal.judge(|_, _| false)?;
    journal.all_proxied(|_, _| true)
}

#[test]
fn after_an_upgrade_nothing_is_cut_before_the_drain_deadline_and_tcp_is_then() -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(3);
    let mut storm = Storm::begin(&["--drain-deadline", "3s"])?;
    for _ in 0..2 {
        storm.upgrade(None)?;
        storm.retired_have_ended()?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    let overdue = |trip: &Trip, event: &Event| {
        trip.begin <= event.end && trip.end >= event.begin + nanoseconds(DEADLINE)
    };
    journal.judge(|trip, events| events.iter().any(|event| overdue(trip, event)))?;
    journal.all_proxied(|_, _| true)?;
    for event in journal.of(What::Upgraded) {
        let long = journal.trips().filter(|(_, trip)| trip.kind.stays() && overdue(trip, event));
        let long: Vec<_> = long.collect();
        ensure!(long.iter().any(|(_, trip)| trip.kind == Kind::Steady), "none stayed: {long:#?}");
        let going_on = long.iter().find(|(_, trip)| trip.begin < event.begin && trip.is_well());
        ensure!(going_on.is_none(), "not cut at the deadline: {going_on:#?}");
    }
    Ok(())
}

/// A successor that does not live long enough is as if it had never been, or weir is gone and
/// connections go direct. What it had accepted itself dies with it.
#[test]
fn an_upgrade_that_dies_on_the_way_cuts_nothing_of_the_one_that_runs() -> Result<()> {
    let mut storm = Storm::begin(&PATIENT)?;
    let usual = storm.upgrade(None)?;
    for round in 0..ROUNDS * 2 {
        let life = usual.mul_f64(fastrand::f64() * 1.2);
        storm.doomed_upgrade((round % 3 == 2).then_some("another"), life)?;
        storm.go_on()?;
        storm.start_unless_running()?;
    }
    storm.upgrade(None)?;
    storm.go_on()?;
    let journal = storm.finish()?;
    journal.judge(|trip, events| {
        let with_it = |event: &&Event| event.begin <= trip.begin && trip.begin <= event.end;
        events.iter().filter(|event| event.what == What::Doomed).any(|event| with_it(&event))
    })
}

// === The end of the process ===

#[test]
fn kill_9_cuts_what_it_carries_and_what_comes_next_goes_direct() -> Result<()> {
    let mut storm = Storm::begin(&PATIENT)?;
    for _ in 0..ROUNDS {
        storm.kill()?;
        storm.go_on()?;
        storm.start()?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    journal.judge(|trip, events| events.iter().any(|event| died_with_it(trip, event)))?;
    for (gap, start) in journal.of(What::Killed).zip(journal.of(What::Started).skip(1)) {
        journal.all_direct(gap.end, start.begin)?;
    }
    Ok(())
}

/// It was there at the moment of a `kill -9`.
fn died_with_it(trip: &Trip, event: &Event) -> bool {
    event.what == What::Killed && trip.begin <= event.end && trip.end >= event.begin
}

#[test]
fn sigterm_and_start_cut_nothing_before_the_drain_deadline() -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(2);
    let mut storm = Storm::begin(&["--drain-deadline", "2s"])?;
    for _ in 0..3 {
        storm.terminate()?;
        storm.start()?;
        storm.go_on()?;
    }
    let journal = storm.finish()?;
    journal.judge(|trip, events| {
        events.iter().any(|event| {
            let overdue = trip.end >= event.begin + nanoseconds(DEADLINE);
            event.what == What::Terminated && trip.begin <= event.end && overdue
        })
    })
}

// === A process that hangs ===

#[test]
fn sigstop_loses_nothing_and_what_connects_later_goes_direct() -> Result<()> {
    let mut storm = Storm::begin(&PATIENT)?;
    for _ in 0..3 {
        storm.stop()?;
        thread::sleep(HEARTBEAT);
        storm.go_on()?;
        storm.resume()?;
        storm.go_on()?;
    }
    let journal: Journal = storm.finish()?;
    journal.judge(|_, _| false)?;
    for (stop, resume) in journal.of(What::Stopped).zip(journal.of(What::Continued)) {
        journal.all_direct(stop.end + nanoseconds(HEARTBEAT), resume.begin)?;
    }
    let last = journal.of(What::Continued).last().expect("there were some");
    for way in Way::ALL {
        let again = |(its, trip): &(Way, &Trip)| {
            *its == way && trip.begin > last.end && trip.proxied() == Some(true)
        };
        ensure!(journal.trips().any(|it| again(&it)), "{way:?}: not captured again");
    }
    Ok(())
}

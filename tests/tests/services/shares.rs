//! Which share of a service's connections each endpoint gets.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::weir::Exec;

use super::place::{Manner, address, backends, lab, program, seen, service};

const NO_DELAY: Manner = Manner::Answers(Duration::ZERO);

/// The service's address exists nowhere: without weir there would be no connection at all. Servers speak
/// first, held or accepted first alike.
#[test]
fn connections_that_stay_open_are_spread_evenly() -> Result<()> {
    for connect in ["hold", "immediate"] {
        let lab = lab()?;
        let backends = backends(&lab, 10, Manner::Greets)?;
        let flag = service(backends.iter().map(|it| it.ip()));
        let exec = Exec::without_timer(&lab).flags(&["--connect", connect, "--service", &flag]);
        let seen = seen(&exec.python(&program(100, Manner::Greets))?)?;
        seen.none_failed()?;
        let most = seen.by_name.values().max().copied().unwrap_or(0);
        ensure!(most <= 11 && seen.by_name.len() == 10, "{connect}: {seen:?}");
    }
    Ok(())
}

#[test]
fn an_endpoint_with_twenty_milliseconds_more_gets_a_third_of_its_share_at_most() -> Result<()> {
    let lab = lab()?;
    let mut backends = backends(&lab, 9, NO_DELAY)?;
    super::place::add_address(&lab, &address(9))?;
    let slow = Manner::Answers(Duration::from_millis(20));
    backends.push(super::place::Backend::start(&lab, &address(9), slow)?);
    let flag = service(backends.iter().map(|it| it.ip()));
    let exec = Exec::new(&lab).flags(&["--service", &flag]);
    let seen = seen(&exec.python(&program(200, NO_DELAY))?)?;
    seen.none_failed()?;
    ensure!(seen.of(9) * 3 <= 200 / 10, "{seen:?}");
    Ok(())
}

#[test]
fn an_endpoint_that_refuses_fails_no_connection() -> Result<()> {
    let lab = lab()?;
    let backends = backends(&lab, 4, NO_DELAY)?;
    super::place::add_address(&lab, &address(4))?;
    let flag = service((0..5).map(address));
    let exec = Exec::new(&lab).flags(&["--service", &flag]).limit(Duration::from_secs(600));
    let seen = seen(&exec.python(&program(10_000, NO_DELAY))?)?;
    seen.none_failed()?;
    ensure!(seen.of(4) == 0 && seen.by_name.values().sum::<usize>() == 10_000, "{seen:?}");
    drop(backends);
    Ok(())
}

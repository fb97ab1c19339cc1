//! Requests of HTTP/1, each of which goes to an endpoint that is chosen for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{Lab, weir::Exec};

use super::place::{Manner, PORT, Seen, VIP, address, backends, lab, seen, seen_in, service};

const MANNER: Manner = Manner::Answers(Duration::ZERO);

/// A program that sends so many requests over one connection, and says what it has seen. `fields` are those
/// of every request.
fn program(count: usize, fields: &str) -> String {
    format!(
        "import collections, http.client, json\n\
         names, failed = collections.Counter(), collections.Counter()\n\
         c = http.client.HTTPConnection('{VIP}', {PORT}, timeout=30)\n\
         c.connect()\n\
         socket = c.sock\n\
         for _ in range({count}):\n    try:\n        \
         c.request('GET', '/', headers={{{fields}}})\n        \
         names[c.getresponse().read().decode()] += 1\n        \
         assert c.sock is socket, 'another connection'\n    \
         except (OSError, http.client.HTTPException) as error: failed[repr(error)] += 1\n\
         print(json.dumps([names, failed]))\n"
    )
}

fn exec<'a>(lab: &'a Lab, endpoints: impl IntoIterator<Item = String>) -> Exec<'a> {
    let flag = service(endpoints);
    Exec::without_timer(lab).flags(&["--balance", "requests", "--service", &flag])
}

fn most(seen: &Seen) -> usize {
    seen.by_name.values().max().copied().unwrap_or(0)
}

#[test]
fn requests_of_one_connection_are_spread_evenly() -> Result<()> {
    let lab = lab()?;
    let backends = backends(&lab, 10, MANNER)?;
    let observed = exec(&lab, backends.iter().map(|it| it.ip())).python(&program(1000, ""))?;
    let seen = seen(&observed)?;
    seen.none_failed()?;
    // On a machine with other work an endpoint seems slow for a while.
    ensure!(seen.by_name.len() == 10 && most(&seen) <= 500, "{seen:?}");
    // Connections are used again; one that is idle for five seconds is closed, which a busy machine can take.
    let accepted: usize = backends.iter().map(|it| it.accepted()).sum();
    ensure!((10..=100).contains(&accepted), "{accepted} connections");
    let requests = observed.records.requests_to(PORT);
    ensure!(requests.len() == 1000);
    Ok(())
}

#[test]
fn an_endpoint_that_refuses_fails_no_request() -> Result<()> {
    let lab = lab()?;
    let _backends = backends(&lab, 3, MANNER)?;
    super::place::add_address(&lab, &address(3))?;
    let observed = exec(&lab, (0..4).map(address)).python(&program(1000, ""))?;
    let seen = seen(&observed)?;
    seen.none_failed()?;
    ensure!(seen.of(3) == 0 && seen.by_name.values().sum::<usize>() == 1000, "{seen:?}");
    Ok(())
}

#[test]
fn what_authenticates_a_connection_stays_on_one() -> Result<()> {
    let lab = lab()?;
    let backends = backends(&lab, 4, MANNER)?;
    let fields = "'Authorization': 'NTLM TlRMTVNTUAAB'";
    let exec = exec(&lab, backends.iter().map(|it| it.ip()));
    let observed = exec.python(&program(100, fields))?;
    let seen = seen_in(observed.stdout())?;
    seen.none_failed()?;
    ensure!(seen.by_name.len() == 1 && most(&seen) == 100, "{seen:?}");
    let connections = observed.records.connections(PORT);
    ensure!(
        connections.iter().any(|it| it.text("unpoolable") == "authentication"),
        "{connections:?}"
    );
    Ok(())
}

//! What `--learn` does with a destination whose server speaks first on a port that is not declared, and
//! that it does nothing with one that only was connected to.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::daemon::{Daemon, Run};
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::record::Records;
use weir_tests::visits::{Outcome, Visit, Visitor};
use weir_tests::weir::Exec;

const PORT: u16 = 9000;
/// Connections in a row before a destination is learned (`learn.rs`).
const STREAK: usize = 3;
const ENOUGH: usize = 20;

/// Visits one after the other, in order; then what weir recorded and said of the destination.
fn visits(learn: &str) -> Result<(Vec<Visit>, Records, String)> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("learn")?);
    let _peer = Peer::whoami(&lab.server, PORT)?;
    let daemon = Daemon::start(&lab, &cgroup, &["--learn", learn])?;
    let mut visitor = Visitor::start(&lab, &cgroup, PORT, Duration::from_secs(1))?;
    visitor.wait_for(ENOUGH)?;
    let visits = visitor.finish()?;
    visits.assert_no_error();
    let explained = daemon.ask(&["explain", &format!("{SERVER_V4}:{PORT}")])?.ok()?.stdout;
    let visits: Vec<Visit> = visits.between(0, u64::MAX).into_iter().cloned().collect();
    let records = daemon.records_of(PORT, visits.len())?;
    Ok((visits, records, explained))
}

fn outcomes(visits: &[Visit], outcome: &Outcome) -> usize {
    visits.iter().filter(|visit| visit.outcome == *outcome).count()
}

#[test]
fn off_looks_at_each_connection() -> Result<()> {
    let (visits, records, explained) = visits("off")?;
    assert_eq!(outcomes(&visits, &Outcome::Proxied), visits.len());
    records.assert_treated(PORT, "tcp");
    assert!(explained.contains("detect (default)"), "{explained}");
    Ok(())
}

#[test]
fn opaque_stops_looking_after_three_in_a_row() -> Result<()> {
    let (visits, records, explained) = visits("opaque")?;
    assert_eq!(outcomes(&visits, &Outcome::Proxied), visits.len());
    // In the order in which they were accepted, not in that of their ends.
    let mut all = records.connections(PORT);
    all.sort_by_key(|record| record.number("id"));
    let told =
        |field: &str| -> Vec<String> { all.iter().map(|record| record.text(field)).collect() };
    let (treatments, sources) = (told("treatment"), told("source"));
    let (looked, learned) = treatments.split_at(STREAK);
    assert!(looked.iter().all(|treatment| treatment == "tcp"), "{treatments:?}");
    assert!(learned.iter().all(|treatment| treatment == "opaque"), "{treatments:?}");
    assert!(sources[STREAK..].iter().all(|source| source == "learned"), "{sources:?}");
    assert!(explained.contains("opaque (learned)"), "{explained}");
    Ok(())
}

/// What is bypassed is not blind: the kernel tells how each connection ended.
#[test]
fn bypass_lets_the_kernel_connect_after_three_in_a_row_and_reports_it() -> Result<()> {
    let (visits, records, explained) = visits("bypass")?;
    let (first, rest) = visits.split_at(STREAK);
    assert_eq!(outcomes(first, &Outcome::Proxied), STREAK);
    assert_eq!(outcomes(rest, &Outcome::Direct), rest.len());
    let direct: Vec<_> = records
        .connections(PORT)
        .into_iter()
        .filter(|record| record.text("treatment") == "skip")
        .collect();
    assert_eq!(direct.len(), rest.len());
    for record in direct {
        assert_eq!(record.text("source"), "learned");
        assert_eq!(record.text("why"), "learned to be raw tcp");
        assert!(record.number("bytes_received") > 0, "{record:?}");
    }
    assert!(explained.contains("skip (learned)"), "{explained}");
    Ok(())
}

/// What an earlier weir bypassed is proxied by one that is told not to. Found by chaos: the entries
/// are pinned, and were in effect for ten minutes more.
#[test]
fn off_and_opaque_take_back_what_a_bypass_before_has_learned() -> Result<()> {
    for learn in ["off", "opaque"] {
        let (lab, cgroup) = (Lab::new()?, Cgroup::new("learn")?);
        let _peer = Peer::whoami(&lab.server, PORT)?;
        let mut daemon = Daemon::start(&lab, &cgroup, &["--learn", "bypass"])?;
        let time = Duration::from_secs(2);
        let mut visitor = Visitor::start(&lab, &cgroup, PORT, time)?;
        visitor.wait_for_last(ENOUGH, &Outcome::Direct)?;
        visitor.finish()?.assert_no_error();
        daemon.process.kill_hard()?;
        let run = Run::new(&lab.client, lab.dir()).after(&daemon).flags(&["--learn", learn]);
        let daemon = run.workload("client", &cgroup, None).start()?;
        let visits = Visitor::start(&lab, &cgroup, PORT, time)?.finish()?;
        visits.assert_all_proxied(0, u64::MAX, daemon.stale()?);
    }
    Ok(())
}

/// Health checks that connect and close, clients that connect and wait, and a server that is tired of
/// waiting: none of them says that there is no HTTP.
#[test]
fn probes_do_not_hide_http() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::start(&lab.server, PORT, |mut stream| {
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n");
            }
            request.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    let program = format!(
        "import socket, struct\n\
         def connect(): return socket.create_connection(('{SERVER_V4}', {PORT}))\n\
         for _ in range({STREAK} + 1):\n\
         \x20   connect().close()\n\
         \x20   s = connect(); s.sendall(b'GE'); s.close()\n\
         \x20   s = connect(); s.shutdown(socket.SHUT_WR); assert b' 408 ' in s.recv(99); s.close()\n\
         \x20   s = connect(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
         \x20   s.close()\n\
         s = connect(); s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); print(s.recv(99)[-2:].decode())"
    );
    let seen = Exec::new(&lab).python(&program)?;
    assert_eq!(seen.stdout(), "ok");
    assert_eq!(seen.records.requests_to(PORT).len(), 1, "not looked at");
    Ok(())
}

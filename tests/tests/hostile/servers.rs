//! Real servers behind weir: what weir records of an ambiguous message is what the server took it for, or
//! weir has said that it does not know; and a server is served to others while it is flooded.

use anyhow::{Context, Result, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::engine::Engine;
use weir_tests::lab::SERVER_V4;
use weir_tests::metrics::{self, Metrics};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::servers::{nghttpd, nginx};
use weir_tests::site::PATIENCE;
use weir_tests::weir::Daemon;
use weir_tests::{Lab, fixture};

use super::shapes;

/// Sends a file, ends its half, and shows what comes back.
const SEND: &str = "
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as s:
    s.sendall(open(sys.argv[3], 'rb').read())
    s.shutdown(socket.SHUT_WR)
    answer = b''
    try:
        while data := s.recv(65536):
            answer += data
    except ConnectionError:
        pass
sys.stdout.buffer.write(answer)
";

/// The statuses of the responses in a stream.
fn statuses(answer: &str) -> Vec<u64> {
    let heads = answer.split("HTTP/1.").skip(1);
    heads.filter_map(|head| head.get(2..5)?.parse().ok()).collect()
}

fn agrees_with_nginx(engine: Engine) -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("nginx")?);
    let _server = nginx::Nginx::start(&lab)?;
    let flags = [&engine.flags()[..], &metrics::FLAGS, &["--learn", "off"]].concat();
    let daemon = Daemon::start(&lab, &cgroup, &flags)?;
    let (mut failed, mut followed, mut recorded) = (Vec::new(), 0, 0);
    let file = lab.dir().join("request");
    for (number, (name, request)) in shapes::all().into_iter().enumerate() {
        std::fs::write(&file, request)?;
        let before = Metrics::scrape(&lab.client)?.sum("weir_http_downgrade_total", &[]);
        let mut command = lab.client.command(fixture::PYTHON);
        command.args(["-c", SEND, SERVER_V4, &nginx::HTTP1.to_string()]).arg(&file);
        let answer = run(&mut cgroup.wrap(&command), PATIENCE)?.ok()?.stdout;
        let records = daemon.records_of(nginx::HTTP1, number + 1)?;
        let all: Vec<u64> = records
            .requests_to(nginx::HTTP1)
            .iter()
            .map(|record| record.number("status"))
            .collect();
        let seen = all[recorded..].to_vec();
        recorded = all.len();
        let connection = records.connections(nginx::HTTP1)[number].text("treatment");
        let lost = Metrics::scrape(&lab.client)?.sum("weir_http_downgrade_total", &[]) > before;
        if lost || connection != "http1" {
            continue;
        }
        followed += 1;
        let said = statuses(&answer);
        // A server that refuses a request does not look at the next one, which gets no answer.
        let answered: Vec<u64> = seen.iter().copied().filter(|status| *status != 0).collect();
        let refused = said.last().is_some_and(|status| [400, 405, 501].contains(status));
        if answered != said || (answered != seen && !refused) {
            failed.push(format!("{engine}, {name}: nginx said {said:?}, weir recorded {seen:?}"));
        }
    }
    ensure!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
    ensure!(followed > 10, "only {followed} shapes were followed: it proves nothing");
    Ok(())
}

#[test]
fn records_say_what_nginx_has_understood_or_that_weir_does_not_know() -> Result<()> {
    for engine in Engine::ALL {
        agrees_with_nginx(engine).with_context(|| format!("{engine}"))?;
    }
    Ok(())
}

/// Opens and resets 20,000 streams, whatever the server says, and then holds the connection.
const RAPID_RESET: &str = r"
import socket, sys, time
frame = lambda kind, flags, id, body: len(body).to_bytes(3, 'big') + bytes([kind, flags]) + id.to_bytes(4, 'big') + body
flood = b''.join(
    frame(1, 5, id, b'\x82\x86\x84\x41\x01a') + frame(3, 0, id, b'\0\0\0\x08')
    for id in range(1, 40000, 2))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as s:
    try:
        s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + flood)
    except OSError as error:
        print(error)
    print('flooded', flush=True)
    time.sleep(1000)
";

fn nghttpd_serves_others(engine: Engine) -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("nghttpd")?);
    let _server = nghttpd::start(&lab)?;
    let flags = [&engine.flags()[..], &metrics::FLAGS].concat();
    let mut daemon = Daemon::start(&lab, &cgroup, &flags)?;
    let mut command = lab.client.command(fixture::PYTHON);
    command.args(["-uc", RAPID_RESET, SERVER_V4, &nghttpd::PORT.to_string()]);
    let flood = Process::start("flood", cgroup.wrap(&command), lab.dir())?;
    wait_until("the flood", PATIENCE * 2, || Ok(flood.log().contains("flooded")))
        .with_context(|| flood.log())?;
    let mut curl = lab.client.command("curl");
    curl.args(["-sS", "--http2-prior-knowledge"]);
    curl.arg(format!("http://{SERVER_V4}:{}/hello.txt", nghttpd::PORT));
    let said = run(&mut cgroup.wrap(&curl), PATIENCE)?.ok()?.stdout;
    ensure!(said == "hello from nghttpd\n", "{said}");
    drop(flood);
    wait_until("the flood's connection to be closed", PATIENCE, || {
        let metrics = Metrics::scrape(&lab.client)?;
        let open = ["tcp_open_connections", "weir_http_requests_in_flight"];
        Ok(open.iter().all(|gauge| metrics.sum(gauge, &[]) == 0.0))
    })?;
    let metrics = Metrics::scrape(&lab.client)?;
    let requests = metrics.sum("request_total", &[]);
    // The terminating engine ends the connection before it has looked at one of its streams.
    let refused = metrics.sum("tcp_open_total", &["peer=\"src\""]) == 2.0;
    ensure!(requests > 1.0 || (engine == Engine::Terminate && refused), "{requests}: no flood");
    ensure!(daemon.process.running()?, "weir ended: {}", daemon.process.log());
    Ok(())
}

#[test]
fn nghttpd_serves_others_during_a_rapid_reset() -> Result<()> {
    for engine in Engine::ALL {
        nghttpd_serves_others(engine).with_context(|| format!("{engine}"))?;
    }
    Ok(())
}

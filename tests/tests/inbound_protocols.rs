//! Real servers inside the workload, and their clients outside: inbound needs no configuration
//! either.

use std::time::Duration;

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::{CLIENT_V4, SERVER_V4, SERVER_V6};
use weir_tests::process::{Finished, run};
use weir_tests::record::Records;
use weir_tests::servers::{grpc, mariadb, nginx, smtp, ssh};
use weir_tests::weir::{Daemon, Run};

const LIMIT: Duration = Duration::from_secs(60);

/// A lab whose servers are a pod's.
fn lab() -> Result<(Lab, Cgroup)> {
    let (mut lab, cgroup) = (Lab::new()?, Cgroup::new("servers")?);
    lab.server.join(&cgroup);
    Ok((lab, cgroup))
}

/// No timer can play a part.
fn capture(lab: &Lab, cgroup: &Cgroup, flags: &[&str]) -> Result<Daemon> {
    let run = Run::new(&lab.client, lab.dir()).workload("servers", cgroup, Some(&lab.server));
    run.flags(&["--detect-timeout", "1h"]).flags(flags).start()
}

/// Runs a client outside of the workload, which must succeed.
fn client(lab: &Lab, line: &[impl AsRef<std::ffi::OsStr>]) -> Result<Finished> {
    let mut command = lab.client.command(&line[0]);
    command.args(&line[1..]);
    run(&mut command, LIMIT)?.ok()
}

fn assert_inbound(records: &Records, port: u16) {
    for record in records.connections(port) {
        assert_eq!(record.text("direction"), "inbound", "{record:#?}");
        assert_eq!(record.text("workload"), "servers", "{record:#?}");
        assert!(record.text("client").contains(CLIENT_V4), "{record:#?}");
    }
}

#[test]
fn mariadb_answers_a_client_from_outside() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = mariadb::start(&lab, mariadb::PORT)?;
    let daemon = capture(&lab, &cgroup, &[])?;
    let line = mariadb::client(SERVER_V4, mariadb::PORT, "SELECT COUNT(*) FROM shop.orders");
    assert_eq!(client(&lab, &line)?.stdout.trim(), "3");
    let records = daemon.records_of(mariadb::PORT, 1)?;
    records.assert_server_first(mariadb::PORT);
    assert_inbound(&records, mariadb::PORT);
    Ok(())
}

#[test]
fn mariadb_sees_the_clients_address_when_it_is_preserved() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = mariadb::start(&lab, mariadb::PORT)?;
    let daemon = capture(&lab, &cgroup, &["--preserve-client-ip"])?;
    let asked = "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()";
    let said = client(&lab, &mariadb::client(SERVER_V4, mariadb::PORT, asked))?.stdout;
    assert!(said.starts_with(&format!("{CLIENT_V4}:")), "{said}");
    daemon.records_of(mariadb::PORT, 1)?.assert_server_first(mariadb::PORT);
    Ok(())
}

#[test]
fn smtp_takes_a_mail_from_outside() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = smtp::start(&lab)?;
    let daemon = capture(&lab, &cgroup, &[])?;
    let said = client(&lab, &smtp::client(SERVER_V4))?.stdout;
    assert!(said.contains("250 2.0.0"), "{said}");
    let records = daemon.records_of(smtp::PORT, 1)?;
    records.assert_server_first(smtp::PORT);
    assert_inbound(&records, smtp::PORT);
    Ok(())
}

#[test]
fn ssh_logs_in_from_outside() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = ssh::start(&lab)?;
    let daemon = capture(&lab, &cgroup, &["--preserve-client-ip"])?;
    let said = client(&lab, &ssh::client(&lab, SERVER_V4, "echo $SSH_CONNECTION"))?.stdout;
    assert!(said.starts_with(&format!("{CLIENT_V4} ")), "{said}");
    let records = daemon.records_of(ssh::PORT, 1)?;
    records.assert_treated(ssh::PORT, "tcp");
    assert_inbound(&records, ssh::PORT);
    Ok(())
}

#[test]
fn http_requests_are_recorded_with_their_status() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let server = nginx::Nginx::start(&lab)?;
    let daemon = capture(&lab, &cgroup, &[])?;
    for (number, host) in [SERVER_V4.to_owned(), format!("[{SERVER_V6}]")].iter().enumerate() {
        for (port, version) in
            [(nginx::HTTP1, "--http1.1"), (nginx::H2C, "--http2-prior-knowledge")]
        {
            // curl 7.88 cannot use an HTTP/2 connection of prior knowledge twice.
            for (path, body) in [("hello.txt", "hello from nginx\n"), ("missing", "nothing here\n")]
            {
                let url = format!("http://{host}:{port}/{path}");
                assert_eq!(client(&lab, &["curl", "-sS", version, &url])?.stdout, body);
            }
            let records = daemon.records_of(port, 2 * (number + 1))?;
            records.assert_treated(port, if port == nginx::H2C { "http2" } else { "http1" });
            let requests = records.requests_to(port);
            let last: Vec<_> = requests.iter().skip(number * 2).collect();
            let told = |field: &str| -> Vec<String> {
                last.iter().map(|request| request.text(field)).collect()
            };
            assert_eq!(told("status"), ["200", "404"], "{last:#?}");
            assert_eq!(told("path"), ["/hello.txt", "/missing"]);
            assert_eq!(told("direction"), ["inbound", "inbound"]);
        }
    }
    server.wait_for_log("HTTP/2.0 200 /hello.txt")?;
    Ok(())
}

#[test]
fn grpc_calls_keep_their_status() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = grpc::start(&lab)?;
    let daemon = capture(&lab, &cgroup, &[])?;
    client(&lab, &grpc::client(SERVER_V4, "all"))?;
    let records = daemon.records_of(grpc::PORT, 1)?;
    let requests = records.requests_to(grpc::PORT);
    let failed = requests.iter().filter(|record| record.text("path").ends_with("/Fail"));
    let codes: Vec<String> = failed.map(|record| record.text("grpc_status")).collect();
    assert_eq!(codes, ["9"], "{requests:#?}");
    assert_inbound(&records, grpc::PORT);
    Ok(())
}

#[test]
fn tls_passes_through_and_leaves_its_names() -> Result<()> {
    let (lab, cgroup) = lab()?;
    let _server = nginx::Nginx::start(&lab)?;
    let daemon = capture(&lab, &cgroup, &[])?;
    let resolve = format!("server.test:{}:{SERVER_V4}", nginx::TLS);
    let url = format!("https://server.test:{}/hello.txt", nginx::TLS);
    let said = client(&lab, &["curl", "-sSk", "--resolve", &resolve, &url])?.stdout;
    assert_eq!(said, "hello from nginx\n");
    let records = daemon.records_of(nginx::TLS, 1)?;
    records.assert_treated(nginx::TLS, "tls");
    assert_eq!(records.only_connection(nginx::TLS).text("sni"), "server.test");
    assert_inbound(&records, nginx::TLS);
    Ok(())
}

//! Every protocol: a real server and its real client, with nothing declared. Most of these tests set
//! the detect timer to an hour, which shows that no timer had a part in what worked.

use anyhow::Result;
use weir_tests::lab::{CLIENT_V4, SERVER_V4};
use weir_tests::servers::{
    ftp, grpc, mariadb, nats, nghttpd, nginx, postgres, redis, smtp, ssh, websocket,
};
use weir_tests::weir::Exec;
use weir_tests::{Lab, fixture};

/// Bytes that no protocol knows and every offset tells apart.
fn noise(length: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes())
        .take(length)
        .collect()
}

fn sha256(lab: &Lab, bytes: &[u8]) -> Result<String> {
    let path = lab.dir().join("expected.bin");
    std::fs::write(&path, bytes)?;
    let sum = std::process::Command::new("sha256sum").arg(path).output()?;
    Ok(String::from_utf8_lossy(&sum.stdout).chars().take(64).collect())
}

// === Server speaks first ===

#[test]
fn mariadb_on_an_undeclared_port_needs_no_timer() -> Result<()> {
    let lab = Lab::new()?;
    let _server = mariadb::start(&lab, mariadb::PORT)?;
    let statement = "SELECT GROUP_CONCAT(item ORDER BY id) FROM shop.orders";
    let seen =
        Exec::without_timer(&lab).ok(&mariadb::client(SERVER_V4, mariadb::PORT, statement))?;
    assert_eq!(seen.stdout(), "bolts,nuts,washers");
    seen.records.assert_server_first(mariadb::PORT);
    let connection = seen.records.only_connection(mariadb::PORT);
    assert!(connection.number("bytes_received") > 100, "{connection:#?}");
    assert!(connection.number("bytes_sent") > 50, "{connection:#?}");
    Ok(())
}

#[test]
fn mariadb_on_its_own_port_is_opaque_by_default() -> Result<()> {
    let lab = Lab::new()?;
    let _server = mariadb::start(&lab, 3306)?;
    let seen = Exec::without_timer(&lab).ok(&mariadb::client(SERVER_V4, 3306, "SELECT 6 * 7"))?;
    assert_eq!(seen.stdout(), "42");
    seen.records.assert_treated(3306, "opaque");
    assert_eq!(seen.records.only_connection(3306).text("source"), "default");
    Ok(())
}

#[test]
fn smtp_delivers_a_mail_without_timer() -> Result<()> {
    let lab = Lab::new()?;
    let _server = smtp::start(&lab)?;
    let seen = Exec::without_timer(&lab).ok(&smtp::client(SERVER_V4))?;
    assert!(seen.stdout().contains("250 2.0.0"), "{}", seen.stdout());
    seen.records.assert_server_first(smtp::PORT);
    Ok(())
}

#[test]
fn nats_publishes_and_receives_without_timer() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nats::start(&lab)?;
    let script = fixture::path("nats_client.py").display().to_string();
    let port = nats::PORT.to_string();
    let seen = Exec::without_timer(&lab).ok(&[fixture::PYTHON, "-B", &script, SERVER_V4, &port])?;
    assert_eq!(seen.stdout(), format!("nats: ok {CLIENT_V4}"));
    seen.records.assert_server_first(nats::PORT);
    Ok(())
}

#[test]
fn ftp_transfers_in_passive_mode() -> Result<()> {
    let (lab, data) = (Lab::new()?, noise(300_000));
    let _server = ftp::start(&lab, &data)?;
    let script =
        format!("curl -sS --ftp-pasv ftp://{SERVER_V4}:{}/data.bin | sha256sum", ftp::PORT);
    let seen = Exec::without_timer(&lab).ok(&["sh", "-c", &script])?;
    assert!(seen.stdout().starts_with(&sha256(&lab, &data)?), "{}", seen.stdout());
    seen.records.assert_server_first(ftp::PORT);
    let transfers: Vec<_> = ftp::PASSIVE.flat_map(|port| seen.records.connections(port)).collect();
    assert_eq!(transfers.len(), 1, "{:#?}", seen.records);
    assert_eq!(transfers[0].number("bytes_received"), 300_000);
    assert_eq!(transfers[0].number("bytes_sent"), 0);
    Ok(())
}

/// The client tells the server its own address, which it has from `getsockname`.
#[test]
fn ftp_transfers_in_active_mode() -> Result<()> {
    let (lab, data) = (Lab::new()?, noise(300_000));
    let _server = ftp::start(&lab, &data)?;
    let url = format!("ftp://{SERVER_V4}:{}/data.bin", ftp::PORT);
    for option in ["--disable-eprt", "--eprt"] {
        let script = format!("curl -sS --ftp-port - {option} {url} | sha256sum");
        let seen = Exec::without_timer(&lab).ok(&["sh", "-c", &script])?;
        assert!(seen.stdout().starts_with(&sha256(&lab, &data)?), "{option}: {}", seen.stdout());
        seen.records.assert_server_first(ftp::PORT);
    }
    Ok(())
}

#[test]
fn lftp_lists_a_directory() -> Result<()> {
    let lab = Lab::new()?;
    let _server = ftp::start(&lab, b"data")?;
    let script = format!("set net:timeout 10; open ftp://{SERVER_V4}:{}; ls; quit", ftp::PORT);
    let seen = Exec::without_timer(&lab).ok(&["lftp", "-c", &script])?;
    assert!(seen.stdout().contains("data.bin"), "{}", seen.stdout());
    seen.records.assert_server_first(ftp::PORT);
    Ok(())
}

#[test]
fn ssh_runs_a_command_and_copies_bytes() -> Result<()> {
    let lab = Lab::new()?;
    let _server = ssh::start(&lab)?;
    let remote = "echo \"$SSH_CONNECTION\"; head -c 5000000 /dev/zero | sha256sum; exit 7";
    let seen = Exec::without_timer(&lab).run(&ssh::client(&lab, SERVER_V4, remote))?;
    assert_eq!(seen.finished.code(), 7, "{:?}", seen.finished);
    assert!(seen.stdout().starts_with(&format!("{CLIENT_V4} ")), "{}", seen.stdout());
    assert!(seen.stdout().contains(&sha256(&lab, &vec![0; 5_000_000])?), "{}", seen.stdout());
    seen.records.assert_treated(ssh::PORT, "tcp");
    Ok(())
}

// === Client speaks first, not HTTP ===

#[test]
fn postgres_answers_a_query() -> Result<()> {
    let lab = Lab::new()?;
    let _server = postgres::start(&lab)?;
    let statement = "SELECT inet_client_addr(), sum(n) FROM generate_series(1, 100) n";
    let seen = Exec::without_timer(&lab).ok(&postgres::client(SERVER_V4, statement))?;
    assert_eq!(seen.stdout(), format!("{CLIENT_V4}|5050"));
    seen.records.assert_treated(postgres::PORT, "tcp");
    Ok(())
}

#[test]
fn redis_sets_and_gets() -> Result<()> {
    let lab = Lab::new()?;
    let _server = redis::start(&lab)?;
    let exec = Exec::without_timer(&lab);
    assert_eq!(
        exec.ok(&redis::client(SERVER_V4, &["SET", "key", "GET / HTTP/1.1"]))?.stdout(),
        "OK"
    );
    let seen = exec.ok(&redis::client(SERVER_V4, &["GET", "key"]))?;
    assert_eq!(seen.stdout(), "GET / HTTP/1.1");
    seen.records.assert_treated(redis::PORT, "tcp");
    // Words of the inline protocol, which looks more like HTTP than the binary one.
    let inline = format!(
        "import socket\n\
         s = socket.create_connection(('{SERVER_V4}', {}), 10)\n\
         s.sendall(b'GET key\\r\\n'); print(s.recv(100))",
        redis::PORT
    );
    let seen = exec.python(&inline)?;
    assert!(seen.stdout().contains("GET / HTTP/1.1"), "{}", seen.stdout());
    seen.records.assert_treated(redis::PORT, "tcp");
    Ok(())
}

// === HTTP/1 ===

#[test]
fn curl_speaks_http1_to_nginx() -> Result<()> {
    let lab = Lab::new()?;
    let server = nginx::Nginx::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}", nginx::HTTP1);
    let (hello, missing) = (format!("{url}/hello.txt"), format!("{url}/missing"));
    let seen = Exec::without_timer(&lab).ok(&["curl", "-sS", &hello, &missing])?;
    assert_eq!(seen.stdout(), "hello from nginx\nnothing here");
    seen.records.assert_treated(nginx::HTTP1, "http1");
    assert_eq!(seen.records.connections(nginx::HTTP1).len(), 1, "curl keeps the connection");
    let requests = seen.records.requests();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert_eq!(requests[0].text("method"), "GET");
    assert_eq!(requests[0].text("path"), "/hello.txt");
    assert_eq!(requests[0].number("status"), 200);
    assert_eq!(requests[1].number("status"), 404);
    server.wait_for_log("HTTP/1.1 200 /hello.txt")?;
    Ok(())
}

#[test]
fn h2load_over_http1_loses_no_request() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nginx::Nginx::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nginx::HTTP1);
    let line = ["h2load", "--h1", "-n", "5000", "-c", "20", &url];
    let seen = Exec::new(&lab).ok(&line)?;
    assert!(seen.stdout().contains("5000 succeeded, 0 failed"), "{}", seen.stdout());
    assert_eq!(seen.records.connections(nginx::HTTP1).len(), 20);
    assert_eq!(seen.records.requests().len(), 5000);
    Ok(())
}

#[test]
fn websocket_echoes_after_the_upgrade() -> Result<()> {
    let lab = Lab::new()?;
    let _server = websocket::start(&lab)?;
    let seen = Exec::without_timer(&lab).ok(&websocket::client(SERVER_V4, 100))?;
    assert_eq!(seen.stdout(), "websocket: ok");
    seen.records.assert_treated(websocket::PORT, "http1");
    let requests = seen.records.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0].number("status"), 101);
    Ok(())
}

// === HTTP/2 ===

#[test]
fn curl_speaks_h2c_to_nginx() -> Result<()> {
    let lab = Lab::new()?;
    let server = nginx::Nginx::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nginx::H2C);
    let seen = Exec::without_timer(&lab).ok(&["curl", "-sS", "--http2-prior-knowledge", &url])?;
    assert_eq!(seen.stdout(), "hello from nginx");
    seen.records.assert_treated(nginx::H2C, "http2");
    let requests = seen.records.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0].number("status"), 200);
    server.wait_for_log("HTTP/2.0 200 /hello.txt")?;
    Ok(())
}

#[test]
fn nghttp_gets_body_and_trailers_from_nghttpd() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nghttpd::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nghttpd::PORT);
    let seen = Exec::without_timer(&lab).ok(&["nghttp", "-v", &url])?;
    assert!(seen.stdout().contains("hello from nghttpd"), "{}", seen.stdout());
    assert!(seen.stdout().contains("x-checksum: 42"), "{}", seen.stdout());
    seen.records.assert_treated(nghttpd::PORT, "http2");
    Ok(())
}

#[test]
fn nghttpd_echoes_an_upload() -> Result<()> {
    let (lab, data) = (Lab::new()?, noise(3_000_000));
    let _server = nghttpd::start(&lab)?;
    let sum = sha256(&lab, &data)?;
    let script = format!(
        "curl -sS --http2-prior-knowledge --data-binary @{}/expected.bin http://{SERVER_V4}:{}/echo \
         | sha256sum",
        lab.dir().display(),
        nghttpd::PORT
    );
    let seen = Exec::without_timer(&lab).ok(&["sh", "-c", &script])?;
    assert!(seen.stdout().starts_with(&sum), "{}", seen.stdout());
    seen.records.assert_treated(nghttpd::PORT, "http2");
    Ok(())
}

#[test]
fn h2load_over_http2_loses_no_request() -> Result<()> {
    let lab = Lab::new()?;
    let _server = nghttpd::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nghttpd::PORT);
    let seen = Exec::new(&lab).ok(&["h2load", "-n", "5000", "-c", "10", "-m", "10", &url])?;
    assert!(seen.stdout().contains("5000 succeeded, 0 failed"), "{}", seen.stdout());
    assert_eq!(seen.records.connections(nghttpd::PORT).len(), 10);
    assert_eq!(seen.records.requests().len(), 5000);
    Ok(())
}

#[test]
fn grpc_calls_of_every_kind_pass_with_their_status() -> Result<()> {
    let lab = Lab::new()?;
    let _server = grpc::start(&lab)?;
    let seen = Exec::without_timer(&lab).ok(&grpc::client(SERVER_V4, "all"))?;
    let lines =
        ["unary", "download", "upload", "chat", "fail"].map(|kind| format!("grpc {kind}: ok"));
    assert_eq!(seen.stdout(), lines.join("\n"));
    seen.records.assert_treated(grpc::PORT, "http2");
    let requests = seen.records.requests();
    let statuses = |method: &str| -> Vec<String> {
        let path = format!("/weir.test.Echo/{method}");
        let matching = requests.iter().filter(|request| request.text("path") == path);
        matching.map(|request| request.text("grpc_status")).collect()
    };
    assert_eq!(statuses("Unary"), ["0", "0"], "{requests:#?}");
    assert_eq!(statuses("Chat"), ["0"], "{requests:#?}");
    assert_eq!(statuses("Fail"), ["9"], "{requests:#?}");
    Ok(())
}

// === TLS ===

#[test]
fn tls_passes_through_and_leaves_its_names() -> Result<()> {
    let lab = Lab::new()?;
    let server = nginx::Nginx::start(&lab)?;
    let resolve = format!("server.test:{}:{SERVER_V4}", nginx::TLS);
    let url = format!("https://server.test:{}/hello.txt", nginx::TLS);
    let line = ["curl", "-sSk", "--resolve", &resolve, &url];
    let seen = Exec::without_timer(&lab).ok(&line)?;
    assert_eq!(seen.stdout(), "hello from nginx");
    seen.records.assert_treated(nginx::TLS, "tls");
    let connection = seen.records.only_connection(nginx::TLS);
    assert_eq!(connection.text("sni"), "server.test");
    assert!(connection.text("alpn").contains("h2"), "{connection:#?}");
    server.wait_for_log("HTTP/2.0 200")?;
    Ok(())
}

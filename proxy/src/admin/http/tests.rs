//! Probes and scrapes over real connections.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use super::{
    serve::{CONNECTION_DEADLINE, HEAD_DEADLINE},
    *,
};

async fn start(readiness: watch::Receiver<Readiness>) -> SocketAddr {
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    tokio::spawn(server.serve(Telemetry::new(None), move || *readiness.borrow(), None));
    address
}

async fn ask(address: SocketAddr, line: &str) -> String {
    String::from_utf8(ask_with(address, line, "").await).unwrap()
}

/// With further lines of the head.
async fn ask_with(address: SocketAddr, line: &str, head: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: weir\r\n{head}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_is_reported() {
    let (set, readiness) = watch::channel(Readiness::Starting);
    let address = start(readiness).await;
    assert!(ask(address, "GET /live").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /ready").await.starts_with("HTTP/1.1 503"));
    set.send(Readiness::Ready).unwrap();
    assert!(ask(address, "GET /ready").await.ends_with("ready\n"));
    set.send(Readiness::Replaced).unwrap();
    let answer = ask(address, "GET /ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("taking over\n"), "{answer}");
    set.send(Readiness::Draining).unwrap();
    let answer = ask(address, "GET /ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"), "{answer}");
}

#[tokio::test]
async fn metrics_say_what_they_are() {
    let (_set, readiness) = watch::channel(Readiness::Ready);
    let address = start(readiness).await;
    let answer = ask(address, "GET /metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("weir_build_info{version="), "{answer}");
    assert!(answer.contains("\n# TYPE weir_records_dropped_total counter\n"), "{answer}");
    assert!(!answer.contains("# EOF"));
    let wanted = "accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n";
    let answer = String::from_utf8(ask_with(address, "GET /metrics", wanted).await).unwrap();
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.contains("\n# TYPE weir_records_dropped counter\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"));
}

#[tokio::test]
async fn metrics_are_compressed_for_those_who_take_that() {
    use std::io::Read as _;
    let (_set, readiness) = watch::channel(Readiness::Ready);
    let address = start(readiness).await;
    let answer = ask_with(address, "GET /metrics", "accept-encoding: gzip\r\n").await;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(head.contains("vary: accept, accept-encoding\r\n"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&answer[end..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("weir_build_info{version="), "{text}");
    assert!(text.len() > 2 * (answer.len() - end), "{} {}", text.len(), answer.len());
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let (_set, readiness) = watch::channel(Readiness::Ready);
    let address = start(readiness).await;
    for line in ["PUT /log-level", "POST /shutdown", "GET /"] {
        assert!(ask(address, line).await.starts_with("HTTP/1.1 404"), "{line}");
    }
    for line in ["POST /metrics", "PUT /ready", "DELETE /live"] {
        let answer = ask(address, line).await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dawdles_is_dropped() {
    let (_set, readiness) = watch::channel(Readiness::Ready);
    let mut stream = TcpStream::connect(start(readiness).await).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nhost:").await.unwrap();
    let before = tokio::time::Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(before.elapsed() >= HEAD_DEADLINE && before.elapsed() < CONNECTION_DEADLINE);
}

/// Guards against encoding metrics on the thread that accepts connections: this runtime has no
/// other.
#[tokio::test]
async fn a_scrape_that_takes_its_time_keeps_nobody_waiting() {
    let telemetry = Telemetry::new(None);
    let (go_on, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    telemetry.set_workloads(move || {
        let waited = wait.lock().unwrap().recv_timeout(Duration::from_secs(60));
        waited.expect("others are answered meanwhile");
        Vec::new()
    });
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    tokio::spawn(server.serve(telemetry, || Readiness::Ready, None));
    let scrape = tokio::spawn(ask(address, "GET /metrics"));
    for _ in 0..3 {
        assert!(ask(address, "GET /live").await.ends_with("live\n"));
    }
    go_on.send(()).unwrap();
    assert!(scrape.await.unwrap().contains("weir_build_info"));
}

/// The admin address may be open to a pod network; the page is for this machine.
#[tokio::test]
async fn the_page_is_there_if_it_is_asked_for() {
    let (_set, readiness) = watch::channel(Readiness::Ready);
    assert!(ask(start(readiness).await, "GET /ui/").await.starts_with("HTTP/1.1 404"));
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    let page = Some(Ui::new("/nonexistent/control.sock".into()));
    tokio::spawn(server.serve(Telemetry::new(None), || Readiness::Ready, page));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /ui/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("<title>weir</title>"),
        "{answer}"
    );
    assert!(ask(address, "GET /ui/").await.starts_with("HTTP/1.1 421"));
    assert!(ask(address, "GET /live").await.ends_with("live\n"));
}

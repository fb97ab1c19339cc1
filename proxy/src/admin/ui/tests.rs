//! The page over real connections, in front of a control socket whose replies are fixed.

use std::path::Path;

use tokio::net::{TcpStream, UnixListener};

use super::*;

/// A control socket that answers every call with these lines.
fn weir(socket: &Path, lines: &'static [&'static str]) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut asked = String::new();
                stream.read_line(&mut asked).await.unwrap();
                for line in lines {
                    let line = format!("{line}\n");
                    stream.get_mut().write_all(line.as_bytes()).await.unwrap();
                }
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
}

struct Served {
    directory: tempfile::TempDir,
    address: SocketAddr,
    /// With slashes at both ends.
    prefix: String,
}

async fn serve() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let ui = Ui::new(directory.path().join("control.sock"));
    let server = UiServer::bind("127.0.0.1:0".parse().unwrap(), ui).await.unwrap();
    let url = server.url();
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    let (address, prefix) = (address.parse().unwrap(), format!("/{path}"));
    tokio::spawn(server.serve());
    Served { directory, address, prefix }
}

impl Served {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// The response to a request; of one without an end, what comes until `enough` is in it.
    async fn ask(&self, line: &str, host: &str, enough: Option<&str>) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let read = stream.read_buf(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer);
            if read == 0 || enough.is_some_and(|enough| text.contains(enough)) {
                return text.into_owned();
            }
        }
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {}{path}", self.prefix), "localhost:1", None).await
    }
}

#[tokio::test]
async fn the_page_allows_itself_only_and_needs_nothing_else() {
    let served = serve().await;
    let answer = served.get("").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, rest) = head.split_once("script-src 'nonce-").unwrap();
    let (nonce, _) = rest.split_once('\'').unwrap();
    assert!(head.contains("default-src 'none'"), "{head}");
    assert!(body.contains(&format!("<script nonce=\"{nonce}\">")) && !body.contains(NONCE));
    assert!(body.contains("async function look()") && body.contains("color-scheme"));
    for from_elsewhere in ["src=", "href=", "@import", "url("] {
        assert!(!body.contains(from_elsewhere), "{from_elsewhere}");
    }
    // Text of peers never becomes markup.
    for markup in ["innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!body.contains(markup), "{markup}");
    }
    assert_ne!(served.get("").await.split_once("\r\n\r\n").unwrap().1, body, "the nonce is new");
}

/// Guards against other users of the machine, and pages of other sites under a name that leads here.
#[tokio::test]
async fn it_is_for_those_who_know_its_address() {
    let served = serve().await;
    weir(&served.socket(), &[r#"{"version":1,"ok":{"status":{"phase":"running"}}}"#]);
    let secret = served.prefix.clone();
    let status = format!("GET {secret}api/status");
    for line in ["GET /", "GET /api/status", "GET /00000000000000000000000000000000/api/status"] {
        assert!(served.ask(line, "localhost", None).await.starts_with("HTTP/1.1 404"), "{line}");
    }
    for host in ["localhost", "127.0.0.1:8080", "[::1]:99", "LOCALHOST:1"] {
        assert!(served.ask(&status, host, None).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for host in ["example.com", "127.0.0.1.example.com", "10.0.0.1", "localhost.example.com:80", ""]
    {
        assert!(served.ask(&status, host, None).await.starts_with("HTTP/1.1 421"), "{host}");
    }
    let answer = served.ask(&format!("POST {secret}api/status"), "localhost", None).await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
}

#[tokio::test]
async fn replies_are_passed_on() {
    const REPLY: &str = r#"{"version":1,"ok":{"status":{"phase":"running"}}}"#;
    let served = serve().await;
    weir(&served.socket(), &[REPLY]);
    for path in ["api/status", "api/stat", "api/connections", "api/endpoints"] {
        let answer = served.get(path).await;
        assert!(answer.contains("content-type: application/json"), "{answer}");
        assert!(answer.trim_end().ends_with(REPLY), "{answer}");
    }
    assert!(served.get("api/shutdown").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_weir_that_is_gone_is_named() {
    let served = serve().await;
    let answer = served.get("api/status").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("control.sock") && answer.contains("weir run"), "{answer}");
}

#[tokio::test]
async fn records_come_as_events() {
    let served = serve().await;
    weir(
        &served.socket(),
        &[
            r#"{"version":1,"ok":{"tapping":null}}"#,
            r#"{"version":1,"ok":{"missed":{"records":7}}}"#,
        ],
    );
    let filter = "%7B%22failed%22%3Atrue%2C%22at_least%22%3A%225ms%22%7D";
    let line = format!("GET {}api/tap?filter={filter}&workload=", served.prefix);
    let answer = served.ask(&line, "localhost", Some("\n\n")).await;
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    let event = r#"data: {"version":1,"ok":{"missed":{"records":7}}}"#;
    let answer = served.ask(&line, "localhost", Some(event)).await;
    assert!(answer.contains(&format!("{event}\n\n")), "{answer}");
    let wrong = format!("GET {}api/tap?filter=%7B%22colour%22%3A1%7D", served.prefix);
    let answer = served.ask(&wrong, "localhost", None).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("colour"), "{answer}");
}

#[tokio::test]
async fn readers_are_bounded_and_give_their_place_back() {
    let served = serve().await;
    weir(&served.socket(), &[r#"{"version":1,"ok":{"tapping":null}}"#]);
    let line = format!("GET {}api/tap HTTP/1.1\r\nhost: localhost\r\n\r\n", served.prefix);
    let mut open = Vec::new();
    for _ in 0..MAX_TAPS {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        open.push(stream);
    }
    let answer = served.get("api/tap").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("close one"), "{answer}");
    open.pop();
    let line = format!("GET {}api/tap", served.prefix);
    while !served.ask(&line, "localhost", Some("\r\n\r\n")).await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused() {
    let ui = Ui::new("/run/weir/control.sock".into());
    let error = UiServer::bind("0.0.0.0:0".parse().unwrap(), ui).await.unwrap_err();
    assert!(matches!(error, UiError::NotLoopback(_)));
    assert!(error.to_string().contains("ssh -L"), "{error}");
}

//! The race on a paused clock, with in-memory streams and hand-made dials.

use std::future::{pending, ready};

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;
use tokio_test::io::Builder;

use super::*;
use crate::budget::{Budgets, Resource, Sizes};
use crate::detect::corpus::{Expected, Hello, PLAIN};

const HOUR: Duration = Duration::from_secs(3600);

fn options(prefix_timeout: Duration) -> Options {
    Options { prefix_timeout, ..Options::default() }
}

/// A connected upstream that says nothing, and its far end.
fn silent() -> (impl Future<Output = io::Result<DuplexStream>>, DuplexStream) {
    let (near, far) = duplex(1024);
    (ready(Ok(near)), far)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[tokio::test(start_paused = true)]
async fn server_bytes_first_are_raw_tcp_without_delay() {
    let (mut client, _c) = duplex(64);
    let (dial, mut server) = silent();
    server.write_all(b"220 mail ESMTP\r\n").await.unwrap();
    let start = Instant::now();
    let out = race(&mut client, dial, &options(HOUR)).await.unwrap();
    assert_eq!(out.decision, Decision::detected(Treatment::Tcp, "server spoke first"));
    assert_eq!(&out.server.prefix[..], b"220 mail ESMTP\r\n");
    assert!(out.client.prefix.is_empty() && !out.client.eof);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// An HTTP/2 server's SETTINGS, as nghttpd and gRPC servers send them at accept.
const SETTINGS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn http2_is_found_though_the_server_spoke_first() {
    for cut in [1, 9, SETTINGS.len()] {
        let (mut client, mut c) = duplex(64);
        let (dial, mut server) = silent();
        server.write_all(&SETTINGS[..cut]).await.unwrap();
        let options = options(HOUR);
        let race = race(&mut client, dial, &options);
        let speak = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.write_all(&SETTINGS[cut..]).await.unwrap();
            c.write_all(&PREFACE[..10]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            c.write_all(&PREFACE[10..]).await.unwrap();
        };
        let (out, ()) = tokio::join!(race, speak);
        let out = out.unwrap();
        assert_eq!(out.decision.treatment, Treatment::Http2);
        assert_eq!((&out.client.prefix[..], &out.server.prefix[..]), (PREFACE, &SETTINGS[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_greeting_like_settings_is_raw_tcp_after_another_answer_or_the_timeout() {
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"P", b"hello", b""] {
        let (mut client, mut c) = duplex(64);
        let (dial, mut server) = silent();
        server.write_all(&SETTINGS).await.unwrap();
        c.write_all(said).await.unwrap();
        let out = race(&mut client, dial, &Options::default()).await.unwrap();
        assert_eq!(out.decision.treatment, Treatment::Tcp, "{said:?}");
        assert_eq!((&out.client.prefix[..], &out.server.prefix[..]), (said, &SETTINGS[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn server_bytes_decide_over_an_incomplete_client_prefix() {
    let (mut client, mut c) = duplex(64);
    let (dial, mut server) = silent();
    c.write_all(b"EHLO mail").await.unwrap();
    let options = options(HOUR);
    let race = race(&mut client, dial, &options);
    let speak = async {
        tokio::time::sleep(Duration::from_secs(1800)).await;
        server.write_all(b"220 hi").await.unwrap();
    };
    let (out, ()) = tokio::join!(race, speak);
    let out = out.unwrap();
    assert_eq!(out.decision.why, "server spoke first");
    assert_eq!(&out.client.prefix[..], b"EHLO mail");
    assert_eq!(&out.server.prefix[..], b"220 hi");
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_out_without_a_deadline() {
    let (mut client, mut c) = duplex(64);
    let (dial, _server) = silent();
    let start = Instant::now();
    let options = Options::default();
    let race = race(&mut client, dial, &options);
    let speak = async {
        tokio::time::sleep(24 * HOUR).await;
        c.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    };
    let (out, ()) = tokio::join!(race, speak);
    assert_eq!(out.unwrap().decision.treatment, Treatment::Http1);
    assert_eq!(start.elapsed(), 24 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn incomplete_prefix_ends_in_raw_tcp_after_the_timeout() {
    let (mut client, mut c) = duplex(64);
    let (dial, _server) = silent();
    c.write_all(b"EHLO mail.example.com").await.unwrap();
    let start = Instant::now();
    let out = race(&mut client, dial, &Options::default()).await.unwrap();
    assert_eq!(out.decision.treatment, Treatment::Tcp);
    assert_eq!(out.decision.why, "prefix stayed incomplete for the detect timeout");
    assert_eq!(&out.client.prefix[..], b"EHLO mail.example.com");
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn trickled_bytes_do_not_extend_the_timeout() {
    let mut mock = Builder::new();
    for byte in b"GET /aaaaaaaa" {
        mock.read(&[*byte]).wait(Duration::from_millis(200));
    }
    let mut client = mock.build();
    let (dial, _server) = silent();
    let start = Instant::now();
    let out = race(&mut client, dial, &Options::default()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert!(b"GET /aaaaaaaa".starts_with(&out.client.prefix));
    std::mem::forget(client); // the mock wants to be read to its end
}

#[tokio::test(start_paused = true)]
async fn timeout_in_a_client_hello_is_tls_without_labels() {
    let hello = Hello::default().records(1 << 14);
    let (mut client, mut c) = duplex(64);
    let (dial, _server) = silent();
    c.write_all(&hello[..40]).await.unwrap();
    let out = race(&mut client, dial, &Options::default()).await.unwrap();
    assert_eq!(out.decision.treatment, Treatment::Tls);
    assert_eq!(out.tls, Some(TlsInfo::default()));
    assert_eq!(&out.client.prefix[..], &hello[..40]);
}

#[tokio::test(start_paused = true)]
async fn every_client_of_the_corpus_is_decided_and_loses_nothing() {
    for &(name, bytes, expected) in PLAIN {
        if bytes.is_empty() {
            continue;
        }
        let (mut client, mut c) = duplex(1);
        let (dial, _server) = silent();
        let options = Options::default();
        let race = race(&mut client, dial, &options);
        let (out, rest) = tokio::join!(race, async {
            // One byte at a time; what the race no longer reads stays here.
            tokio::time::timeout(HOUR, c.write_all(bytes)).await
        });
        let out = out.unwrap();
        let treatment = match expected {
            Expected::Http1 => Treatment::Http1,
            Expected::Http2 => Treatment::Http2,
            _ if name == "tls-cut" => Treatment::Tls,
            Expected::Tcp | Expected::More => Treatment::Tcp,
        };
        assert_eq!(out.decision.treatment, treatment, "{name}");
        assert!(bytes.starts_with(&out.client.prefix), "{name}");
        assert!(rest.is_err() || out.client.prefix.len() + 1 >= bytes.len(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn decision_waits_for_the_dial() {
    let mut client = Builder::new().read(b"GET / HTTP/1.1\r\n").read(b"Host: a\r\n\r\n").build();
    let (near, mut far) = duplex(64);
    far.write_all(b"early").await.unwrap();
    let dial = async {
        tokio::time::sleep(HOUR).await;
        Ok(near)
    };
    let out = race(&mut client, dial, &Options::default()).await.unwrap();
    assert_eq!(out.decision.treatment, Treatment::Http1);
    assert_eq!(&out.client.prefix[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(out.client.eof, "the mock's end came while waiting");
    assert!(out.server.prefix.is_empty(), "left to the forwarder");
}

#[tokio::test(start_paused = true)]
async fn bytes_held_during_the_dial_are_bounded() {
    let (mut client, mut c) = duplex(1 << 20);
    c.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    c.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let (near, _far) = duplex(64);
    let dial = async {
        tokio::time::sleep(HOUR).await;
        Ok(near)
    };
    let out = race(&mut client, dial, &Options::default()).await.unwrap();
    assert_eq!(out.client.prefix.len(), DEFAULT_PEEK_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn peek_limit_ends_in_raw_tcp() {
    let (mut client, mut c) = duplex(1 << 20);
    c.write_all(&[b"GET /", &[b'x'; 100_000][..]].concat()).await.unwrap();
    let (dial, _server) = silent();
    let out = race(&mut client, dial, &options(HOUR)).await.unwrap();
    assert_eq!(out.decision, Decision::detected(Treatment::Tcp, "peek limit reached"));
    assert_eq!(out.client.prefix.len(), DEFAULT_PEEK_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn client_that_closes_its_side_is_raw_tcp() {
    for sent in [&b""[..], b"EHLO a"] {
        let (mut client, mut c) = duplex(64);
        let (dial, _server) = silent();
        c.write_all(sent).await.unwrap();
        c.shutdown().await.unwrap();
        let out = race(&mut client, dial, &options(HOUR)).await.unwrap();
        assert_eq!(
            out.decision,
            Decision::detected(Treatment::Tcp, "client closed its side first")
        );
        assert!(out.client.eof);
        assert_eq!(&out.client.prefix[..], sent);
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_closes_its_side_is_raw_tcp() {
    let (mut client, _c) = duplex(64);
    let (dial, mut server) = silent();
    server.shutdown().await.unwrap();
    let out = race(&mut client, dial, &options(HOUR)).await.unwrap();
    assert_eq!(out.decision.why, "server closed its side first");
    assert!(out.server.eof);
}

#[tokio::test(start_paused = true)]
async fn failed_dial_is_told_apart() {
    let (mut client, _c) = duplex(64);
    let dial = ready(Err::<DuplexStream, _>(io::ErrorKind::ConnectionRefused.into()));
    match race(&mut client, dial, &Options::default()).await {
        Err(RaceError::Dial(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn client_reset_is_noticed_during_the_dial() {
    let mut client = Builder::new()
        .read(b"GET / HTTP/1.1\r\n")
        .wait(Duration::from_secs(5))
        .read_error(reset())
        .build();
    let start = Instant::now();
    let dial = pending::<io::Result<DuplexStream>>();
    match race(&mut client, dial, &Options::default()).await {
        Err(RaceError::Client { source, upstream: None }) => {
            assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn client_reset_after_the_dial_hands_the_upstream_back() {
    let mut client = Builder::new().wait(HOUR).read_error(reset()).build();
    let (dial, _server) = silent();
    let result = race(&mut client, dial, &Options::default()).await;
    assert!(matches!(result, Err(RaceError::Client { upstream: Some(_), .. })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn upstream_reset_is_told_apart() {
    let (mut client, _c) = duplex(64);
    let upstream = Builder::new().wait(HOUR).read_error(reset()).build();
    let result = race(&mut client, ready(Ok(upstream)), &Options::default()).await;
    assert!(matches!(result, Err(RaceError::Upstream(_))), "{result:?}");
}

#[tokio::test]
async fn works_on_sockets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, _) = listener.accept().await.unwrap();
    let dial = tokio::net::TcpStream::connect(address);
    far.write_all(b"GET / HT").await.unwrap();
    let options = options(HOUR);
    let (out, ()) = tokio::join!(race(&mut client, dial, &options), async {
        tokio::task::yield_now().await;
        far.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
    });
    let out = out.unwrap();
    assert_eq!(out.decision.treatment, Treatment::Http1);
    assert!(b"GET / HTTP/1.1\r\n\r\n".starts_with(&out.client.prefix));
}

/// What is held is charged to the workload; one that may hold no more is not looked at.
#[tokio::test(start_paused = true)]
async fn beyond_the_memory_budget_nothing_more_is_held() {
    let budgets = Budgets::new(&Sizes { memory: 64 << 10, ..Sizes::default() });
    let share = budgets.share(&"a".into());
    let options = Options { peek_limit: 1 << 20, memory: Some(share.clone()), ..options(HOUR) };
    let held = share.take(Resource::Memory, 24 << 10).unwrap();
    let plenty = Options { memory: Some(Budgets::default().share(&"b".into())), ..options.clone() };
    // A ClientHello whose end has not come.
    let begin = [22, 3, 1, 0x30, 0, 1, 0, 0x2f, 0xfc, 3, 3];
    let hello = [&begin[..], &[0; 33], &[0x1f, 0xf0], &[0x13; 6000]].concat();
    for (options, expected) in [(options, Treatment::Opaque), (plenty, Treatment::Tls)] {
        let (mut client, mut c) = duplex(1 << 20);
        let (dial, _server) = silent();
        c.write_all(&hello).await.unwrap();
        let out = race(&mut client, dial, &options).await.unwrap();
        assert_eq!(out.decision.treatment, expected, "{}", out.decision.why);
        let mut all = out.client.prefix.to_vec();
        c.shutdown().await.unwrap();
        tokio::io::AsyncReadExt::read_to_end(&mut client, &mut all).await.unwrap();
        assert!(all == hello, "every byte is there");
    }
    drop(held);
    assert_eq!(budgets.used(Resource::Memory), 0);
}

//! The race on a paused clock, with in-memory streams.

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_test::io::Builder;

use super::*;
use crate::budget::{Budgets, Resource, Sizes};
use crate::decision::{Detection, Treatment, Why};
use crate::detect::TlsInfo;
use crate::detect::corpus::{Expected, Hello, PLAIN};

const HOUR: Duration = Duration::from_secs(3600);

fn options(hold: Duration) -> Options {
    Options { hold, ..Options::default() }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn detection(outcome: &Outcome) -> Detection {
    outcome.conclusion.as_ref().expect("undecided").detection
}

/// Both sides as weir has them, and their far ends.
fn peers() -> ([DuplexStream; 2], [DuplexStream; 2]) {
    let ((near, client), (far, server)) = (duplex(1 << 20), duplex(1 << 20));
    ([near, far], [client, server])
}

#[tokio::test(start_paused = true)]
async fn server_bytes_first_are_raw_tcp_without_delay() {
    let ([mut near, mut far], [_client, mut server]) = peers();
    server.write_all(b"220 mail ESMTP\r\n").await.unwrap();
    let start = Instant::now();
    let out = race(&mut near, &mut far, &options(HOUR)).await.unwrap();
    assert_eq!(detection(&out), Detection::Tcp(Why::ServerFirst));
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
        let ([mut near, mut far], [mut client, mut server]) = peers();
        server.write_all(&SETTINGS[..cut]).await.unwrap();
        let options = options(HOUR);
        let race = race(&mut near, &mut far, &options);
        let speak = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server.write_all(&SETTINGS[cut..]).await.unwrap();
            client.write_all(&PREFACE[..10]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(&PREFACE[10..]).await.unwrap();
        };
        let (out, ()) = tokio::join!(race, speak);
        let out = out.unwrap();
        assert_eq!(detection(&out), Detection::Http2);
        assert_eq!((&out.client.prefix[..], &out.server.prefix[..]), (PREFACE, &SETTINGS[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn server_bytes_decide_over_an_incomplete_client_prefix() {
    let ([mut near, mut far], [mut client, mut server]) = peers();
    client.write_all(b"EHLO mail").await.unwrap();
    let options = options(HOUR);
    let race = race(&mut near, &mut far, &options);
    let speak = async {
        tokio::time::sleep(Duration::from_secs(1800)).await;
        server.write_all(b"220 hi").await.unwrap();
    };
    let (out, ()) = tokio::join!(race, speak);
    let out = out.unwrap();
    assert_eq!(detection(&out), Detection::Tcp(Why::ServerBeforeTheRest));
    assert_eq!(&out.client.prefix[..], b"EHLO mail");
    assert_eq!(&out.server.prefix[..], b"220 hi");
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_out_without_a_deadline() {
    let ([mut near, mut far], [mut client, _server]) = peers();
    let start = Instant::now();
    let options = Options::default();
    let race = race(&mut near, &mut far, &options);
    let speak = async {
        tokio::time::sleep(24 * HOUR).await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    };
    let (out, ()) = tokio::join!(race, speak);
    assert_eq!(detection(&out.unwrap()), Detection::Http1);
    assert_eq!(start.elapsed(), 24 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_decided_is_let_go_when_it_was_held_for_long_enough() {
    let said: [(&[u8], &[u8]); 4] =
        [(b"EHLO mail.example.com", b""), (b"", &SETTINGS), (b"P", &SETTINGS), (b"\x16\x03", b"")];
    for (by_client, by_server) in said {
        let ([mut near, mut far], [mut client, mut server]) = peers();
        client.write_all(by_client).await.unwrap();
        server.write_all(by_server).await.unwrap();
        let start = Instant::now();
        let out = race(&mut near, &mut far, &Options::default()).await.unwrap();
        assert_eq!(out.conclusion, None);
        assert_eq!((&out.client.prefix[..], &out.server.prefix[..]), (by_client, by_server));
        assert!(!out.client.eof && !out.server.eof);
        assert_eq!(start.elapsed(), Options::default().hold);
    }
}

#[tokio::test(start_paused = true)]
async fn trickled_bytes_are_not_held_for_longer() {
    let mut mock = Builder::new();
    for byte in b"GET /aaaaaaaa" {
        mock.read(&[*byte]).wait(Duration::from_millis(200));
    }
    let mut client = mock.build();
    let (mut far, _server) = duplex(64);
    let start = Instant::now();
    let options = options(Duration::from_secs(1));
    let out = race(&mut client, &mut far, &options).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert!(b"GET /aaaaaaaa".starts_with(&out.client.prefix));
    std::mem::forget(client); // the mock wants to be read to its end
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_client_hello_that_has_begun_is_tls_without_labels() {
    let hello = Hello::default().records(1 << 14);
    let ([mut near, mut far], [mut client, _server]) = peers();
    client.write_all(&hello[..40]).await.unwrap();
    client.shutdown().await.unwrap();
    let out = race(&mut near, &mut far, &options(HOUR)).await.unwrap();
    assert_eq!(detection(&out), Detection::Tls { settled: false });
    assert_eq!(out.conclusion.unwrap().tls, Some(TlsInfo::default()));
    assert_eq!(&out.client.prefix[..], &hello[..40]);
}

#[tokio::test(start_paused = true)]
async fn every_client_of_the_corpus_is_decided_or_let_go_and_loses_nothing() {
    for &(name, bytes, expected) in PLAIN {
        if bytes.is_empty() {
            continue;
        }
        let (mut near, mut client) = duplex(1);
        let (mut far, _server) = duplex(1);
        let options = Options::default();
        let race = race(&mut near, &mut far, &options);
        let (out, rest) = tokio::join!(race, async {
            // One byte at a time; what the race no longer reads stays here.
            tokio::time::timeout(HOUR, client.write_all(bytes)).await
        });
        let out = out.unwrap();
        let treatment = match expected {
            Expected::Http1 => Some(Treatment::Http1),
            Expected::Http2 => Some(Treatment::Http2),
            Expected::More => None,
            _ if name == "tls-cut" => None,
            Expected::Tcp => Some(Treatment::Tcp),
        };
        let decided = out.conclusion.map(|conclusion| conclusion.detection.treatment());
        assert_eq!(decided, treatment, "{name}");
        assert!(bytes.starts_with(&out.client.prefix), "{name}");
        assert!(rest.is_err() || out.client.prefix.len() + 1 >= bytes.len(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn peek_limit_ends_in_raw_tcp() {
    let ([mut near, mut far], [mut client, _server]) = peers();
    client.write_all(&[b"GET /", &[b'x'; 100_000][..]].concat()).await.unwrap();
    let out = race(&mut near, &mut far, &options(HOUR)).await.unwrap();
    assert_eq!(detection(&out), Detection::Tcp(Why::PeekLimit));
    assert_eq!(out.client.prefix.len(), DEFAULT_PEEK_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_ends_is_raw_tcp() {
    for (sent, said) in [(&b""[..], false), (b"EHLO a", true)] {
        let ([mut near, mut far], [mut client, _server]) = peers();
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let out = race(&mut near, &mut far, &options(HOUR)).await.unwrap();
        assert_eq!(detection(&out), Detection::Tcp(Why::Ended { by_client: true, said }));
        assert!(out.client.eof);
        assert_eq!(&out.client.prefix[..], sent);
    }
    let ([mut near, mut far], [_client, mut server]) = peers();
    server.shutdown().await.unwrap();
    let out = race(&mut near, &mut far, &options(HOUR)).await.unwrap();
    assert_eq!(detection(&out), Detection::Tcp(Why::Ended { by_client: false, said: false }));
    assert!(out.server.eof);
}

#[tokio::test(start_paused = true)]
async fn resets_are_told_apart() {
    let fails = || Builder::new().wait(HOUR).read_error(reset()).build();
    let (mut silent, _far_end) = duplex(64);
    let result = race(&mut fails(), &mut silent, &Options::default()).await;
    assert!(matches!(result, Err(RaceError::Client(_))), "{result:?}");
    let result = race(&mut silent, &mut fails(), &Options::default()).await;
    assert!(matches!(result, Err(RaceError::Upstream(_))), "{result:?}");
}

#[tokio::test]
async fn works_on_sockets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut near, _) = listener.accept().await.unwrap();
    let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HT").await.unwrap();
    let options = options(HOUR);
    let (out, ()) = tokio::join!(race(&mut near, &mut far, &options), async {
        tokio::task::yield_now().await;
        client.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
    });
    let out = out.unwrap();
    assert_eq!(detection(&out), Detection::Http1);
    assert!(b"GET / HTTP/1.1\r\n\r\n".starts_with(&out.client.prefix));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_memory_budget_nothing_more_is_held() {
    let budgets = Budgets::new(&Sizes { memory: 64 << 10, ..Sizes::default() });
    let share = budgets.share(&"a".into());
    let options = Options { peek_limit: 1 << 20, memory: Some(share.clone()), ..options(HOUR) };
    let long = [b"GET /", &[b'x'; 512 << 10][..]].concat();
    // Another workload's budget has room: the bytes are held until they are decided.
    let plenty = Options { memory: Some(Budgets::default().share(&"b".into())), ..options.clone() };
    for (options, held) in [(options, false), (plenty, true)] {
        let ([mut near, mut far], [mut client, _server]) = peers();
        let race = race(&mut near, &mut far, &options);
        let speak = async {
            client.write_all(&long).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(b" HTTP/1.1\r\n").await.unwrap();
        };
        let (out, ()) = tokio::join!(race, speak);
        let out = out.unwrap();
        assert_eq!(out.conclusion.is_some(), held);
        assert_eq!(out.client.prefix.len() > long.len(), held);
        let common = out.client.prefix.len().min(long.len());
        assert_eq!(out.client.prefix[..common], long[..common]);
    }
    assert_eq!(budgets.used(Resource::Memory), 0);
}

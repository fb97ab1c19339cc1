//! The detector against the corpus, and against every segmentation of it.

use proptest::prelude::*;

use super::corpus::{Expected, Hello, PLAIN};
use super::*;

/// The verdict when the bytes arrive up to each of `cuts`, then as a whole, and where it fell.
fn segmented(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Verdict {
    let mut detector = Detector::default();
    for end in cuts.into_iter().chain([bytes.len()]) {
        let verdict = detector.update(&bytes[..end]);
        if verdict.is_final() {
            return verdict;
        }
    }
    Verdict::NeedMore
}

fn assert_segmentation_does_not_matter(name: &str, bytes: &[u8]) {
    let whole = detect(bytes);
    assert_eq!(segmented(bytes, 1..bytes.len()), whole, "{name}, byte by byte");
    for cut in 0..bytes.len() {
        assert_eq!(segmented(bytes, [cut]), whole, "{name}, cut at {cut}");
    }
}

/// How many bytes it takes to decide.
fn deciding_prefix(bytes: &[u8]) -> Option<usize> {
    let mut detector = Detector::default();
    (1..=bytes.len()).find(|&n| detector.update(&bytes[..n]).is_final())
}

fn hellos() -> Vec<(Hello<'static>, TlsInfo)> {
    let full = TlsInfo {
        sni: Some("example.com".to_owned()),
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
    };
    let hello = Hello::default();
    vec![
        (hello, full.clone()),
        (Hello { grease: false, ..hello }, full.clone()),
        (Hello { record_minor: 3, ..hello }, full.clone()),
        (Hello { hello_minor: 1, ..hello }, full.clone()),
        (Hello { hello_minor: 2, ..hello }, full.clone()),
        (Hello { key_share: 1216, ..hello }, full.clone()),
        (Hello { sni: Some(b"EXAMPLE.com"), ..hello }, full.clone()),
        (Hello { alpn: &[b"\x2a\x2a", b"h2", b"http/1.1"], ..hello }, full.clone()),
        (Hello { alpn: &[], ..hello }, TlsInfo { alpn: vec![], ..full.clone() }),
        (Hello { sni: None, ..hello }, TlsInfo { sni: None, ..full.clone() }),
        (Hello { sni: Some(b"a\nb"), ..hello }, TlsInfo { sni: None, ..full.clone() }),
        (Hello { sni: Some(b""), ..hello }, TlsInfo { sni: None, ..full.clone() }),
        (Hello { sni: Some(&[b'a'; 254]), ..hello }, TlsInfo { sni: None, ..full.clone() }),
        (Hello { alpn: &[b"\n\xff"], ..hello }, TlsInfo { alpn: vec!["\\n\\xff".into()], ..full }),
        (Hello { extensions: false, hello_minor: 1, ..hello }, TlsInfo::default()),
    ]
}

#[test]
fn corpus_gets_its_verdicts() {
    for &(name, bytes, expected) in PLAIN {
        let seen = match detect(bytes) {
            Verdict::Http1 => Expected::Http1,
            Verdict::Http2 => Expected::Http2,
            Verdict::Tcp(_) => Expected::Tcp,
            Verdict::NeedMore => Expected::More,
            Verdict::Tls(_) => panic!("{name} is not TLS"),
        };
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn no_segmentation_of_the_corpus_changes_a_verdict() {
    for &(name, bytes, _) in PLAIN {
        assert_segmentation_does_not_matter(name, bytes);
    }
}

#[test]
fn raw_tcp_is_known_at_the_first_impossible_byte() {
    let cases: &[(&[u8], usize, &str)] = &[
        (b"\0\0\0\x08", 1, "not a prefix of any known protocol"),
        (b"EHLO mail.example.com\r\n", 22, "no HTTP request target after the first word"),
        (b"AUTH TOKEN x\r\n", 11, "no HTTP request target after the first word"),
        (b"set user:1 0 0 5\r\n", 12, "not HTTP version 1.0 or 1.1"),
        (b"OPTIONS * RTSP/1.0\r\n", 11, "not HTTP version 1.0 or 1.1"),
        (b"INVITE sip:bob SIP/2.0\r\n", 16, "not HTTP version 1.0 or 1.1"),
        (b"PING\r\n", 5, "no HTTP method (not a token, or too long)"),
        (b"CONNECT {\"a\":1}\r\n", 9, "no HTTP request target after the first word"),
        (b"GET /\r\n", 6, "request line without an HTTP version"),
        (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 33, "no HTTP method (not a token, or too long)"),
        (b"\rX", 2, "carriage return without line feed"),
        (b"GET / HTTP/1.1x", 15, "bytes after the HTTP version"),
        (b"PRI * HTTP/2.0\r\n\r\nSX", 20, "HTTP/2 preface broken off"),
        (b"\x16\x03\x01\0\0", 5, "not a TLS handshake record"),
        (b"\x16\x03\x01\0\x05\x02", 6, "TLS record without a ClientHello"),
    ];
    for &(bytes, at, why) in cases {
        let shown = bytes.escape_ascii();
        assert_eq!(deciding_prefix(bytes), Some(at), "{shown}");
        assert_eq!(detect(bytes), Verdict::Tcp(why), "{shown}");
    }
}

#[test]
fn known_protocols_are_known_at_their_last_necessary_byte() {
    assert_eq!(deciding_prefix(b"GET / HTTP/1.1\r\nHost: a\r\n"), Some(16));
    assert_eq!(deciding_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Some(24));
    let hello = Hello::default().records(1 << 14);
    assert_eq!(deciding_prefix(&hello), Some(hello.len()));
}

#[test]
fn client_hello_gives_server_name_and_alpn() {
    for (hello, info) in hellos() {
        assert_eq!(detect(&hello.records(1 << 14)), Verdict::Tls(info), "{hello:?}");
    }
}

#[test]
fn client_hello_may_be_spread_over_records() {
    for (hello, info) in hellos() {
        for size in [1, 2, 3, 5, 6, 7, 100] {
            let bytes = hello.records(size);
            if bytes.len() < DEFAULT_PEEK_LIMIT {
                assert_eq!(detect(&bytes), Verdict::Tls(info.clone()), "{size} {hello:?}");
                assert_segmentation_does_not_matter("fragmented hello", &bytes);
            }
        }
    }
}

#[test]
fn client_hello_followed_by_early_data_is_unchanged() {
    let mut bytes = Hello::default().records(1 << 14);
    let alone = detect(&bytes);
    bytes.extend(b"\x17\x03\x03\0\x04abcd");
    assert_eq!(detect(&bytes), alone);
}

#[test]
fn client_hello_over_the_limit_is_tls_without_labels() {
    let bytes = Hello { key_share: 9000, ..Hello::default() }.records(1 << 14);
    assert_eq!(detect(&bytes), Verdict::Tls(TlsInfo::default()));
    assert_eq!(deciding_prefix(&bytes), Some(11), "known from its own length");

    // Record headers take it over the limit, not its own length.
    let bytes = Hello { key_share: 2000, ..Hello::default() }.records(1);
    assert!(bytes.len() > DEFAULT_PEEK_LIMIT);
    assert_eq!(detect(&bytes), Verdict::Tls(TlsInfo::default()));
    assert_eq!(deciding_prefix(&bytes), Some(DEFAULT_PEEK_LIMIT));
}

#[test]
fn client_hello_that_breaks_off_is_tls_without_labels() {
    let mut bytes = Hello::default().records(50)[..55].to_vec();
    bytes.extend(b"\x15\x03\x01\0\x02\x02\x28");
    assert_eq!(detect(&bytes), Verdict::Tls(TlsInfo::default()));
    assert_segmentation_does_not_matter("broken off", &bytes);
}

#[test]
fn giving_up_on_a_client_hello_is_tls() {
    let bytes = Hello::default().records(1 << 14);
    let mut detector = Detector::default();
    assert_eq!(detector.update(&bytes[..10]), Verdict::NeedMore);
    assert_eq!(detector.give_up("timeout"), Verdict::Tcp("timeout"));
    assert_eq!(detector.update(&bytes[..11]), Verdict::NeedMore);
    assert_eq!(detector.give_up("timeout"), Verdict::Tls(TlsInfo::default()));
}

#[test]
fn request_line_over_the_limit_is_raw_tcp() {
    let mut bytes = b"GET /".to_vec();
    bytes.resize(DEFAULT_PEEK_LIMIT - 1, b'a');
    assert_eq!(detect(&bytes), Verdict::NeedMore);
    bytes.extend(b" HTTP/1.1\r\n");
    assert_eq!(detect(&bytes), Verdict::Tcp(PEEK_LIMIT_REACHED));
}

/// Bytes that get far: tokens of the grammars in any order, beside arbitrary ones.
fn near_misses() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"GET",
        b"PRI",
        b"CONNECT",
        b" ",
        b"/",
        b"*",
        b"http:",
        b"a:1",
        b"HTTP/",
        b"HTTP/1.",
        b"1",
        b"0",
        b"2.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"SM",
        b"\x16\x03\x01",
        b"\0",
        b"\0\x80",
        b"\x01\0\0\x7c",
        b"\x03\x03",
        b"RTSP/1.0",
    ];
    prop::collection::vec(
        prop_oneof![
            4 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ],
        0..12,
    )
    .prop_map(|parts| parts.concat())
}

fn hello_bytes() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(hellos()), 1_usize..600, any::<prop::sample::Index>(), any::<u8>())
        .prop_map(|((hello, _), size, at, flip)| {
            let mut bytes = hello.records(size);
            let at = at.index(bytes.len());
            // One byte in three changed, the others as they are.
            if flip % 3 == 0 {
                bytes[at] ^= flip;
            }
            bytes
        })
}

fn inputs() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => near_misses(),
        2 => hello_bytes(),
        2 => prop::sample::select(PLAIN).prop_map(|(_, bytes, _)| bytes.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_segmentation_gives_the_same_verdict(
        bytes in inputs(),
        tail in prop::collection::vec(any::<u8>(), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let whole = detect(&bytes);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(segmented(&bytes, cuts), whole.clone());
        prop_assert_eq!(segmented(&bytes, 0..bytes.len()), whole.clone());
        if whole.is_final() {
            let longer = [bytes, tail].concat();
            prop_assert_eq!(detect(&longer), whole);
        }
    }

    #[test]
    fn any_limit_is_respected(bytes in inputs(), limit in 0_usize..100) {
        let whole = Detector::new(limit).update(&bytes);
        let mut detector = Detector::new(limit);
        let steps = (0..=bytes.len()).map(|n| detector.update(&bytes[..n]));
        let first = steps.into_iter().find(Verdict::is_final).unwrap_or(Verdict::NeedMore);
        prop_assert_eq!(&first, &whole);
        prop_assert!(whole.is_final() || bytes.len() < limit);
    }

    #[test]
    fn request_lines_with_any_token_are_http1(
        blank in prop::collection::vec(prop::sample::select(vec!["\r\n", "\n"]), 0..3),
        method in "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}",
        target in "(/[!-~]{0,40}|\\*|[a-z][a-z0-9+.-]{0,8}:[!-~]{0,20})",
        version in prop::sample::select(vec!["HTTP/1.0\r\n", "HTTP/1.1\r\n", "HTTP/1.1\n"]),
    ) {
        prop_assume!(method != "CONNECT");
        let line = format!("{}{method} {target} {version}", blank.concat());
        prop_assert_eq!(detect(line.as_bytes()), Verdict::Http1);
        prop_assert_eq!(deciding_prefix(line.as_bytes()), Some(line.len()));
    }
}

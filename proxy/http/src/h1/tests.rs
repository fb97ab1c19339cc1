//! The head readers against httparse, another parser with the same leniency, in any segmentation.

use httparse::{EMPTY_HEADER, ParserConfig, Request, Response, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::ParseError;

/// Parts of heads: in any order they come close to heads.
const PARTS: &[&str] = &[
    "GET",
    "POST",
    "CONNECT",
    " ",
    " ",
    "/",
    "/a?b",
    "*",
    "http://o/x",
    "h:1",
    "\u{fc}",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "200",
    "204 No Content",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "Host: a\r\n",
    "X : y\r\n",
    " folded\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close\r\n",
    "Authorization: NTLM x\r\n",
    "WWW-Authenticate: Negotiate\r\n",
    "Upgrade: x\r\n",
    "Content-Length: 3\r\n",
    "A:\tb\r\n",
    "\r\n\r\n",
    "\0",
    "\x7f",
];

/// Reasons that come from what fields mean, of which httparse knows nothing.
const MEANING: &[ParseError] = &[
    ParseError::ContentLength,
    ParseError::ContentLengths,
    ParseError::CodingAndLength,
    ParseError::CodingInHttp10,
    ParseError::EndlessRequest,
    ParseError::LongFramingField,
];

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let start = select(
        &["", "GET / HTTP/1.1\r\n", "POST /x HTTP/1.0\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 404\n"]
            [..],
    );
    (start, vec(select(PARTS), 0..10), any::<bool>()).prop_map(|(start, parts, ends)| {
        [start, &parts.concat(), if ends { "\r\n\r\n" } else { "" }].concat().into_bytes()
    })
}

/// Reads a head in pieces, the first of which end at `cuts`: its length, or where it is refused.
fn read<T>(
    bytes: &[u8],
    cuts: &[usize],
    mut reader: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, ParseError>,
) -> Result<Option<(T, usize)>, ParseError> {
    let mut at = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let piece = &bytes[at..end.clamp(at, bytes.len())];
        if let Some((head, length)) = reader(piece)? {
            return Ok(Some((head, at + length)));
        }
        at += piece.len();
    }
    Ok(None)
}

fn request(bytes: &[u8], cuts: &[usize]) -> Result<Option<(RequestHead, usize)>, ParseError> {
    let mut reader = RequestReader::new(HeadLimits::NONE);
    read(bytes, cuts, |piece| reader.read(piece))
}

fn response(bytes: &[u8], cuts: &[usize]) -> Result<Option<(ResponseHead, usize)>, ParseError> {
    let mut reader = ResponseReader::new(HeadLimits::NONE);
    read(bytes, cuts, |piece| reader.read(piece, Kind::Other))
}

fn agree<T>(
    ours: &Result<Option<(T, usize)>, ParseError>,
    theirs: &httparse::Result<usize>,
) -> Result<(), TestCaseError> {
    match (ours, theirs) {
        (Err(error), _) if MEANING.contains(error) => {}
        (Ok(Some((_, length))), Ok(Status::Complete(other))) => prop_assert_eq!(length, other),
        // httparse looks at a line when it is complete.
        (Ok(None), Ok(Status::Partial)) | (Err(_), Err(_)) => {}
        (ours, theirs) => {
            let ours = ours.as_ref().map(|head| head.as_ref().map(|(_, length)| *length));
            prop_assert!(false, "{ours:?} {theirs:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn requests_are_read_as_httparse_reads_them(bytes in heads(), mut cuts in vec(0_usize..80, 0..6)) {
        cuts.sort_unstable();
        let whole = request(&bytes, &[]);
        prop_assert_eq!(&request(&bytes, &cuts), &whole);
        let each: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&request(&bytes, &each), &whole);
        let mut table = [EMPTY_HEADER; 64];
        let mut other = Request::new(&mut table);
        let theirs = other.parse(&bytes);
        agree(&whole, &theirs)?;
        if let (Ok(Some((head, _))), Some(method)) = (&whole, other.method) {
            prop_assert_eq!(&*head.info.method, method);
        }
    }

    #[test]
    fn responses_are_read_as_httparse_reads_them(bytes in heads(), mut cuts in vec(0_usize..80, 0..6)) {
        cuts.sort_unstable();
        let whole = response(&bytes, &[]);
        prop_assert_eq!(&response(&bytes, &cuts), &whole);
        let each: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&response(&bytes, &each), &whole);
        let mut config = ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        config.allow_spaces_after_header_name_in_responses(true);
        let mut table = [EMPTY_HEADER; 64];
        let mut other = Response::new(&mut table);
        let theirs = config.parse_response(&mut other, &bytes);
        agree(&whole, &theirs)?;
        if let (Ok(Some((head, _))), Some(code)) = (&whole, other.code) {
            prop_assert_eq!(head.status, code);
        }
    }

    /// What detection takes for HTTP/1, the head reader does not refuse at its first line, but for
    /// targets that are not UTF-8.
    #[test]
    fn a_prefix_that_is_accepted_begins_a_head(bytes in heads(), mut cuts in vec(0_usize..80, 0..6)) {
        cuts.sort_unstable();
        let mut prefix = RequestPrefix::default();
        let whole = prefix.read(&bytes);
        let mut prefix = RequestPrefix::default();
        let mut pieces = Ok(false);
        let mut at = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            let end = end.clamp(at, bytes.len());
            if pieces == Ok(false) {
                pieces = prefix.read(&bytes[at..end]);
            }
            at = end;
        }
        prop_assert_eq!(pieces, whole);
        let head = request(&bytes, &[]);
        match (whole, &head) {
            (Ok(true), Err(error)) => prop_assert!(
                !matches!(
                    error,
                    ParseError::Start
                        | ParseError::Method
                        | ParseError::Target
                        | ParseError::Version
                        | ParseError::RequestLineEnd
                ),
                "{error:?}"
            ),
            (Ok(false), head) => prop_assert!(matches!(head, Ok(None)), "{head:?}"),
            _ => {}
        }
    }
}

#[test]
fn limits_hold_for_heads_in_one_piece_and_in_many() {
    let limits = HeadLimits { bytes: 100, fields: 3 };
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(4));
    let large = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(100));
    let fits = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(3));
    let cases = [
        (&many, Err(ParseError::TooManyFields)),
        (&large, Err(ParseError::LargeHead)),
        (&fits, Ok(Some(fits.len()))),
    ];
    for (head, expected) in cases {
        for step in [1, 7, 1000] {
            let cuts: Vec<_> = (0..head.len()).step_by(step).collect();
            let mut reader = RequestReader::new(limits);
            let found = read(head.as_bytes(), &cuts, |piece| reader.read(piece));
            assert_eq!(found.map(|head| head.map(|(_, length)| length)), expected, "{step}");
        }
    }
}

/// What a response becomes when it says that the connection ends, in pieces of `step` bytes.
fn closed(head: &str, step: usize) -> Option<String> {
    let cuts: Vec<_> = (0..head.len()).step_by(step).collect();
    let (found, length) = response(head.as_bytes(), &cuts).unwrap().unwrap();
    let close = found.close?;
    let start = length - close.back;
    let text = str::from_utf8(close.text).unwrap();
    Some([&head[..start], text, &head[start + close.replaces..]].concat())
}

#[test]
fn close_is_said_where_it_is_unambiguous() {
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\n", Some("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")),
        (
            "HTTP/1.1 204\r\nA: b\r\n\r\nX",
            Some("HTTP/1.1 204\r\nA: b\r\nconnection: close\r\n\r\nX"),
        ),
        (
            "HTTP/1.1 204 No\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nA: b\r\n\r\n",
            Some("HTTP/1.1 204 No\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nA: b\r\n\r\n"),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection:Keep-Alive \t\n\r\nhi",
            Some("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection:close \t\n\r\nhi"),
        ),
        ("HTTP/1.0 200 OK\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection: close\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection:\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection: x-odd, keep-alive\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection: keep-alive\r\nConnection: x-odd\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection: keep-alive\r\nConnection: keep-alive\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection: keep-alive\r\n , x-odd\r\n\r\n", None),
        ("HTTP/1.1 204 No\r\nConnection:\r\n keep-alive\r\n\r\n", None),
        ("HTTP/1.1 204 No\nServer: bare\n\n", None),
    ];
    for (said, expected) in cases {
        for step in [1, 2, 5, 1000] {
            assert_eq!(closed(said, step).as_deref(), expected, "{said:?} {step}");
        }
    }
}

#[test]
fn a_message_shares_its_connection_unless_a_field_is_against_it() {
    let authenticates = Some(Unpoolable::Authentication);
    let cases = [
        ("", None, None),
        ("Authorization: Basic x\r\n", None, None),
        ("authorization: NTLM\r\n", authenticates, authenticates),
        ("Proxy-Authorization:  negotiate x\r\n", authenticates, authenticates),
        ("WWW-Authenticate: Basic realm=\"a\"\r\n", None, None),
        ("WWW-Authenticate: Basic, Kerberos x\r\n", authenticates, authenticates),
        ("Connection: Keep-Alive\r\n", None, None),
        ("Connection: a, Close\r\n", Some(Unpoolable::Close), Some(Unpoolable::Close)),
        ("Connection: host\r\n", Some(Unpoolable::Framing), Some(Unpoolable::Framing)),
        ("Content-Length: 3\r\n", Some(Unpoolable::Framing), Some(Unpoolable::Framing)),
        ("Upgrade: h2c\r\n", Some(Unpoolable::Upgrade), None),
        ("Host: a\r\n", Some(Unpoolable::Host), None),
        ("A: b\n", Some(Unpoolable::Lines), Some(Unpoolable::Lines)),
    ];
    for (field, of_request, of_response) in cases {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n{field}\r\n");
        let (found, _) = request(head.as_bytes(), &[]).unwrap().unwrap();
        assert_eq!(found.unpoolable, of_request, "{head:?}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{field}\r\n");
        let (found, _) = response(head.as_bytes(), &[]).unwrap().unwrap();
        assert_eq!(found.unpoolable, of_response, "{head:?}");
    }
}

#[test]
fn loose_framing_of_chunks_is_told() {
    let cases = [
        ("3\r\nabc\r\n0\r\nA: b\r\n\r\n", false),
        ("3;x=y\r\nabc\r\n0\r\n\r\n", false),
        ("3\nabc\r\n0\r\n\r\n", true),
        ("3\r\nabc\n0\r\n\r\n", true),
        ("3 \r\nabc\r\n0\r\n\r\n", true),
        ("0\r\nA: b\n\r\n", true),
        ("0\r\n\n", true),
    ];
    for (text, loose) in cases {
        for step in [1, 3, 1000] {
            let mut body = Body::new(Framing::Chunked);
            for piece in text.as_bytes().chunks(step) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let progress = body.advance(piece).unwrap();
                    piece = &piece[progress.consumed..];
                }
            }
            assert!(body.is_done() && body.is_loose() == loose, "{text:?} {step}");
        }
    }
}

/// In any segmentation and case. Several say nothing.
#[test]
fn the_trace_of_a_request_is_read() {
    let field = "TraceParent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let trace = |fields: &str, cut: usize| {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        let mut reader = RequestReader::new(HeadLimits::default());
        let cut = cut.min(head.len() - 1);
        assert!(reader.read(&head.as_bytes()[..cut]).unwrap().is_none());
        let (head, _) = reader.read(&head.as_bytes()[cut..]).unwrap().unwrap();
        head.info.trace.map(|parent| (parent.trace_id[0], parent.parent_id[0], parent.is_sampled()))
    };
    for cut in 0..field.len() + 30 {
        assert_eq!(trace(field, cut), Some((0x0a, 0xb7, true)), "{cut}");
    }
    assert_eq!(trace(&field.to_lowercase(), 0), Some((0x0a, 0xb7, true)));
    for nothing in ["", &field.replace("-01", "-1"), &field.repeat(2)] {
        assert_eq!(trace(nothing, 0), None, "{nothing}");
    }
}

//! The readers of HTTP/1 alone, against httparse: the same heads, of the same length, in any pieces; and
//! what protocol detection takes for a request line the head reader takes too.
//!
//! The first byte says whose head it is, and where to cut the rest.

#![no_main]

use httparse::{EMPTY_HEADER, ParserConfig, Request, Response, Status};
use libfuzzer_sys::fuzz_target;
use weir_http::ParseError;
use weir_http::h1::{
    Body, HeadLimits, Kind, RequestHead, RequestPrefix, RequestReader, ResponseHead, ResponseReader,
};

/// Reasons that come from what fields mean, of which httparse knows nothing.
const MEANING: &[ParseError] = &[
    ParseError::ContentLength,
    ParseError::ContentLengths,
    ParseError::CodingAndLength,
    ParseError::CodingInHttp10,
    ParseError::EndlessRequest,
];

type Read<T> = Result<Option<(T, usize)>, ParseError>;

fn read<T>(bytes: &[u8], step: usize, mut reader: impl FnMut(&[u8]) -> Read<T>) -> Read<T> {
    let mut at = 0;
    for piece in bytes.chunks(step) {
        if let Some((head, length)) = reader(piece)? {
            return Ok(Some((head, at + length)));
        }
        at += piece.len();
    }
    Ok(None)
}

fn request(bytes: &[u8], step: usize) -> Read<RequestHead> {
    let mut reader = RequestReader::new(HeadLimits::NONE);
    read(bytes, step, |piece| reader.read(piece))
}

fn response(bytes: &[u8], step: usize) -> Read<ResponseHead> {
    let mut reader = ResponseReader::new(HeadLimits::NONE);
    read(bytes, step, |piece| reader.read(piece, Kind::Other))
}

fn agree<T>(ours: &Read<T>, theirs: httparse::Result<usize>) {
    match (ours, theirs) {
        (Err(error), _) if MEANING.contains(error) => {}
        (Ok(Some((_, length))), Ok(Status::Complete(other))) => assert_eq!(*length, other),
        (Ok(None), Ok(Status::Partial)) | (Err(_), Err(_)) => {}
        (Ok(head), theirs) => panic!("{:?} {theirs:?}", head.as_ref().map(|(_, length)| length)),
        (Err(error), theirs) => panic!("{error:?} {theirs:?}"),
    }
}

/// A body says the same in any pieces.
fn body(mut body: Body, mut bytes: &[u8], step: usize) -> (u64, usize, bool) {
    let (mut content, mut consumed) = (0, 0);
    while !bytes.is_empty() && !body.is_done() {
        let Ok(progress) = body.advance(&bytes[..step.min(bytes.len())]) else { break };
        content += progress.content;
        consumed += progress.consumed;
        bytes = &bytes[progress.consumed..];
    }
    (content, consumed, body.is_done())
}

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    // Below the length from which a token is cut.
    let bytes = &bytes[..bytes.len().min(4096)];
    let step = usize::from(how >> 1).max(1);
    let mut table = vec![EMPTY_HEADER; bytes.len()];
    if how & 1 != 0 {
        let whole = response(bytes, usize::MAX);
        assert_eq!(whole, response(bytes, 1));
        assert_eq!(whole, response(bytes, step));
        let mut config = ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        config.allow_spaces_after_header_name_in_responses(true);
        agree(&whole, config.parse_response(&mut Response::new(&mut table), bytes));
        if let Ok(Some((head, length))) = whole {
            let rest = &bytes[length..];
            let whole = body(Body::new(head.framing), rest, usize::MAX);
            assert_eq!(whole, body(Body::new(head.framing), rest, step));
            if let Some(close) = head.close {
                let start = length - close.back;
                let said = [&bytes[..start], close.text, &bytes[start + close.replaces..length]];
                let (closed, end) =
                    response(&said.concat(), step).expect("a head").expect("all of it");
                assert_eq!(end, said.concat().len());
                assert_eq!((closed.status, closed.framing), (head.status, head.framing));
                assert_eq!(closed.close, None, "it says so now");
            }
        }
        return;
    }
    let whole = request(bytes, usize::MAX);
    assert_eq!(whole, request(bytes, 1));
    assert_eq!(whole, request(bytes, step));
    agree(&whole, Request::new(&mut table).parse(bytes));
    let prefix = RequestPrefix::default().read(bytes);
    let mut pieces = RequestPrefix::default();
    let mut outcome = Ok(false);
    for piece in bytes.chunks(step) {
        if outcome == Ok(false) {
            outcome = pieces.read(piece);
        }
    }
    assert_eq!(outcome, prefix);
    if prefix == Ok(true) && std::str::from_utf8(bytes).is_ok() {
        use ParseError::{Method, RequestLineEnd, Start, Target, Version};
        assert!(!matches!(whole, Err(Start | Method | Target | Version | RequestLineEnd)));
    }
});

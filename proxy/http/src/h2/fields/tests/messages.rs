//! The rules for messages, one row for each.

use super::super::*;
use super::literal;

/// A list of these fields. It means the same from a table.
fn list(fields: &[(&str, &str)]) -> FieldList {
    let (mut shared, mut list) = (Shared::default(), FieldList::default());
    let block: Vec<u8> =
        fields.iter().flat_map(|(name, value)| literal(0x40, name, value)).collect();
    let mut decoder = ListDecoder::new(4096);
    decoder.decode(&block, 1 << 20, &mut shared, &mut list).unwrap();
    let first = verdicts(&list);
    let indices: Vec<u8> = (0xbe..0xbe + fields.len() as u8).rev().collect();
    decoder.decode(&indices, 1 << 20, &mut shared, &mut list).unwrap();
    assert_eq!(verdicts(&list), first);
    let block: Vec<u8> =
        fields.iter().flat_map(|(name, value)| literal(0x10, name, value)).collect();
    decoder.decode(&block, 1 << 20, &mut shared, &mut list).unwrap();
    assert_eq!(verdicts(&list), first);
    list
}

/// What the checks say.
fn verdicts(list: &FieldList) -> String {
    let checks = (list.check_request(), list.check_response(), list.check_trailers());
    format!("{checks:?} {:?}", list.content_length())
}

fn reason(check: Result<(), Malformed>) -> &'static str {
    check.map_or_else(Malformed::reason, |()| "")
}

#[test]
fn requests() {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "https");
    const A: (&str, &str) = (":authority", "a");
    const P: (&str, &str) = (":path", "/");
    const C: (&str, &str) = (":method", "CONNECT");
    const W: (&str, &str) = (":protocol", "websocket");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[M, S, A, P], ""),
        (&[P, S, M], ""),
        (&[M, S, A, P, ("cookie", "a"), ("cookie", "b"), ("te", "trailers"), ("x", "")], ""),
        (&[M, (":scheme", "coap"), (":path", "a")], ""),
        (&[(":method", "OPTIONS"), S, (":path", "*")], ""),
        (&[S, A, P], "no :method"),
        (&[M, A, P], "no :scheme"),
        (&[M, S, A], "no :path"),
        (&[], "no :method"),
        (&[M, S, P, M], "repeated pseudo-header field"),
        (&[M, S, P, A, A], "repeated pseudo-header field"),
        (&[M, S, ("x", "y"), P], "pseudo-header field behind other fields"),
        (&[M, S, ("content-length", "1"), P], "pseudo-header field behind other fields"),
        (&[M, S, P, (":status", "200")], ":status in a request"),
        (&[M, S, P, (":other", "")], "unknown pseudo-header field"),
        (&[M, S, (":path", "")], "empty :path"),
        (&[M, S, (":path", "a")], "relative :path"),
        (&[M, S, (":path", "*")], "relative :path"),
        (&[M, S, (":path", "/a b")], "invalid :path"),
        (&[(":method", ""), S, P], "invalid :method"),
        (&[(":method", "G T"), S, P], "invalid :method"),
        (&[M, (":scheme", ""), P], "invalid :scheme"),
        (&[M, S, P, (":authority", "a b")], "invalid :authority"),
        (&[C, A], ""),
        (&[C, A, ("x", "y")], ""),
        (&[C], "CONNECT without :authority"),
        (&[C, S, A], "CONNECT with :scheme or :path"),
        (&[C, P, A], "CONNECT with :scheme or :path"),
        (&[C, W, S, A, P], ""),
        (&[C, W, A, P], "no :scheme"),
        (&[C, W, S, A], "no :path"),
        (&[C, W, S, A, ("x", "y")], "no :path"),
        (&[M, W, S, A, P], ":protocol without CONNECT"),
        (&[C, S, A, P, (":protocol", "")], "invalid :protocol"),
        (&[M, S, P, ("X", "y")], "uppercase letter in a field name"),
        (&[M, S, P, ("", "y")], "invalid byte in a field name"),
        (&[M, S, P, ("a b", "y")], "invalid byte in a field name"),
        (&[M, S, P, ("a:b", "y")], "invalid byte in a field name"),
        (&[M, S, P, ("aé", "y")], "invalid byte in a field name"),
        (&[M, S, P, ("x", "a\0")], "invalid byte in a field value"),
        (&[M, S, P, ("x", "a\r\nb")], "invalid byte in a field value"),
        (&[M, S, P, ("x", "a\n")], "invalid byte in a field value"),
        (&[M, S, P, ("x", "a\x7f")], "invalid byte in a field value"),
        (&[M, S, P, ("x", "a\tb é")], ""),
        (&[M, S, P, ("x", " a")], "space around a field value"),
        (&[M, S, P, ("x", "a\t")], "space around a field value"),
        (&[M, S, P, ("te", "gzip")], "te other than trailers"),
        (&[M, S, P, ("te", "trailers, gzip")], "te other than trailers"),
        (&[M, S, P, ("connection", "close")], "connection-specific field"),
        (&[M, S, P, ("proxy-connection", "close")], "connection-specific field"),
        (&[M, S, P, ("keep-alive", "")], "connection-specific field"),
        (&[M, S, P, ("transfer-encoding", "chunked")], "connection-specific field"),
        (&[M, S, P, ("upgrade", "h2c")], "connection-specific field"),
    ];
    for (fields, expected) in cases {
        let list = list(fields);
        assert_eq!(reason(list.check_request()), *expected, "{fields:?}");
        assert_eq!(list.is_connect(), fields.contains(&C));
        assert_eq!(list.protocol(), fields.contains(&W));
    }
}

#[test]
fn responses() {
    const S: (&str, &str) = (":status", "200");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[S], ""),
        (&[(":status", "103"), ("link", "a")], ""),
        (&[], "no :status"),
        (&[("x", "y")], "no :status"),
        (&[(":path", "/")], "no :status"),
        (&[S, S], "repeated pseudo-header field"),
        (&[S, (":path", "/")], "pseudo-header field of a request in a response"),
        (&[("x", "y"), S], "pseudo-header field behind other fields"),
        (&[(":status", "20")], "invalid :status"),
        (&[(":status", "099")], "invalid :status"),
        (&[(":status", "2000")], "invalid :status"),
        (&[(":status", "101")], "status 101"),
        (&[S, ("upgrade", "h2c")], "connection-specific field"),
    ];
    for (fields, expected) in cases {
        assert_eq!(reason(list(fields).check_response()), *expected, "{fields:?}");
    }
}

#[test]
fn trailers() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("grpc-status", "0")], ""),
        (&[], ""),
        (&[(":status", "200")], "pseudo-header field in trailers"),
        (&[("grpc-status", "0"), (":path", "/")], "pseudo-header field behind other fields"),
        (&[("connection", "close")], "connection-specific field"),
    ];
    for (fields, expected) in cases {
        assert_eq!(reason(list(fields).check_trailers()), *expected, "{fields:?}");
    }
}

#[test]
fn content_lengths() {
    type Length = Result<Option<u64>, &'static str>;
    let cases: &[(&[&str], Length)] = &[
        (&[], Ok(None)),
        (&["0"], Ok(Some(0))),
        (&["12", "12"], Ok(Some(12))),
        (&["12, 12", "12"], Ok(Some(12))),
        (&["18446744073709551615"], Ok(Some(u64::MAX))),
        (&["18446744073709551616"], Err("invalid content-length")),
        (&[""], Err("invalid content-length")),
        (&["+1"], Err("invalid content-length")),
        (&["1,"], Err("invalid content-length")),
        (&["1, 2"], Err("invalid content-length")),
        (&["1", "2"], Err("contradictory content-length")),
    ];
    for (values, expected) in cases {
        let fields: Vec<_> = values.iter().map(|value| ("content-length", *value)).collect();
        let length = list(&fields).content_length().map_err(Malformed::reason);
        assert_eq!(length, *expected, "{values:?}");
    }
}

//! HTTP/1 that two recipients may read in two ways (RFC 9112 §11.2): the bytes of each shape. A second
//! request stands behind most of them, which is one only if the first ends where it seems to.

/// Name and bytes.
pub(crate) type Shape = (&'static str, String);

const START: &str = "POST / HTTP/1.1\r\nHost: host.test\r\n";
const SECOND: &str = "GET /second HTTP/1.1\r\nHost: host.test\r\nConnection: close\r\n\r\n";
const LAST_CHUNK: &str = "0\r\n\r\n";

/// All of them.
pub(crate) fn all() -> Vec<Shape> {
    [framing(), codings(), chunks(), lines(), targets()].concat()
}

/// Fields behind the first two lines, and the body.
fn posts(rows: &[(&'static str, &str, &str)]) -> Vec<Shape> {
    let shape = |(name, fields, body): &(&'static str, &str, &str)| {
        (*name, format!("{START}{fields}\r\n\r\n{body}{SECOND}"))
    };
    rows.iter().map(shape).collect()
}

fn framing() -> Vec<Shape> {
    posts(&[
        ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked", LAST_CHUNK),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5", LAST_CHUNK),
        ("CL.TE that disagree", "Content-Length: 3\r\nTransfer-Encoding: chunked", LAST_CHUNK),
        ("the same length twice", "Content-Length: 5\r\nContent-Length: 5", "hello"),
        ("two lengths", "Content-Length: 5\r\nContent-Length: 7", "hello"),
        ("two lengths, the second 0", "Content-Length: 5\r\nContent-Length: 0", "hello"),
        ("a list of one length", "Content-Length: 5, 5", "hello"),
        ("a list of two lengths", "Content-Length: 5, 6", "hello"),
        ("a length with a sign", "Content-Length: +5", "hello"),
        ("a negative length", "Content-Length: -5", "hello"),
        ("a length in hexadecimal", "Content-Length: 0x5", "hello"),
        ("a length with a blank", "Content-Length: 5 5", "hello"),
        ("no length", "Content-Length:", ""),
        ("a length beyond 64 bits", "Content-Length: 18446744073709551621", "hello"),
        ("a blank before the colon", "Content-Length : 5", "hello"),
        ("a blank before the name", "X: y\r\n Content-Length: 5", "hello"),
        ("a length with a vertical tab", "Content-Length: \x0b5", "hello"),
        ("a name with an underscore", "Content_Length: 5", ""),
    ])
}

fn codings() -> Vec<Shape> {
    posts(&[
        ("chunked, identity", "Transfer-Encoding: chunked, identity", LAST_CHUNK),
        ("identity", "Transfer-Encoding: identity\r\nContent-Length: 5", "hello"),
        ("identity, chunked", "Transfer-Encoding: identity, chunked", LAST_CHUNK),
        ("chunked twice", "Transfer-Encoding: chunked, chunked", LAST_CHUNK),
        ("two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", LAST_CHUNK),
        ("another name", "Transfer-Encoding: xchunked", LAST_CHUNK),
        ("a quoted name", "Transfer-Encoding: \"chunked\"", LAST_CHUNK),
        ("a name in capitals", "Transfer-Encoding: CHUNKED", LAST_CHUNK),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked", LAST_CHUNK),
        ("a parameter", "Transfer-Encoding: chunked;q=1", LAST_CHUNK),
        ("an empty item", "Transfer-Encoding: chunked,", LAST_CHUNK),
        ("a blank before the colon of the coding", "Transfer-Encoding : chunked", LAST_CHUNK),
        ("a folded coding", "Transfer-Encoding:\r\n chunked", LAST_CHUNK),
        ("a folded field", "X: a\r\n b\r\nContent-Length: 5", "hello"),
    ])
}

fn chunks() -> Vec<Shape> {
    let rows = [
        ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size with many zeros", "00000000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size in C's form", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a size with a blank", "5 \r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("an extension", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("an extension that ends with LF", "5;a\nhello\r\n0\r\n\r\n"),
        ("an extension with CR", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a quoted extension with a line end", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
        ("a size that ends with LF", "5\nhello\r\n0\r\n\r\n"),
        ("a size that ends with CR", "5\rhello\r\n0\r\n\r\n"),
        ("data that is too long", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("data that ends with LF", "5\r\nhello\n0\r\n\r\n"),
        ("data that ends with two CRs", "5\r\nhello\r\r\n0\r\n\r\n"),
        ("trailers that look like framing", "0\r\nContent-Length: 60\r\n\r\n"),
        ("a trailer with a bare CR", "0\r\nX: a\rb\r\n\r\n"),
        ("a last line with a bare LF", "0\r\n\n"),
    ];
    let shape = |(name, body): &(&'static str, &str)| {
        (*name, format!("{START}Transfer-Encoding: chunked\r\n\r\n{body}{SECOND}"))
    };
    rows.iter().map(shape).collect()
}

fn lines() -> Vec<Shape> {
    let rows = [
        ("bare LF", "GET / HTTP/1.1\nHost: host.test\n\n"),
        ("one bare LF", "GET / HTTP/1.1\r\nHost: host.test\nContent-Length: 0\r\n\r\n"),
        ("CR as the line end", "GET / HTTP/1.1\rHost: host.test\r\r"),
        ("CR in a value", "GET / HTTP/1.1\r\nHost: host.test\r\nX: a\rContent-Length: 5\r\n\r\n"),
        ("two CRs", "GET / HTTP/1.1\r\nHost: host.test\r\r\n\r\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: host.test\r\nX: a\0b\r\n\r\n"),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: host.test\r\nX\0: a\r\n\r\n"),
        ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: host.test\r\n\r\n"),
        ("a line without a colon", "GET / HTTP/1.1\r\nHost: host.test\r\nnothing\r\n\r\n"),
        ("an empty name", "GET / HTTP/1.1\r\nHost: host.test\r\n: nothing\r\n\r\n"),
        ("leading blank in the head", "GET / HTTP/1.1\r\n Host: host.test\r\n\r\n"),
        ("many empty lines", "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: host.test\r\n\r\n"),
    ];
    rows.iter().map(|(name, head)| (*name, format!("{head}{SECOND}"))).collect()
}

fn targets() -> Vec<Shape> {
    let rows = [
        (
            "another host in the target",
            "GET http://other.test/ HTTP/1.1\r\nHost: host.test\r\n\r\n",
        ),
        ("two hosts", "GET / HTTP/1.1\r\nHost: host.test\r\nHost: other.test\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("a blank in the target", "GET /a b HTTP/1.1\r\nHost: host.test\r\n\r\n"),
        ("tabs in the request line", "GET\t/\tHTTP/1.1\r\nHost: host.test\r\n\r\n"),
        ("two blanks", "GET  / HTTP/1.1\r\nHost: host.test\r\n\r\n"),
        ("another version", "GET / HTTP/1.2\r\nHost: host.test\r\n\r\n"),
        ("a version in small letters", "GET / http/1.1\r\nHost: host.test\r\n\r\n"),
        ("HTTP/0.9", "GET /\r\n"),
        ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a body of GET", "GET / HTTP/1.1\r\nHost: host.test\r\nContent-Length: 5\r\n\r\nhello"),
        ("a method in small letters", "get / HTTP/1.1\r\nHost: host.test\r\n\r\n"),
    ];
    rows.iter().map(|(name, head)| (*name, format!("{head}{SECOND}"))).collect()
}

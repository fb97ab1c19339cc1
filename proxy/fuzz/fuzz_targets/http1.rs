//! What detection takes for HTTP/1 is what the parser behind it can read: the verdict agrees with a
//! second reading of the grammar, and httparse, another parser, accepts the line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::detect::{Verdict, detect};

/// RFC 9112 §3 by splitting, without a state machine. `None`: the line is not complete.
fn request_line(bytes: &[u8]) -> Option<bool> {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
    let (blank, rest) = bytes.split_at(start);
    let length = rest.iter().position(|&byte| byte == b'\n')?;
    let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Some(false);
    };
    let blank_lines = blank.split(|&byte| byte == b'\n');
    Some(
        blank.last() != Some(&b'\r')
            && blank_lines.into_iter().all(|line| line.is_empty() || line == b"\r")
            && (1..=32).contains(&method.len())
            && method.iter().all(|&byte| is_tchar(byte))
            && is_target(method, target)
            && [&b"HTTP/1.0"[..], b"HTTP/1.1"].contains(&version),
    )
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte)
}

/// The four forms of RFC 9112 §3.2.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    let visible = target.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    let scheme = target.split(|&byte| byte == b':').next().unwrap_or_default();
    let authority = |byte: &u8| byte.is_ascii_graphic() && !b"\"/<>?@\\^`{|}#".contains(byte);
    visible
        && match target.first() {
            None => false,
            Some(_) if method == b"CONNECT" => target.iter().all(authority),
            Some(b'/') => true,
            Some(b'*') => target.len() == 1,
            Some(first) => {
                first.is_ascii_alphabetic()
                    && scheme.len() < target.len()
                    && scheme.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
            }
        }
}

fuzz_target!(|data: &[u8]| {
    // Below the peek limit, which the grammar knows nothing of.
    let data = &data[..data.len().min(4096)];
    let is_http1 = detect(data) == Verdict::Http1;
    assert_eq!(is_http1, request_line(data) == Some(true));
    // httparse wants UTF-8; servers take Latin-1 as well, and weir then passes it on unread.
    if is_http1 && std::str::from_utf8(data).is_ok() {
        let end = data.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line_end =
            (1..=end).find(|&n| detect(&data[..n]) == Verdict::Http1).expect("some prefix decides");
        let head = [&data[..line_end], b"\r\n"].concat();
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse(&head);
        assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
    }
});

//! Generated sessions: both sides in the order in which their bytes pass.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What one side says at once, or (empty) that it has ended.
#[derive(Clone)]
pub(super) struct Step(pub(super) Side, pub(super) Vec<u8>);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.name(), self.1.escape_ascii())
    }
}

const TARGETS: &[&str] =
    &["/", "/a/b?c=d", "*", "http://o.example:81/x?y", "http://o", "h:1", "/\u{fc}", "/a|{}[]#f"];
const FIELDS: &[&str] = &[
    "Host: a\r\n",
    "hOST:b \r\n",
    "Accept: */*\r\nUser-Agent: curl/8.5.0\r\n",
    "Content-Type: application/grpc+proto\r\n",
    "Content-Type: text/plain\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close\r\n",
    "X-Tab:\ta\tb\r\nX-Empty:\r\n",
    "X-Latin: \u{e9}\n",
];
const STATUSES: &[&str] =
    &["200 OK", "200", "204 No Content", "304 Not Modified", "404 ", "503 Odd\tReason", "999 X"];

/// Framing fields and the body that goes with them; `eof`: the body may end with the connection.
fn framed(eof: bool) -> impl Strategy<Value = (String, Vec<u8>)> {
    let none = Just((String::new(), Vec::new()));
    let length = vec(any::<u8>(), 0..40)
        .prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body));
    let extension = select(&["", ";a=b", " ; q=\"x\"", "\t"][..]);
    let chunk = (vec(any::<u8>(), 1..20), extension);
    let trailers = select(&["", "Sum: x\r\n", "A: b\r\nC: 0\n"][..]);
    let chunked = (vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
        let mut body = Vec::new();
        for (content, extension) in chunks {
            body.extend_from_slice(format!("{:X}{extension}\r\n", content.len()).as_bytes());
            body.extend_from_slice(&content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        ("Transfer-Encoding: gzip, chunked\r\n".to_owned(), body)
    });
    let until_eof = vec(any::<u8>(), 0..40).prop_map(|body| ("X: y\r\n".to_owned(), body));
    let eof = u32::from(eof);
    prop_oneof![3 => none, 3 => length, 3 => chunked, eof => until_eof]
}

/// Head and body.
type Message = (Vec<u8>, Vec<u8>);

fn fields() -> impl Strategy<Value = String> {
    vec(select(FIELDS), 0..4).prop_map(|fields| fields.concat())
}

fn request(may_tunnel: bool) -> impl Strategy<Value = Message> {
    let tunnel = u32::from(may_tunnel);
    let method = prop_oneof![
        6 => select(&["GET", "HEAD", "POST", "PUT", "M-SEARCH"][..]),
        tunnel => Just("CONNECT"),
    ];
    let upgrade = prop_oneof![8 => Just(""), tunnel => Just("Upgrade: custom\r\n")];
    let minor = prop_oneof![8 => Just(1), 1 => Just(0)];
    (method, select(TARGETS), minor, fields(), upgrade, framed(false)).prop_map(
        |(method, target, minor, fields, upgrade, (mut framing, mut body))| {
            if minor == 0 && framing.starts_with('T') {
                (framing, body) = (String::new(), Vec::new());
            }
            let head =
                format!("{method} {target} HTTP/1.{minor}\r\n{fields}{upgrade}{framing}\r\n");
            (head.into_bytes(), body)
        },
    )
}

/// `last`: the connection may end with it.
fn response(last: bool) -> impl Strategy<Value = Message> {
    let interim = select(
        &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"][..],
    );
    let interims = prop_oneof![4 => Just(Vec::new()), 1 => vec(interim, 1..3)];
    let status =
        prop_oneof![12 => select(STATUSES), 1 => Just("101 Switching"), 6 => Just("200 OK")];
    let fold = prop_oneof![8 => Just(""), 1 => Just("X-Folded : a\r\n\tb\r\n")];
    (interims, status, fields(), fold, framed(last)).prop_map(
        |(interims, status, fields, fold, (framing, body))| {
            let head =
                format!("{}HTTP/1.1 {status}\r\n{fields}{fold}{framing}\r\n", interims.concat());
            (head.into_bytes(), body)
        },
    )
}

/// A few requests, all sent before the first response, or the response before the body. Only the
/// last may become a tunnel: the terminating engine holds back what comes behind one, so that no one can
/// have answered it.
fn batch(last: bool) -> impl Strategy<Value = Vec<Step>> {
    let pairs = prop_oneof![
        5 => Just(Vec::new()),
        1 => vec((request(false), response(last)), 1..4),
    ];
    let final_pair = (request(true), response(last));
    (pairs, final_pair, prop::bool::weighted(0.2)).prop_map(|(mut pairs, final_pair, early)| {
        pairs.push(final_pair);
        if let ([((head, body), response)], true) = (&pairs[..], early) {
            let response = [&response.0[..], &response.1].concat();
            return vec![
                Step(Client, head.clone()),
                Step(Upstream, response),
                Step(Client, body.clone()),
            ];
        }
        let mut steps = Vec::new();
        for side in [Client, Upstream] {
            let said = pairs.iter().map(|(request, response)| match side {
                Client => [&request.0[..], &request.1].concat(),
                Upstream => [&response.0[..], &response.1].concat(),
            });
            steps.push(Step(side, said.collect::<Vec<_>>().concat()));
        }
        steps
    })
}

/// A session, and how both sides end it.
pub(super) fn session() -> impl Strategy<Value = Vec<Step>> {
    let ends = select(&[[Client, Upstream], [Upstream, Client]][..]);
    (vec(batch(false), 0..4), batch(true), ends, prop::bool::weighted(0.1)).prop_map(
        |(batches, last, ends, cut)| {
            let mut steps: Vec<Step> = batches.into_iter().flatten().chain(last).collect();
            if cut && let Some(Step(_, words)) = steps.last_mut() {
                words.truncate(words.len() / 2);
            }
            steps.retain(|Step(_, words)| !words.is_empty());
            steps.extend(ends.map(|side| Step(side, Vec::new())));
            steps
        },
    )
}

/// A session with a few bytes changed, inserted or left out.
pub(super) fn mutated() -> impl Strategy<Value = Vec<Step>> {
    const BYTES: &[u8] = b"\r\n \t:;,0159aGH/\0\x7f\xff";
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), select(BYTES), 0..3);
    (session(), vec(change, 1..3)).prop_map(|(mut steps, changes)| {
        for (step, at, byte, how) in changes {
            let step = step.index(steps.len());
            let words = &mut steps[step].1;
            if words.len() < 2 {
                continue;
            }
            let at = at.index(words.len());
            match how {
                0 => words[at] = byte,
                1 => words.insert(at, byte),
                _ => drop(words.remove(at)),
            }
        }
        steps
    })
}

/// The same in smaller segments.
pub(super) fn cut(steps: &[Step], cuts: &[usize]) -> Vec<Step> {
    let mut sizes = cuts.iter().cycle();
    let mut smaller = Vec::new();
    for Step(side, words) in steps {
        if words.is_empty() {
            smaller.push(Step(*side, Vec::new()));
        }
        let mut rest = &words[..];
        while !rest.is_empty() {
            let size = sizes.next().map_or(1, |size| (*size).min(rest.len()));
            smaller.push(Step(*side, rest[..size].to_vec()));
            rest = &rest[size..];
        }
    }
    smaller
}

/// Plays a session to its end.
pub(super) fn observe(steps: &[Step]) -> Watch {
    let mut watch = Watch::new();
    for Step(side, words) in steps {
        match &words[..] {
            [] => watch.observer.ended(*side),
            words => watch.observer.bytes(*side, words),
        }
    }
    watch.observer.finish(ExchangeEnd::UpstreamReset(None));
    watch
}

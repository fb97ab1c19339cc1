//! Bytes that pass and are not shown, as those that the tap skips.

use weir_http::ParseError;

use super::*;

fn watched() -> (HttpObserver, Arc<Recorder>) {
    let sink = Recorder::charging(None);
    let observer = HttpObserver::new(HttpVersion::Http2, Arc::clone(&sink) as Arc<_>);
    (observer, sink)
}

#[test]
fn data_that_are_not_shown_count_as_if_they_were() {
    let (mut observer, sink) = watched();
    for (side, bytes) in script([client(HEADERS, END_HEADERS, 1, POST)]) {
        observer.bytes(side, &bytes);
    }
    let data = frame(DATA, END_STREAM, 1, &[b'x'; 9000]);
    observer.bytes(Side::Client, &data[..9]);
    observer.passed(Side::Client, 9000);
    observer.bytes(Side::Upstream, &frame(HEADERS, END_HEADERS, 1, OK));
    observer.bytes(Side::Upstream, &data[..1009]);
    observer.passed(Side::Upstream, 8000);
    let seen = sink.so_far();
    assert_eq!((seen[0].request_bytes, seen[0].response_bytes), (9000, 9000));
    assert_eq!((seen[0].end.clone(), sink.downgrades().len()), (ExchangeEnd::Complete, 0));
}

#[test]
fn what_is_not_of_a_stream_is_followed_no_further() {
    for shown in [&b""[..], b"\0\0\x04", &frame(HEADERS, BOTH, 1, GET)[..9]] {
        let (mut observer, sink) = watched();
        for (side, bytes) in script([]) {
            observer.bytes(side, &bytes);
        }
        observer.bytes(Side::Client, shown);
        observer.passed(Side::Client, 3);
        let why: Vec<&str> = sink.downgrades().iter().map(|it| it.reason).collect();
        assert_eq!(why, [ParseError::Unseen.reason()], "{shown:?}");
    }
}

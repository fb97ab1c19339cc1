//! What a connection keeps of what its peers say: words once, however often they are named, and
//! never more than its workload may keep.

use weir_http::ParseError;

use super::*;
use crate::budget::{Budgets, Resource, Share, Sizes};

/// Larger than the tables that are usual.
const TABLE: usize = 1 << 20;

fn integer(first: u8, bits: u8, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    value -= most;
    while value > 127 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// `:path`, put into the table.
fn path(path: &[u8]) -> Vec<u8> {
    [integer(0x40, 6, 4), integer(0, 7, path.len()), path.to_vec()].concat()
}

/// A block in as many frames as it takes.
fn block(stream: u32, block: &[u8]) -> Vec<(Side, Vec<u8>)> {
    let count = block.chunks(16_000).count();
    let part = |(at, part)| {
        let kind = if at == 0 { HEADERS } else { CONTINUATION };
        let end = if at + 1 == count { END_HEADERS } else { 0 };
        let stream_end = if at == 0 { END_STREAM } else { 0 };
        client(kind, end | stream_end, stream, part)
    };
    block.chunks(16_000).enumerate().map(part).collect()
}

/// The upstream allows a large table, and the client has made it so large.
fn large_table() -> Script {
    let size = (TABLE as u32).to_be_bytes();
    script([upstream(SETTINGS, 0, 0, &[&[0, 1], &size[..]].concat())])
}

fn watched(share: Option<Share>) -> Watched {
    let sink = Recorder::charging(share);
    let mut watched = Watched {
        observer: HttpObserver::new(HttpVersion::Http2, Arc::clone(&sink) as Arc<_>),
        sink,
    };
    watched.show(&large_table(), usize::MAX);
    watched
}

fn memory(watched: &Watched) -> usize {
    watched.observer.connection.memory()
}

fn budgets(memory: u64) -> Budgets {
    Budgets::new(&Sizes { memory, ..Sizes::default() })
}

#[test]
fn a_word_that_is_named_often_is_kept_once_and_cut() {
    let mut watched = watched(None);
    let long = [b"/", &b"a".repeat(60_000)[..]].concat();
    let first = [integer(0x20, 5, TABLE), path(&long), b"\x82\x86".to_vec()].concat();
    watched.show(&block(1, &first), usize::MAX);
    let table = memory(&watched);
    assert!(table < 24 << 10, "{table} bytes for one entry");
    for stream in (3..=801).step_by(2) {
        watched.show(&block(stream, b"\xbe\x82\x86"), usize::MAX);
    }
    watched.observer.finish(ExchangeEnd::Cancelled);
    let seen = watched.sink.so_far();
    assert_eq!((seen.len(), watched.sink.downgrades()), (400 + 1, Vec::new()));
    assert_eq!(seen[0].path.len(), 8 << 10);
    assert!(seen.iter().all(|exchange| Arc::ptr_eq(&exchange.path, &seen[0].path)));
}

#[test]
fn a_long_word_is_cut_between_characters() {
    let mut watched = watched(None);
    let long = ["/", &"ä".repeat(5000), "?query"].concat();
    watched.show(&block(1, &[&path(long.as_bytes())[..], b"\x82\x86"].concat()), usize::MAX);
    watched.observer.finish(ExchangeEnd::Cancelled);
    let path = &watched.sink.so_far()[0].path;
    assert!(path.len() == (8 << 10) - 1 && path.ends_with('ä'), "{} bytes", path.len());
}

/// Words of requests without an end, a table of long paths, a field without an end, and many small
/// streams: all of it stops at the budget, the bytes go on, and another workload has room.
#[test]
fn a_workload_keeps_no_more_than_it_may() {
    const BUDGET: u64 = 512 << 10;
    let resized = |rest: Vec<u8>| [integer(0x20, 5, TABLE), rest].concat();
    let long = |number: usize| path(&[format!("/{number:05}").as_bytes(), &[b'a'; 7000]].concat());
    let table: Vec<u8> = (0..16).flat_map(long).collect();
    let endless = [integer(0x40, 6, 4), integer(0, 7, 4 * TABLE - 100), vec![b'a'; 8000]].concat();
    let words: Vec<_> = (0..200)
        .flat_map(|number| {
            block(2 * number + 1, &[&long(number as usize)[..], b"\x82\x86"].concat())
        })
        .collect();
    let scripts: [(&str, Script); 4] = [
        ("words", words),
        ("table", (0..20).flat_map(|n| block(2 * n + 1, &resized(table.clone()))).collect()),
        (
            "field",
            [client(HEADERS, 0, 1, &resized(endless))]
                .into_iter()
                .chain((0..60).map(|_| client(CONTINUATION, 0, 1, &[b'a'; 16_000])))
                .collect(),
        ),
        ("streams", (0..5000).map(|n| client(HEADERS, BOTH, 2 * n + 1, GET)).collect()),
    ];
    for (name, script) in scripts {
        let budgets = budgets(BUDGET);
        let share = budgets.share(&"a".into());
        let mut connections: Vec<_> = (0..4).map(|_| watched(Some(share.clone()))).collect();
        for step in &script {
            for connection in &mut connections {
                connection.show(std::slice::from_ref(step), 4096);
            }
            assert!(share.used(Resource::Memory) <= BUDGET / 2, "{name}");
            let kept: usize = connections
                .iter()
                .filter(|watched| watched.observer.untracked().is_none())
                .map(memory)
                .sum();
            // What is free of each, and what has come since it was charged last.
            assert!(kept <= (BUDGET / 2) as usize + 4 * (16 << 10), "{name}: {kept}");
        }
        let lost: Vec<_> = connections.iter().flat_map(|it| it.sink.downgrades()).collect();
        assert!(!lost.is_empty(), "{name}");
        assert!(
            lost.iter().all(|lost| lost.reason == ParseError::OverBudget.reason()),
            "{name}: {lost:?}"
        );
        let memory_figures = &share.figures()[Resource::Memory as usize];
        assert!(memory_figures.exceeded > 0, "{name}");

        // Another workload is followed as before.
        let mut other = watched(Some(budgets.share(&"b".into())));
        other.show(&[client(HEADERS, BOTH, 1, GET), upstream(HEADERS, BOTH, 1, OK)], usize::MAX);
        assert_eq!((other.lines().len(), other.sink.downgrades()), (1, Vec::new()), "{name}");

        drop((connections, other));
        assert_eq!(budgets.used(Resource::Memory), 0, "{name}: all of it is given back");
    }
}

//! The reference pages in `docs/` have what the program has, and nothing else.

use std::collections::BTreeMap;

use serde_json::Value;
use weir_common::Reason;

use super::{connection_record, request_record};
use crate::telemetry::{
    CloseReason,
    record::{self, KernelNumbers, Record, RouteTaken},
};

/// The rows of each table of a page that has this head, without their outer cells.
pub(in crate::telemetry) fn rows(page: &str, head: &str) -> Vec<Vec<Vec<String>>> {
    let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut tables, mut lines) = (Vec::new(), text.lines());
    while lines.by_ref().any(|line| line == head) {
        let row = |line: &str| {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            let cells: Vec<_> = cells.collect();
            assert!(
                cells.last().is_some_and(|it| !it.is_empty()),
                "{page}: {line}: say what it means"
            );
            cells
        };
        let table = lines.by_ref().skip(1).take_while(|line| line.starts_with('|')).map(row);
        tables.push(table.collect());
    }
    assert!(!tables.is_empty(), "docs/{page} has no table {head}");
    tables
}

/// The names in the first column of a table are these.
#[track_caller]
fn names(page: &str, head: &str, code: &[&str]) {
    let rows = rows(page, head).concat();
    let listed: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    for name in code {
        assert!(listed.contains(name), "`{name}` is not in docs/{page}; add a row");
    }
    for name in listed {
        assert!(code.contains(&name), "docs/{page}: there is no `{name}`; remove the row");
    }
}

#[test]
fn the_page_of_troubles_has_each_reason_of_the_kernel() {
    let all = Reason::ALL.map(Reason::name);
    names("TROUBLESHOOTING.md", "| reason | meaning | what to do |", &all);
}

#[test]
fn the_page_of_troubles_has_each_end_of_a_connection() {
    let all = [
        CloseReason::Finished,
        CloseReason::ClientClosed,
        CloseReason::ClientReset,
        CloseReason::UpstreamReset,
        CloseReason::ConnectFailed(0),
        CloseReason::NotEstablished(0),
        CloseReason::HalfClosedTimeout,
        CloseReason::DrainDeadline,
        CloseReason::Loop,
        CloseReason::NoOriginalDestination,
        CloseReason::Error(0),
        CloseReason::Http(String::new()),
        CloseReason::TapEnded,
        CloseReason::Aborted,
    ];
    for reason in &all {
        // One that is missing above does not compile.
        match reason {
            CloseReason::Finished
            | CloseReason::ClientClosed
            | CloseReason::ClientReset
            | CloseReason::UpstreamReset
            | CloseReason::ConnectFailed(_)
            | CloseReason::NotEstablished(_)
            | CloseReason::HalfClosedTimeout
            | CloseReason::DrainDeadline
            | CloseReason::Loop
            | CloseReason::NoOriginalDestination
            | CloseReason::Error(_)
            | CloseReason::Http(_)
            | CloseReason::TapEnded
            | CloseReason::Aborted => {}
        }
    }
    let all: Vec<_> = all.iter().map(CloseReason::name).collect();
    names("TROUBLESHOOTING.md", "| close | meaning | what to do |", &all);
}

/// The fields of a record, those within others with a dot.
fn fields(record: &Record) -> Vec<String> {
    let Value::Object(all) = serde_json::to_value(record).unwrap() else { unreachable!() };
    let flat = |(name, value): (String, Value)| match value {
        Value::Object(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
        _ => vec![name],
    };
    all.into_iter().flat_map(flat).collect()
}

/// A table has the fields of the fuller record, and says `always` of those of the other one.
fn compare(table: &[Vec<String>], full: &Record, least: &Record) {
    let (full, least) = (fields(full), fields(least));
    let listed: BTreeMap<_, _> =
        table.iter().map(|row| (row[0].trim_matches('`'), (&row[1], &row[2]))).collect();
    for name in &full {
        let Some((kind, present)) = listed.get(name.as_str()) else {
            panic!("`{name}` is not in docs/RECORDS.md; add a row");
        };
        assert_eq!(*present == "always", least.contains(name), "docs/RECORDS.md: `{name}`");
        assert_eq!(name.ends_with("_us"), *kind == "µs", "docs/RECORDS.md: unit of `{name}`");
        assert_eq!(name.contains("bytes"), *kind == "bytes", "docs/RECORDS.md: unit of `{name}`");
    }
    for name in listed.keys() {
        assert!(full.iter().any(|it| it == name), "docs/RECORDS.md: there is no field `{name}`");
    }
}

#[test]
fn the_page_of_records_has_the_fields_of_connections() {
    let tables = rows("RECORDS.md", "| field | type | present | meaning |");
    let mut full = connection_record();
    let time = full.duration;
    full.endpoint = Some(full.destination);
    full.client = Some(full.destination);
    full.reason = Some("stale".into());
    full.name = Some("a".to_owned());
    full.sni = Some("a".to_owned());
    full.alpn = vec!["h2".to_owned()];
    full.untracked = Some("x".into());
    full.unpoolable = Some("x".into());
    full.engine = Some("tap".into());
    (full.detect, full.handshake) = (Some(time), Some(time));
    full.error = Some("x".to_owned());
    full.kernel = Some(KernelNumbers { srtt: time, retransmits: 1 });
    // A field that is missing here does not compile: set it above, so that the page must have it.
    let record::ConnectionRecord {
        id: _,
        time: _,
        workload: _,
        direction: _,
        client: _,
        process: _,
        destination: _,
        endpoint: _,
        treatment: _,
        source: _,
        reason: _,
        why: _,
        name: _,
        sni: _,
        alpn: _,
        bytes_sent: _,
        bytes_received: _,
        requests: _,
        untracked: _,
        unpoolable: _,
        engine: _,
        detect: _,
        handshake: _,
        duration: _,
        close: _,
        error: _,
        kernel: _,
    } = &full;
    let mut least = connection_record();
    (least.name, least.process) = (None, None);
    (least.client, least.endpoint, least.treatment, least.source) = (None, None, None, None);
    (least.reason, least.sni, least.alpn, least.untracked) = (None, None, Vec::new(), None);
    (least.unpoolable, least.engine) = (None, None);
    (least.detect, least.handshake) = (None, None);
    (least.error, least.kernel) = (None, None);
    compare(&tables[0], &Record::Connection(full), &Record::Connection(least));
}

#[test]
fn the_page_of_records_has_the_fields_of_requests() {
    let tables = rows("RECORDS.md", "| field | type | present | meaning |");
    let mut full = request_record();
    full.endpoint = Some(full.destination);
    full.process = connection_record().process;
    let text = || Some("x".to_owned());
    full.route = Some(RouteTaken { name: "a".into(), rule: "0".into(), backend: Some("b".into()) });
    full.attempts = 2;
    full.authority = text();
    (full.trace_id, full.parent_id, full.sampled) = (text(), text(), Some(true));
    (full.grpc_status, full.h2_error) = (Some(0), Some(0));
    full.weir_error = Some("x".into());
    // A field that is missing here does not compile: set it above, so that the page must have it.
    let record::RequestRecord {
        connection: _,
        time: _,
        workload: _,
        direction: _,
        client: _,
        process: _,
        destination: _,
        endpoint: _,
        route: _,
        attempts: _,
        treatment: _,
        source: _,
        version: _,
        method: _,
        authority: _,
        path: _,
        status: _,
        trace_id: _,
        parent_id: _,
        sampled: _,
        grpc_status: _,
        classification: _,
        latency: _,
        duration: _,
        request_bytes: _,
        response_bytes: _,
        end: _,
        h2_error: _,
        weir_error: _,
    } = &full;
    let mut least = request_record();
    (least.endpoint, least.route, least.attempts) = (None, None, 1);
    (least.treatment, least.source, least.authority, least.status) = (None, None, None, None);
    (least.trace_id, least.parent_id, least.sampled) = (None, None, None);
    (least.grpc_status, least.classification, least.latency) = (None, None, None);
    (least.h2_error, least.weir_error) = (None, None);
    compare(&tables[1], &Record::Request(full), &Record::Request(least));
}

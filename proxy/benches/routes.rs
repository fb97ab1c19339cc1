//! What routes cost a request: to find its rule among a hundred routes with five matches each (500 in all) beside the
//! reading of its head alone, and to change its head. The bars are 0.3 us and 0.5 us.

use std::sync::Arc;

use divan::{Bencher, black_box};
use weir::route::{Match, PathMatch, Route, RouteId, RouteKind, Rule, Table, TextMatch};
use weir_http::{FieldEdit, RequestEdits, RequestView, edit_request, head_length};

const HEAD: &[u8] =
    b"GET /api/77/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
      X-Version: 3\r\nX-Request-Id: 0123456789abcdef\r\n\r\n";
/// Each route has so many.
const MATCHES: usize = 5;

fn main() {
    divan::main();
}

/// Each with matches of a path, of which those after the first ask for a field too.
fn table(count: usize) -> Table {
    let matches = |number: usize| {
        (0..MATCHES).map(move |place| Match {
            path: PathMatch::Prefix(format!("/api/{number}").into()),
            headers: (place > 0)
                .then(|| ("x-version".into(), TextMatch::Exact(place.to_string().into())))
                .into_iter()
                .collect(),
            ..Match::default()
        })
    };
    let route = |number: usize| Route {
        id: RouteId { kind: RouteKind::Http, name: format!("bench/{number}").into() },
        namespace: None,
        created: None,
        parents: Vec::new(),
        rules: vec![Rule { matches: matches(number).collect(), ..Rule::default() }],
        notes: Vec::new(),
        is_default: false,
    };
    Table::new(&(0..count).map(|number| Arc::new(route(number))).collect::<Vec<_>>())
}

#[divan::bench]
fn a_head_without_routes(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| head_length(black_box(HEAD)));
}

#[divan::bench]
fn a_head_as_routes_see_it(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| RequestView::of_head(black_box(HEAD)));
}

#[divan::bench(args = [1, 10, 100])]
fn its_rule_is_found(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    let view = RequestView::of_head(HEAD).expect("a head");
    assert_eq!(table.find(&view).is_some(), routes > 77);
    bencher.bench_local(|| table.find(black_box(&view)));
}

#[divan::bench(args = [1, 10, 100])]
fn its_head_is_read_and_its_rule_is_found(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    bencher.bench_local(|| {
        let view = RequestView::of_head(black_box(HEAD)).expect("a head");
        table.find(&view).map(|found| found.rule)
    });
}

#[divan::bench]
fn its_head_is_changed(bencher: Bencher<'_, '_>) {
    let edits = RequestEdits {
        fields: [
            FieldEdit::Set("x-version".into(), "4".into()),
            FieldEdit::Add("x-release".into(), "two".into()),
            FieldEdit::Remove("x-debug".into()),
        ]
        .into(),
        ..RequestEdits::default()
    };
    bencher.bench_local(|| edit_request(black_box(HEAD), &edits));
}

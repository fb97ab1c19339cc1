//! The behaviours of the Gateway API's conformance tests, and the index against a plain search.

use std::sync::Arc;

use proptest::prelude::*;
use weir_http::RequestView;

use super::{precedence::Rank, *};

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

fn path(text: &str) -> Match {
    match text.split_once(' ') {
        Some(("=", path)) => Match { path: PathMatch::Exact(path.into()), ..Match::default() },
        Some(("~", path)) => {
            Match { path: PathMatch::Pattern(Pattern::new(path).unwrap()), ..Match::default() }
        }
        _ => Match { path: PathMatch::Prefix(text.into()), ..Match::default() },
    }
}

fn with_header(mut it: Match, name: &str, value: &str) -> Match {
    it.headers.push((name.into(), exact(value)));
    it
}

fn with_query(mut it: Match, name: &str, value: &str) -> Match {
    it.query.push((name.into(), exact(value)));
    it
}

fn with_method(mut it: Match, method: &str) -> Match {
    it.method = Some(method.into());
    it
}

fn call(service: Option<&str>, method: Option<&str>) -> Match {
    let call = GrpcMatch { service: service.map(exact), method: method.map(exact) };
    Match { path: PathMatch::Grpc(call), ..Match::default() }
}

/// One rule for each list of matches.
fn route(kind: RouteKind, name: &str, created: Option<&str>, rules: Vec<Vec<Match>>) -> Arc<Route> {
    let rules = rules.into_iter().map(|matches| Rule { matches, ..Rule::default() }).collect();
    Arc::new(Route {
        id: RouteId { kind, name: name.into() },
        namespace: None,
        created: created.map(Into::into),
        parents: Vec::new(),
        rules,
        notes: Vec::new(),
        is_default: false,
    })
}

/// The route and the rule for `METHOD TARGET name: value …`.
fn find(table: &Table, request: &str) -> Option<(usize, usize)> {
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let fields: Vec<_> = words
        .collect::<Vec<_>>()
        .chunks(2)
        .map(|pair| (pair[0].trim_end_matches(':'), pair[1]))
        .collect();
    let view = RequestView::new(method, Some("shop"), target, &fields);
    table.find(&view).map(|found| (found.route, found.rule))
}

fn http(rules: Vec<Vec<Match>>) -> Table {
    Table::new(&[route(RouteKind::Http, "shop/a", None, rules)])
}

#[test]
fn paths_headers_and_their_combinations_are_matched_as_the_mesh_conformance_asks() {
    let table = http(vec![
        vec![path("/"), with_header(path("/"), "version", "one")],
        vec![path("/v2"), with_header(path("/"), "version", "two")],
        vec![path("= /exact"), path("= /exact/")],
        vec![path("~ /v[3-9]/.*")],
    ]);
    for (request, rule) in [
        ("GET /", 0),
        ("GET /example", 0),
        ("GET / version: one", 0),
        ("GET /v2", 1),
        ("GET /v2/", 1),
        ("GET /v2/example", 1),
        ("GET /v2?x=1", 1),
        ("GET / version: two", 1),
        ("GET /v2 VERSION: two", 1),
        // No path element of it is /v2.
        ("GET /v2example", 0),
        ("GET /foo/v2/example", 0),
        ("GET /V2", 0),
        // The longer path counts, whatever the header says.
        ("GET /v2 version: one", 1),
        ("GET /exact", 2),
        ("GET /exact/", 2),
        ("GET /exact/more", 0),
        ("GET /v3/x", 3),
        ("GET /v3", 0),
        ("GET /x/v3/x", 0),
    ] {
        assert_eq!(find(&table, request), Some((0, rule)), "{request}");
    }
}

#[test]
fn parameters_of_the_query_are_matched() {
    let table = http(vec![
        vec![with_query(path("/"), "animal", "whale")],
        vec![with_query(path("/"), "animal", "dolphin")],
        vec![with_query(with_query(path("/"), "animal", "dolphin"), "color", "blue")],
        vec![with_header(with_query(path("/"), "animal", "shark"), "version", "one")],
    ]);
    for (request, expected) in [
        ("GET /?animal=whale", Some(0)),
        ("GET /any?a=b&animal=whale", Some(0)),
        ("GET /?animal=dolphin", Some(1)),
        ("GET /?animal=dolphin&color=blue", Some(2)),
        ("GET /?animal=dolphin&color=yellow", Some(1)),
        ("GET /?animal=shark version: one", Some(3)),
        ("GET /?animal=shark", None),
        ("GET /?animal=hydra", None),
        ("GET /", None),
        // The first of several counts.
        ("GET /?animal=whale&animal=dolphin", Some(0)),
    ] {
        assert_eq!(find(&table, request).map(|it| it.1), expected, "{request}");
    }
}

#[test]
fn methods_are_matched_and_count_before_headers() {
    let table = http(vec![
        vec![with_header(with_header(path("/path5"), "a", "1"), "b", "2")],
        vec![with_method(path("/path5"), "PATCH")],
        vec![with_method(path("/"), "GET"), with_method(path("/"), "POST")],
    ]);
    for (request, expected) in [
        ("PATCH /path5 a: 1 b: 2", Some(1)),
        ("GET /path5 a: 1 b: 2", Some(0)),
        ("GET /path5", Some(2)),
        ("POST /", Some(2)),
        ("get /", None),
        ("PUT /", None),
    ] {
        assert_eq!(find(&table, request).map(|it| it.1), expected, "{request}");
    }
}

#[test]
fn of_paths_the_exact_and_then_the_longest_counts_whatever_the_order() {
    let table = http(vec![
        vec![path("= /match/exact")],
        vec![path("/match/prefix")],
        vec![path("/match")],
        vec![path("/match/prefix/one")],
        vec![path("/match/prefix/one/")],
        vec![path("= /match/prefix/one/any")],
        vec![path("/match/exact")],
    ]);
    for (request, rule) in [
        ("GET /match", 2),
        ("GET /match/exact", 0),
        ("GET /match/exact/one", 6),
        ("GET /match/prefix", 1),
        ("GET /match/prefix/two", 1),
        ("GET /match/prefix/one", 4),
        ("GET /match/prefix/one/any", 5),
    ] {
        assert_eq!(find(&table, request), Some((0, rule)), "{request}");
    }
}

#[test]
fn of_equal_matches_the_older_route_counts_and_then_its_name_and_its_place() {
    let rules = || vec![vec![path("/a")], vec![path("/a")]];
    let of = |name, created| route(RouteKind::Http, name, created, rules());
    let young = || of("shop/a", Some("2024-02-01T00:00:00Z"));
    let old = || of("shop/b", Some("2024-01-01T00:00:00Z"));
    for (routes, expected) in [
        (vec![young(), old()], (1, 0)),
        (vec![old(), young()], (0, 0)),
        (vec![of("shop/b", None), of("shop/a", None)], (1, 0)),
        (vec![of("shop/a", None), old()], (1, 0)),
        (vec![of("a/z", None), of("b/a", None)], (0, 0)),
    ] {
        assert_eq!(find(&Table::new(&routes), "GET /a"), Some(expected));
    }
    // A more specific one counts across routes.
    let longer = route(RouteKind::Http, "shop/z", None, vec![vec![path("/a/b")]]);
    assert_eq!(find(&Table::new(&[old(), longer]), "GET /a/b/c"), Some((1, 0)));
}

#[test]
fn calls_are_matched_by_service_and_method() {
    let grpc = "content-type: application/grpc";
    let rules = vec![
        vec![call(Some("shop.Cart"), Some("Add"))],
        vec![call(Some("shop.Cart"), None)],
        vec![call(None, Some("Add"))],
        vec![with_header(call(None, None), "version", "two")],
        vec![call(Some("shop.Cart2"), Some("Add"))],
    ];
    let table = Table::new(&[route(RouteKind::Grpc, "shop/a", None, rules)]);
    for (request, expected) in [
        (format!("POST /shop.Cart/Add {grpc}"), Some(0)),
        (format!("POST /shop.Cart/Remove {grpc}"), Some(1)),
        (format!("POST /shop.Bill/Add {grpc}"), Some(2)),
        (format!("POST /shop.Bill/Send {grpc}"), None),
        (format!("POST /shop.Bill/Send {grpc} version: two"), Some(3)),
        (format!("POST /shop.Cart2/Add {grpc}+proto"), Some(4)),
        ("POST /shop.Cart/Add content-type: text/plain".to_owned(), None),
    ] {
        assert_eq!(find(&table, &request).map(|it| it.1), expected, "{request}");
    }
    assert!(!table.concerns(&RequestView::new("GET", None, "/", &[])));
}

#[test]
fn an_expression_that_is_wrong_is_refused_with_the_reason() {
    for wrong in ["(", "a)(b", "[z-a]"] {
        let error = Pattern::new(wrong).unwrap_err();
        assert!(error.contains("is no regular expression: "), "{error}");
    }
}

fn redirect(change: impl FnOnce(&mut Redirect)) -> Redirect {
    let (scheme, hostname, port, path) = (None, None, None, None);
    let mut redirect = Redirect { scheme, hostname, port, path, status: 302 };
    change(&mut redirect);
    redirect
}

#[test]
fn redirects_lead_where_the_conformance_expects() {
    let by = path("/original-prefix");
    let request = RequestView::new("GET", Some("shop:8080"), "/original-prefix/lemon?a=b", &[]);
    let to = |change: &dyn Fn(&mut Redirect), port| {
        redirect(change).location(&request, &by, port).unwrap()
    };
    let path = "/original-prefix/lemon?a=b";
    assert_eq!(
        to(&|it| it.hostname = Some("example.org".into()), 80),
        format!("http://example.org{path}")
    );
    assert_eq!(to(&|_| {}, 8080), format!("http://shop:8080{path}"));
    assert_eq!(to(&|it| it.port = Some(8083), 80), format!("http://shop:8083{path}"));
    assert_eq!(to(&|it| it.port = Some(80), 8080), format!("http://shop{path}"));
    assert_eq!(to(&|it| it.scheme = Some("https".into()), 8080), format!("https://shop{path}"));
    let with = |it: &mut Redirect| {
        (it.scheme, it.port) = (Some("https".into()), Some(8443));
    };
    assert_eq!(to(&with, 80), format!("https://shop:8443{path}"));
    let replaced = |path| move |it: &mut Redirect| it.path = Some(path);
    assert_eq!(
        redirect(replaced(PathChange::Prefix("/new".into()))).location(&request, &by, 80).unwrap(),
        "http://shop/new/lemon?a=b"
    );
    assert_eq!(
        redirect(replaced(PathChange::Full("/full".into()))).location(&request, &by, 80).unwrap(),
        "http://shop/full?a=b"
    );
    let ipv6 = RequestView::new("GET", Some("[::1]:81"), "/", &[]);
    assert_eq!(redirect(|_| {}).location(&ipv6, &by, 81).unwrap(), "http://[::1]:81/");
    let nowhere = RequestView::new("GET", None, "/", &[]);
    assert_eq!(redirect(|_| {}).location(&nowhere, &by, 81), None);
}

#[test]
fn a_prefix_is_replaced_by_whole_elements() {
    for (prefix, new, target, expected) in [
        ("/prefix/one", "/one", "/prefix/one/two", "/one/two"),
        ("/strip", "/", "/strip/three", "/three"),
        ("/strip", "/", "/strip", "/"),
        ("/strip/", "/", "/strip/three?q", "/three?q"),
        ("/", "/new", "/a", "/new/a"),
        ("/", "/new/", "/", "/new/"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "", "/foo/bar", "/bar"),
    ] {
        let request = RequestView::new("GET", None, target, &[]);
        let changed = PathChange::Prefix(new.into()).apply(&request, &path(prefix));
        assert_eq!(str::from_utf8(&changed).unwrap(), expected, "{prefix} {new} {target}");
    }
}

#[test]
fn shares_are_those_of_the_weights() {
    for weights in [vec![70, 30], vec![1, 0, 99], vec![1_000_000, 1], vec![5]] {
        let all = Weights::new(weights.iter().copied());
        let mut counts = vec![0_u32; weights.len()];
        (0..500).for_each(|_| counts[all.choose().unwrap()] += 1);
        for (count, share) in counts.iter().zip(all.shares()) {
            assert!((f64::from(*count) / 500.0 - share).abs() < 0.01, "{weights:?}: {counts:?}");
        }
    }
    assert_eq!(Weights::new([0, 0]).choose(), None);
    assert_eq!(Weights::new([]).choose(), None);
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    let rule = |change: &dyn Fn(&mut Rule)| {
        let mut rule = Rule { matches: vec![path("/a")], ..Rule::default() };
        change(&mut rule);
        rule.check().map_err(|error| error.chars().take(24).collect::<String>())
    };
    assert_eq!(rule(&|_| {}), Ok(()));
    let backend =
        |weight| Backend { service: "s".into(), port: None, weight, filters: Filters::default() };
    let set = |name: &str| weir_http::FieldEdit::Set(name.into(), "v".into());
    let errors = [
        rule(&|it| it.matches.push(path("a"))),
        rule(&|it| it.matches.push(path("= /a b"))),
        rule(&|it| it.backends.push(backend(1_000_001))),
        rule(&|it| {
            it.backends.push(backend(1));
            it.filters.redirect = Some(redirect(|_| {}));
        }),
        rule(&|it| it.filters.redirect = Some(redirect(|it| it.status = 300))),
        rule(&|it| {
            it.matches.push(path("= /b"));
            let path = Some(PathChange::Prefix("/c".into()));
            it.filters.rewrite = Some(Rewrite { hostname: None, path });
        }),
        rule(&|it| it.filters.request.push(set("Content-Length"))),
        rule(&|it| it.filters.response.push(set("Host"))),
        rule(&|it| it.filters.response.push(set("a b"))),
    ];
    for error in &errors {
        assert!(error.is_err(), "{errors:?}");
    }
}

fn any_match() -> impl Strategy<Value = Match> {
    let text =
        prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "= /a", "= /a/b", "~ /a.*", "~ .*b"]);
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    let headers = prop::collection::vec(prop::sample::select(vec!["x", "y"]), 0..3);
    let grpc =
        prop::option::weighted(0.2, (prop::option::of(Just("a")), prop::option::of(Just("b"))));
    (text, method, headers, any::<bool>(), grpc).prop_map(|(text, method, headers, query, grpc)| {
        let mut it = match grpc {
            Some((service, method)) => call(service, method),
            None => path(text),
        };
        it.method = method.map(Into::into);
        for name in headers {
            it = with_header(it, name, "1");
        }
        if query { with_query(it, "q", "1") } else { it }
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_a_search_of_all_matches_finds(
        routes in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any_match(), 0..3), 1..4),
            1..5,
        ),
        request in (
            prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b"]),
            prop::sample::select(vec!["GET", "POST"]),
            any::<[bool; 4]>(),
        ),
    ) {
        let routes: Vec<_> = routes
            .into_iter()
            .enumerate()
            .map(|(at, rules)| route(RouteKind::Http, &format!("n/{}", 9 - at), None, rules))
            .collect();
        let (target, method, [x, y, grpc, query]) = request;
        let target = if query { format!("{target}?q=1") } else { target.to_owned() };
        let mut fields = Vec::new();
        fields.extend(x.then_some(("x", "1")));
        fields.extend(y.then_some(("Y", "1")));
        fields.extend(grpc.then_some(("content-type", "application/grpc")));
        let view = RequestView::new(method, None, &target, &fields);
        let mut all = Vec::new();
        let default = [Match::default()];
        for (at, route) in routes.iter().enumerate() {
            for (place, rule) in route.rules.iter().enumerate() {
                let matches = if rule.matches.is_empty() { &default[..] } else { &rule.matches };
                for (nth, it) in matches.iter().enumerate() {
                    if it.path.is_met(view.path()) && it.is_met(&view) {
                        all.push((Rank::new(route, it, (place, nth)), (at, place)));
                    }
                }
            }
        }
        all.sort();
        let found = Table::new(&routes).find(&view).map(|it| (it.route, it.rule));
        prop_assert_eq!(found, all.first().map(|it| it.1));
    }
}

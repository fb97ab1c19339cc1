//! The model: what is looked up, what is refused, and what a change leaves alone.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_http::{Came, Endpoints as _, RequestView, RetryOn, RetryPolicy, Routed, Verdict};

use super::{connections::Current, requests::ToEndpoint, *};
use crate::{
    balance::{Moment, Standing},
    route::{Backend, Filters, Match, Parent, PathMatch, Route, RouteId, RouteKind, Rule},
};

const NO_ORIGIN_PROBLEM: &str = "nothing is refused";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

pub(super) fn service(service: &str, frontends: &[&str]) -> Delta {
    let ports = vec![PortSpec {
        name: "".into(),
        frontends: frontends.iter().map(|it| addr(it)).collect(),
        app_protocol: None,
    }];
    Delta::Service(name(service), ServiceSpec { ports, ..ServiceSpec::default() })
}

pub(super) fn slice(slice: &str, service: &str, port: u16, ips: &[&str]) -> Delta {
    Delta::Slice(SliceSpec {
        name: name(slice),
        service: name(service),
        ports: vec![SlicePort { name: "".into(), port }],
        addresses: ips.iter().map(|ip| Address::new(ip.parse().unwrap())).collect(),
    })
}

fn used(services: &Services, frontend: &str) -> Vec<String> {
    let target = services.find(addr(frontend)).expect("it is a service");
    let endpoints = services.endpoints(&target);
    let used = endpoints.all().iter().filter(|it| it.used.is_used());
    used.map(|it| it.address.to_string()).collect()
}

#[test]
fn a_destination_is_looked_up_in_either_form_of_its_address() {
    let services = Services::default();
    assert!(services.find(addr("10.96.0.1:80")).is_none());
    let deltas =
        [service("shop", &["10.96.0.1:80"]), slice("a", "shop", 8080, &["10.1.0.1", "10.1.0.2"])];
    services.apply(Origin::Config, deltas).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(used(&services, "[::ffff:10.96.0.1]:80").len(), 2);
    for other in ["10.96.0.1:81", "10.96.0.2:80", "10.1.0.1:8080"] {
        assert!(services.find(addr(other)).is_none(), "{other} is no service");
    }
}

#[test]
fn endpoints_may_come_before_their_service_and_go_after_it() {
    let services = Services::default();
    let apply = |delta| services.apply(Origin::Cluster, [delta]).expect(NO_ORIGIN_PROBLEM);
    apply(slice("a", "shop", 8080, &["10.1.0.1"]));
    apply(service("shop", &["10.96.0.1:80"]));
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080"]);
    apply(slice("b", "shop", 9090, &["10.1.0.2"]));
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080", "10.1.0.2:9090"]);
    apply(Delta::NoService(name("shop")));
    assert!(services.find(addr("10.96.0.1:80")).is_none());
    apply(Delta::NoSlice(name("b")));
    apply(service("shop", &["10.96.0.1:80"]));
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080"]);
}

#[test]
fn what_is_known_of_an_endpoint_outlives_changes_around_it() {
    let services = Services::default();
    let apply = |delta| services.apply(Origin::Cluster, [delta]).expect(NO_ORIGIN_PROBLEM);
    apply(service("shop", &["10.96.0.1:80"]));
    apply(slice("a", "shop", 80, &["10.1.0.1", "10.1.0.2"]));
    let target = services.find(addr("10.96.0.1:80")).unwrap();
    let _open = services.endpoints(&target).all()[1].stats.begin();
    apply(slice("a", "shop", 80, &["10.1.0.2", "10.1.0.3"]));
    apply(service("shop", &["10.96.0.1:80", "10.96.0.2:80"]));
    let target = services.find(addr("10.96.0.2:80")).unwrap();
    let endpoints = services.endpoints(&target);
    let in_flight: Vec<_> = endpoints.all().iter().map(|it| it.stats.in_flight()).collect();
    assert_eq!(in_flight, [1, 0]);
}

#[test]
fn only_an_endpoint_that_comes_to_others_is_new() {
    let services = Services::default();
    let apply = |delta| services.apply(Origin::Cluster, [delta]).expect(NO_ORIGIN_PROBLEM);
    let ages = || -> Vec<bool> {
        let target = services.find(addr("10.96.0.1:80")).unwrap();
        let endpoints = services.endpoints(&target);
        endpoints.all().iter().map(|it| it.stats.age(Moment::now()).is_some()).collect()
    };
    apply(service("shop", &["10.96.0.1:80"]));
    apply(slice("a", "shop", 80, &["10.1.0.1"]));
    assert_eq!(ages(), [false]);
    let mut more = slice("a", "shop", 80, &["10.1.0.1", "10.1.0.2"]);
    let set_ready = |delta: &mut Delta, ready| {
        let Delta::Slice(spec) = delta else { unreachable!("it is a slice") };
        spec.addresses[1].conditions.ready = ready;
    };
    set_ready(&mut more, false);
    apply(more.clone());
    assert_eq!(ages(), [false, false], "it is not used yet");
    set_ready(&mut more, true);
    apply(more);
    assert_eq!(ages(), [false, true]);
}

#[test]
fn an_address_that_another_service_has_is_refused_as_a_whole_until_it_is_free() {
    let services = Services::default();
    let apply = |delta| services.apply(Origin::Config, [delta]);
    apply(service("first", &["10.96.0.1:80"])).expect(NO_ORIGIN_PROBLEM);
    let second = || service("second", &["10.96.0.9:80", "10.96.0.1:80"]);
    let problems = apply(second()).unwrap_err();
    let text = "service second: 10.96.0.1:80 belongs to service first already; give each service \
                addresses of its own";
    assert_eq!(problems[0].to_string(), text);
    assert!(services.find(addr("10.96.0.9:80")).is_none(), "nothing of it is applied");
    assert_eq!(services.problems(Origin::Config), problems);
    assert!(services.problems(Origin::Directory).is_empty(), "another origin's");
    apply(Delta::NoService(name("first"))).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(&**services.find(addr("10.96.0.1:80")).unwrap().service(), "second");
    assert!(services.find(addr("10.96.0.9:80")).is_some());
    assert!(services.problems(Origin::Config).is_empty());
    let twice = apply(service("third", &["10.96.0.3:80", "10.96.0.3:80"])).unwrap_err();
    assert!(twice[0].to_string().contains("10.96.0.3:80 belongs to service third already"));
}

#[test]
fn a_wrong_definition_leaves_the_previous_one_in_effect() {
    let services = Services::default();
    let apply = |delta| services.apply(Origin::Config, [delta]);
    apply(service("first", &["10.96.0.1:80"])).expect(NO_ORIGIN_PROBLEM);
    apply(service("second", &["10.96.0.2:80"])).expect(NO_ORIGIN_PROBLEM);
    apply(service("second", &["10.96.0.3:80", "10.96.0.1:80"])).unwrap_err();
    assert_eq!(&**services.find(addr("10.96.0.2:80")).unwrap().service(), "second");
    assert!(services.find(addr("10.96.0.3:80")).is_none());
}

#[test]
fn a_complete_list_forgets_what_it_does_not_have_of_its_origin_only() {
    let services = Services::default();
    let one = vec![service("one", &["10.96.0.1:80"]), slice("a", "one", 80, &["10.1.0.1"])];
    let two = vec![service("two", &["10.96.0.1:80"]), slice("b", "two", 80, &["10.1.0.2"])];
    services.replace(Origin::Directory, one.clone()).expect(NO_ORIGIN_PROBLEM);
    services.replace(Origin::Directory, two).expect("the address is free");
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.2:80"]);
    services.replace(Origin::Config, Vec::new()).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.2:80"]);
    services.retain(Origin::Directory, Kind::Slices, &HashSet::new());
    assert!(used(&services, "10.96.0.1:80").is_empty());
    services.retain(Origin::Directory, Kind::Services, &HashSet::from([name("one")]));
    assert!(services.find(addr("10.96.0.1:80")).is_none());
}

#[test]
fn a_group_of_endpoints_can_change_its_service() {
    let services = Services::default();
    let deltas = [
        service("one", &["10.96.0.1:80"]),
        service("two", &["10.96.0.2:80"]),
        slice("a", "one", 80, &["10.1.0.1"]),
    ];
    services.apply(Origin::Directory, deltas).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(used(&services, "10.96.0.1:80").len(), 1);
    let moved = slice("a", "two", 80, &["10.1.0.1"]);
    services.apply(Origin::Directory, [moved]).expect(NO_ORIGIN_PROBLEM);
    assert!(used(&services, "10.96.0.1:80").is_empty());
    assert_eq!(used(&services, "10.96.0.2:80").len(), 1);
}

#[test]
fn addresses_that_no_cluster_routes_are_told() {
    let services = Services::default();
    let unrouted = services.unrouted();
    services.apply(Origin::Cluster, [service("a", &["10.96.0.1:80"])]).expect(NO_ORIGIN_PROBLEM);
    assert!(unrouted.borrow().is_empty());
    services.apply(Origin::Config, [service("b", &["10.96.0.2:80"])]).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(**unrouted.borrow(), HashSet::from(["10.96.0.2".parse().unwrap()]));
}

#[test]
fn choices_and_their_reasons_are_counted() {
    let services = Services::default();
    let deltas = [service("s", &["10.96.0.1:80"]), slice("a", "s", 80, &["10.1.0.1", "10.1.0.2"])];
    services.apply(Origin::Config, deltas).expect(NO_ORIGIN_PROBLEM);
    let target = services.find(addr("10.96.0.1:80")).unwrap();
    let endpoints = services.endpoints(&target);
    let first = target.choose(&endpoints, &[]).unwrap();
    let second = target.choose(&endpoints, &[first.member]).unwrap();
    let last = target.last().unwrap();
    assert_eq!(last.endpoint, endpoints.all()[second.member].address);
    assert_eq!((last.why, last.tried), (second.why, 1));
    let counted: Vec<_> = target.choices().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted, [(first.why, 1), (second.why, 1)]);
    let stats = &endpoints.all()[0].stats;
    assert_eq!(stats.standing(crate::balance::Moment::now()), Standing::In);
}

#[test]
fn requests_to_a_service_share_a_budget_of_retries_that_outlives_changes() {
    let policy = RetryPolicy { on: RetryOn::Http(vec![]), attempts: 1, backoff: Duration::ZERO };
    let rule = |path: &str, backend: &str| Rule {
        matches: vec![Match { path: PathMatch::Prefix(path.into()), ..Match::default() }],
        backends: vec![Backend {
            service: name(backend),
            port: None,
            weight: 1,
            filters: Filters::default(),
        }],
        retry: Some(Arc::new(policy.clone())),
        ..Rule::default()
    };
    let route = Route {
        id: RouteId { kind: RouteKind::Http, name: name("r") },
        namespace: None,
        created: None,
        parents: vec![Parent { service: name("s"), port: None, section: None }],
        rules: vec![rule("/", "one"), rule("/again", "one"), rule("/two", "two")],
        notes: Vec::new(),
        is_default: false,
    };
    let services = Arc::new(Services::default());
    let deltas = [
        service("s", &["10.96.0.1:80"]),
        service("one", &["10.96.0.2:80"]),
        service("two", &["10.96.0.3:80"]),
        slice("a", "one", 80, &["10.1.0.1"]),
        slice("b", "two", 80, &["10.1.0.2"]),
        Delta::Route(route),
    ];
    services.apply(Origin::Config, deltas).expect(NO_ORIGIN_PROBLEM);
    let of = ToEndpoints::new(Arc::clone(&services), Arc::new(WorkloadMode::new(None)), None);
    let to = ToEndpoint::new(of, addr("10.96.0.1:80"), Current::default());
    let now = Instant::now();
    // Of a hundred requests that fail.
    let sent_again = |path: &str| {
        let fails = |_: &u32| {
            let routed = to.route(&RequestView::new("GET", None, path, &[]));
            let Some(Routed::To(mut to)) = routed else { panic!("{routed:?}") };
            let plan = to.plan.as_mut().expect("it has retries");
            plan.begin(now, 0);
            matches!(plan.decide(Came::Lost, now, (Duration::ZERO, true)), Verdict::After(_))
        };
        (0..100).filter(fails).count()
    };
    assert_eq!(sent_again("/"), 30);
    assert_eq!(sent_again("/again"), 20);
    let more = slice("c", "one", 80, &["10.1.0.3"]);
    services.apply(Origin::Config, [more]).expect(NO_ORIGIN_PROBLEM);
    assert_eq!(sent_again("/"), 20);
    assert_eq!(sent_again("/two"), 30);
}

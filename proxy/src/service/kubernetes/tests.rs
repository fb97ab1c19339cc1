//! What Kubernetes' fields mean, each in a test: objects in, endpoints in use out.

mod directory;

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    balance::Mode,
    service::{Endpoints, Origin, Place, Services, Target},
};

fn services_at(node: &str, objects: &str) -> Services {
    let place = Place { node: Some(node.into()), zone: None };
    let services = Services::new(Mode::default(), place);
    services.apply(Origin::Cluster, parse(objects).unwrap()).unwrap();
    services
}

fn find(services: &Services, frontend: &str) -> Option<std::sync::Arc<Target>> {
    services.find(frontend.parse::<SocketAddr>().unwrap())
}

fn endpoints(services: &Services, frontend: &str) -> std::sync::Arc<Endpoints> {
    services.endpoints(&find(services, frontend).expect("it is a service"))
}

/// The endpoints in use for a destination, preferred ones marked.
fn used(services: &Services, frontend: &str) -> Vec<String> {
    let endpoints = endpoints(services, frontend);
    let used = endpoints.all().iter().filter(|it| it.used.is_used());
    let mark = |it: &crate::service::Endpoint| {
        let mark = if it.used == crate::service::Use::Preferred { "+" } else { "" };
        format!("{}{mark}", it.address)
    };
    used.map(mark).collect()
}

fn service(more: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: shop}}\nspec:\n  clusterIP: 10.96.0.1\n  ports: [{{port: 80}}]\n  {more}\n---\n"
    )
}

/// A group of port 8080; each endpoint is an address and further fields.
fn slice(name: &str, endpoints: &[(&str, &str)]) -> String {
    slice_of(name, "IPv4", "{port: 8080}", endpoints)
}

fn slice_of(name: &str, family: &str, ports: &str, endpoints: &[(&str, &str)]) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|(ip, more)| format!("{{addresses: ['{ip}'], {more}}}")).collect();
    format!(
        "kind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: {{kubernetes.io/service-name: shop}}\naddressType: {family}\nports: [{ports}]\nendpoints: [{}]\n---\n",
        endpoints.join(", ")
    )
}

#[test]
fn internal_traffic_policy_local_uses_this_nodes_endpoints_only() {
    let group = slice("a", &[("10.1.0.1", "nodeName: here"), ("10.1.0.2", "nodeName: there")]);
    let objects = service("internalTrafficPolicy: Local") + &group;
    assert_eq!(used(&services_at("here", &objects), "10.96.0.1:80"), ["10.1.0.1:8080"]);
    assert!(used(&services_at("elsewhere", &objects), "10.96.0.1:80").is_empty());
    let objects = service("internalTrafficPolicy: Cluster") + &group;
    assert_eq!(used(&services_at("here", &objects), "10.96.0.1:80").len(), 2);
}

#[test]
fn session_affinity_switches_balancing_off() {
    for (affinity, expected) in [("ClientIP", Mode::Off), ("None", Mode::Connections)] {
        let objects = service(&format!("sessionAffinity: {affinity}"));
        let target = find(&services_at("n", &objects), "10.96.0.1:80").unwrap();
        assert_eq!(target.policy().mode(None, Mode::Connections), expected);
    }
}

#[test]
fn hints_for_zones_are_preferred_where_all_endpoints_have_one() {
    let zone = |zone: &str| format!("zone: {zone}, hints: {{forZones: [{{name: {zone}}}]}}");
    let (a, b) = (zone("a"), zone("b"));
    let here = format!("nodeName: here, {a}");
    let group = slice("s", &[("10.1.0.1", &here), ("10.1.0.2", &a), ("10.1.0.3", &b)]);
    let objects = service("trafficDistribution: PreferSameZone") + &group;
    let all = ["10.1.0.1:8080+", "10.1.0.2:8080+", "10.1.0.3:8080"];
    assert_eq!(used(&services_at("here", &objects), "10.96.0.1:80"), all);
    // The zone of this node is not known.
    assert_eq!(used(&services_at("other", &objects), "10.96.0.1:80").len(), 3);
    let partly = service("") + &slice("s", &[("10.1.0.1", &here), ("10.1.0.3", "zone: b")]);
    let used = used(&services_at("here", &partly), "10.96.0.1:80");
    assert_eq!(used, ["10.1.0.1:8080", "10.1.0.3:8080"], "hints that are being written");
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let hints = |node: &str| {
        format!(
            "nodeName: {node}, zone: a, hints: {{forZones: [{{name: a}}], forNodes: [{{name: {node}}}]}}"
        )
    };
    let (one, two) = (hints("one"), hints("two"));
    let group = slice("s", &[("10.1.0.1", &one), ("10.1.0.2", &two)]);
    let objects = service("trafficDistribution: PreferSameNode") + &group;
    let at = |node| used(&services_at(node, &objects), "10.96.0.1:80");
    assert_eq!(at("two"), ["10.1.0.2:8080+", "10.1.0.1:8080"]);
}

#[test]
fn each_group_says_which_number_a_named_port_has() {
    let ports = "ports: [{name: web, port: 80}, {name: admin, port: 81}]";
    let objects = service("").replace("ports: [{port: 80}]", ports)
        + &slice_of(
            "a",
            "IPv4",
            "{name: web, port: 8080}, {name: admin, port: 9090}",
            &[("10.1.0.1", "")],
        )
        + &slice_of("b", "IPv4", "{name: web, port: 8081}", &[("10.1.0.2", "")]);
    let services = services_at("n", &objects);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080", "10.1.0.2:8081"]);
    assert_eq!(used(&services, "10.96.0.1:81"), ["10.1.0.1:9090"]);
}

#[test]
fn an_endpoint_in_several_groups_is_one_in_its_best_state() {
    let objects = service("")
        + &slice("a", &[("10.1.0.1", "conditions: {ready: false}"), ("10.1.0.2", "")])
        + &slice("b", &[("10.1.0.1", ""), ("10.1.0.2", "conditions: {ready: false}")]);
    let services = services_at("n", &objects);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(endpoints(&services, "10.96.0.1:80").all().len(), 2);
}

#[test]
fn a_service_without_selector_has_the_endpoints_that_somebody_writes() {
    let objects = service("").replace("kind: Service", "kind: Service\nspecialised: {}")
        + &slice("by-hand", &[("192.0.2.1", "")]);
    assert_eq!(used(&services_at("n", &objects), "10.96.0.1:80"), ["192.0.2.1:8080"]);
}

#[test]
fn the_family_of_the_clusters_address_picks_the_groups() {
    let objects = service("clusterIPs: ['10.96.0.1', 'fd00::1']")
        + &slice("four", &[("10.1.0.1", "")])
        + &slice_of("six", "IPv6", "{port: 8086}", &[("fd01::1", "")]);
    let services = services_at("n", &objects);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080"]);
    assert_eq!(used(&services, "[fd00::1]:80"), ["[fd01::1]:8086"]);
}

#[test]
fn addresses_that_are_not_ready_are_used_where_the_service_publishes_them() {
    let group = slice("a", &[("10.1.0.1", "conditions: {ready: false}")]);
    let at = |more| used(&services_at("n", &(service(more) + &group)), "10.96.0.1:80");
    assert!(at("").is_empty());
    assert_eq!(at("publishNotReadyAddresses: true"), ["10.1.0.1:8080"]);
}

#[test]
fn endpoints_that_end_are_used_only_while_none_is_ready() {
    let ending = "conditions: {ready: false, serving: true, terminating: true}";
    let ended = "conditions: {ready: false, serving: false, terminating: true}";
    let unready = "conditions: {ready: false, serving: false, terminating: false}";
    let unknown = "conditions: {}";
    let rest = [("10.1.0.1", ending), ("10.1.0.2", ended), ("10.1.0.3", unready)];
    let none_ready = service("") + &slice("a", &rest);
    assert_eq!(used(&services_at("n", &none_ready), "10.96.0.1:80"), ["10.1.0.1:8080"]);
    let one_ready = none_ready + &slice("b", &[("10.1.0.4", unknown)]);
    let services = services_at("n", &one_ready);
    assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.4:8080"]);
    let endpoints = endpoints(&services, "10.96.0.1:80");
    let states: Vec<_> = endpoints.all().iter().map(|it| it.used.name()).collect();
    assert_eq!(states, ["used", "terminating", "terminating", "not_ready"]);
}

#[test]
fn the_application_protocol_is_known() {
    let ports = "ports: [{port: 80, appProtocol: kubernetes.io/h2c}]";
    let objects = service("").replace("ports: [{port: 80}]", ports);
    let target = find(&services_at("n", &objects), "10.96.0.1:80").unwrap();
    assert_eq!(target.app_protocol(), Some("kubernetes.io/h2c"));
    assert_eq!(target.policy().mode(None, Mode::Connections), Mode::Connections);
}

#[test]
fn headless_services_and_addresses_of_pods_are_no_destinations_of_services() {
    let headless = service("").replace("10.96.0.1", "None") + &slice("a", &[("10.1.0.1", "")]);
    let services = services_at("n", &headless);
    assert!(find(&services, "10.1.0.1:8080").is_none() && services.targets().is_empty());
    let usual = service("") + &slice("a", &[("10.1.0.1", "")]);
    assert!(find(&services_at("n", &usual), "10.1.0.1:8080").is_none());
}

#[test]
fn services_of_another_proxy_and_names_elsewhere_are_left_alone() {
    let label = "metadata: {name: shop, labels: {service.kubernetes.io/service-proxy-name: other}}";
    let other = service("").replace("metadata: {name: shop}", label);
    assert!(services_at("n", &other).targets().is_empty());
    assert!(services_at("n", &service("type: ExternalName")).targets().is_empty());
    let udp = service("").replace("port: 80", "port: 80, protocol: UDP");
    assert!(services_at("n", &udp).targets().is_empty());
}

#[test]
fn the_annotation_says_the_mode() {
    let annotated = |mode: &str| {
        let metadata =
            format!("{{name: shop, annotations: {{config.weir.dev/balance: '{mode}'}}}}");
        service("").replace("{name: shop}", &metadata)
    };
    let target = find(&services_at("n", &annotated("off")), "10.96.0.1:80").unwrap();
    assert_eq!(target.policy().mode, Some(Mode::Off));
    let error = parse(&annotated("of")).unwrap_err();
    let expected = "Service default/shop: annotation config.weir.dev/balance: \"of\" is no balance; \
                    write off, connections, requests or auto";
    assert_eq!(error, expected);
}

#[test]
fn the_annotation_says_how_long_a_new_endpoint_takes() {
    let annotated = |window: &str| {
        let metadata =
            format!("{{name: shop, annotations: {{config.weir.dev/slow-start: '{window}'}}}}");
        service("").replace("{name: shop}", &metadata)
    };
    let target = find(&services_at("n", &annotated("30s")), "10.96.0.1:80").unwrap();
    assert_eq!(target.policy().slow_start, Duration::from_secs(30));
    for (wrong, says) in [("30", "is not a duration"), ("2h", "2h is more than an hour")] {
        let error = parse(&annotated(wrong)).unwrap_err();
        let place = "Service default/shop: annotation config.weir.dev/slow-start: ";
        assert!(error.starts_with(place) && error.contains(says), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_object() {
    let error = |objects: &str| parse(objects).unwrap_err();
    for (objects, expected) in [
        (
            service("").replace("[{port: 80}]", "[]"),
            "Service default/shop: spec.ports is empty; give it a port",
        ),
        (
            service("").replace("port: 80", "port: 80000"),
            "Service default/shop: spec.ports[0].port 80000 is no port; write 1 to 65535",
        ),
        (
            service("").replace("10.96.0.1", "10.96.0.300"),
            "Service default/shop: spec.clusterIP \"10.96.0.300\" is no IP address",
        ),
        (
            slice("a", &[("10.1.0.1", ""), ("10.1.0", "")]),
            "EndpointSlice default/a: endpoints[1]: \"10.1.0\" is no IP address",
        ),
        (
            slice("a", &[("fd00::1", "")]),
            "EndpointSlice default/a: endpoints[0]: fd00::1 is not of the slice's addressType",
        ),
        (
            "kind: Pod\nmetadata: {name: web}".to_owned(),
            "Pod default/web: is no Service, EndpointSlice, HTTPRoute or GRPCRoute; remove it",
        ),
        ("kind: Service\nspec: {}".to_owned(), "Service without a name: metadata.name is missing"),
    ] {
        assert_eq!(error(&objects), expected);
    }
    assert!(error("kind: Service\nmetadata: [").contains("line"));
}

#[test]
fn time_limits_of_routes_are_read_and_zero_is_none() {
    let limits = |timeouts: &str| {
        let route = format!(
            "kind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n  parentRefs: [{{group: '', kind: \
             Service, name: a}}]\n  rules:\n  - timeouts: {timeouts}\n    backendRefs: [{{name: b, port: 80}}]\n"
        );
        let deltas = parse(&route)?;
        let [crate::service::Delta::Route(route)] = &deltas[..] else { panic!("{deltas:?}") };
        Ok::<_, String>(route.rules[0].limits)
    };
    let of = |request: u64, backend: u64| weir_http::TimeLimits {
        request: (request > 0).then(|| Duration::from_millis(request)),
        backend: (backend > 0).then(|| Duration::from_millis(backend)),
        idle: None,
    };
    assert_eq!(limits("{request: 1m30s, backendRequest: 500ms}"), Ok(of(90_000, 500)));
    assert_eq!(limits("{request: 1s, backendRequest: 1s}"), Ok(of(1000, 1000)));
    assert_eq!(limits("{request: 0s, backendRequest: 2s}"), Ok(of(0, 2000)));
    assert_eq!(limits("{}"), Ok(of(0, 0)));
    let call = "kind: GRPCRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: a}]\n  \
                rules:\n  - timeouts: {request: 1s}\n";
    let error = parse(call).unwrap_err();
    assert!(
        error.contains("GRPCRoute default/r: rules[0]: a GRPCRoute has no timeouts"),
        "{error}"
    );
    let error = parse(&call.replace("timeouts: {request: 1s}", "retry: {}")).unwrap_err();
    assert!(error.contains("rules[0]: a GRPCRoute has no retry"), "{error}");
}

#[test]
fn retries_of_routes_are_read() {
    let retry = |text: &str| {
        let route = format!(
            "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: a}}]\n  \
             rules:\n  - retry: {text}\n    backendRefs: [{{name: b, port: 80}}]\n"
        );
        let deltas = parse(&route).unwrap();
        let [crate::service::Delta::Route(route)] = &deltas[..] else { panic!("{deltas:?}") };
        let policy = route.rules[0].retry.as_deref().unwrap().clone();
        (policy.on, policy.attempts, policy.backoff.as_millis())
    };
    let codes = weir_http::RetryOn::Http;
    let expected = (codes(vec![(500, 500), (503, 503)]), 3, 200);
    assert_eq!(retry("{codes: [500, 503], attempts: 3, backoff: 200ms}"), expected);
    assert_eq!(retry("{}"), (codes(vec![]), 1, 25));
}

#[test]
fn routes_are_read_strictly() {
    const ROUTE: &str = "kind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec:\n  parentRefs: \
        [{group: '', kind: Service, name: a, port: 80}]\n  rules:\n  - matches: [{path: {value: /v2}}]\n    \
        filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n    \
        backendRefs: [{name: b, port: 80, weight: 3}, {name: c, namespace: other, port: 81}]\n";
    let deltas = parse(ROUTE).unwrap();
    let [crate::service::Delta::Route(route)] = &deltas[..] else { panic!("{deltas:?}") };
    assert_eq!(route.id.to_string(), "HTTPRoute shop/r");
    assert_eq!((&*route.parents[0].service, route.parents[0].port), ("shop/a", Some(80)));
    let backends: Vec<_> =
        route.rules[0].backends.iter().map(|it| (&*it.service, it.port, it.weight)).collect();
    assert_eq!(backends, [("shop/b", Some(80), 3), ("other/c", Some(81), 1)]);
    let annotated = ROUTE.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {config.weir.dev/fault: 5%=503, config.weir.dev/affinity: cookie=sid}}",
    );
    let deltas = parse(&annotated).unwrap();
    let [crate::service::Delta::Route(route)] = &deltas[..] else { panic!("{deltas:?}") };
    let rule = &route.rules[0];
    assert_eq!(rule.faults.as_ref().unwrap().to_string(), "5% answered with 503");
    assert_eq!(rule.affinity.as_ref().unwrap().to_string(), "cookie sid");
    for (from, to, expected) in [
        ("matches:", "match:", "line 6"),
        ("weight: 3", "weight: 3, timeout: 1s", "unknown field `timeout`"),
        ("matches:", "timeouts: {backend: 1s}\n    matches:", "unknown field `backend`"),
        (
            "matches:",
            "timeouts: {request: 1.5s}\n    matches:",
            "HTTPRoute shop/r: rules[0]: timeouts.request: \"1.5s\" is no duration",
        ),
        (
            "matches:",
            "timeouts: {request: 1s, backendRequest: 1500ms}\n    matches:",
            "rules[0]: a backend may take longer than the whole request",
        ),
        (
            "matches:",
            "retry: {codes: [302]}\n    matches:",
            "rules[0]: retry: the code 302 is none",
        ),
        (
            "matches:",
            "retry: {attempts: 0}\n    matches:",
            "rules[0]: retry: 0 attempts; write 1 to 10",
        ),
        ("matches:", "retry: {attempt: 1}\n    matches:", "unknown field `attempt`"),
        ("matches:", "retry: {backoff: 1d}\n    matches:", "retry.backoff: \"1d\" is no duration"),
        (
            "namespace: shop}",
            "namespace: shop, annotations: {config.weir.dev/fault: 5%=200}}",
            "HTTPRoute shop/r: annotation config.weir.dev/fault: fault: 200 is no error",
        ),
        (
            "namespace: shop}",
            "namespace: shop, annotations: {config.weir.dev/affinity: x-user}}",
            "annotation config.weir.dev/affinity: \"x-user\" is no affinity",
        ),
        ("type: URLRewrite", "type: RequestMirror", "unknown variant `RequestMirror`"),
        ("value: /v2", "type: Exact, value: /v2", "a prefix is replaced only where"),
        ("value: /v2", "value: v2", "HTTPRoute shop/r: rules[0]: the path \"v2\" does not begin"),
        ("kind: Service, name: a", "kind: Gateway, name: a", "it has no parent that is a Service"),
        ("{name: b, port: 80", "{name: b", "the backend b has no port"),
        ("value: /v2", "type: RegularExpression, value: '('", "is no regular expression"),
    ] {
        let error = parse(&ROUTE.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{error} != {expected}");
    }
}

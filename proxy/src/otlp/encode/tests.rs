//! Spans by the semantic conventions, as a collector decodes them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message;

use super::*;
use crate::{
    budget::Resource as Budget,
    config::Otlp,
    pod::Pod,
    telemetry::{SpanTrace, Telemetry, exchange},
};

fn target(variables: &[(&str, &str)]) -> Target {
    let config = Otlp { endpoint: Some("http://c".into()), ..Otlp::default() };
    let get = |name: &str| Some(variables.iter().find(|(key, _)| *key == name)?.1.to_owned());
    Target::find(&config, get).0.unwrap()
}

fn request(direction: Direction, exchange: Exchange) -> FinishedRequest {
    let workload: Arc<str> = "shop".into();
    let share = Telemetry::new(None).share(&workload);
    FinishedRequest {
        exchange,
        trace: SpanTrace { trace_id: [7; 16], parent_id: Some([9; 8]), flags: 1 },
        workload,
        direction,
        client: "10.0.0.1:40000".parse().unwrap(),
        destination: "192.0.2.1:80".parse().unwrap(),
        endpoint: "10.1.0.5:8080".parse().ok(),
        is_failure: false,
        place: share.occupy(Budget::Spans, 1),
    }
}

/// Attributes as text, by key.
fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match value.value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(value) => value.to_string(),
        other => panic!("{other:?}"),
    };
    let map: BTreeMap<_, _> =
        list.iter().map(|it| (it.key.clone(), text(it.value.as_ref().unwrap()))).collect();
    assert_eq!(map.len(), list.len(), "a key is there twice: {list:?}");
    map
}

fn one(request: FinishedRequest) -> (Span, BTreeMap<String, String>) {
    let span = span(&request);
    let attributes = attributes(&span.attributes);
    (span, attributes)
}

fn pairs(attributes: &BTreeMap<String, String>) -> Vec<String> {
    attributes.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn a_request_that_was_sent_is_a_client_span() {
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_800);
    let exchange = Exchange {
        authority: Some("user:word@shop.example:8080".into()),
        started,
        attempts: 3,
        ..exchange()
    };
    let (span, attributes) = one(request(Direction::Outbound, exchange));
    assert_eq!(span.trace_id, [7; 16]);
    assert_eq!(span.parent_span_id, [9; 8]);
    assert!(span.span_id.len() == 8 && span.span_id != [0; 8] && span.span_id != [9; 8]);
    assert_eq!((span.kind(), span.name.as_str(), span.flags), (SpanKind::Client, "GET", 0x301));
    assert_eq!(span.start_time_unix_nano, 1_709_164_800_000_000_000);
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 5_000_000);
    assert_eq!(span.status.unwrap().code(), StatusCode::Unset);
    assert_eq!(
        pairs(&attributes),
        [
            "http.request.body.size=0",
            "http.request.method=GET",
            "http.request.resend_count=2",
            "http.response.body.size=1024",
            "http.response.status_code=200",
            "network.peer.address=10.1.0.5",
            "network.peer.port=8080",
            "network.protocol.name=http",
            "network.protocol.version=1.1",
            "server.address=shop.example",
            "server.port=8080",
            "url.full=http://shop.example:8080/a",
            "url.scheme=http",
            "weir.observed=true",
        ]
    );
}

#[test]
fn a_request_that_was_received_is_a_server_span() {
    let exchange = Exchange { method: "BREW".into(), authority: None, version: 20, ..exchange() };
    let mut request = request(Direction::Inbound, exchange);
    request.trace = SpanTrace { parent_id: None, ..request.trace };
    let (span, attributes) = one(request);
    assert!(span.parent_span_id.is_empty());
    assert_eq!((span.kind(), span.name.as_str(), span.flags), (SpanKind::Server, "HTTP", 0x101));
    assert_eq!(
        pairs(&attributes),
        [
            "client.address=10.0.0.1",
            "http.request.body.size=0",
            "http.request.method=_OTHER",
            "http.request.method_original=BREW",
            "http.response.body.size=1024",
            "http.response.status_code=200",
            "network.peer.address=10.0.0.1",
            "network.peer.port=40000",
            "network.protocol.name=http",
            "network.protocol.version=2",
            "server.address=192.0.2.1",
            "server.port=80",
            "url.path=/a",
            "url.scheme=http",
            "weir.observed=true",
        ]
    );
}

#[test]
fn a_call_of_grpc_has_its_service_and_method() {
    let exchange = Exchange {
        version: 20,
        grpc: true,
        grpc_status: Some(5),
        method: "POST".into(),
        path: "/shop.v1.Cart/Add".into(),
        authority: Some("[fd00::1]:50051".into()),
        ..exchange()
    };
    let (span, attributes) = one(request(Direction::Outbound, exchange.clone()));
    assert_eq!(span.name, "shop.v1.Cart/Add");
    assert_eq!(span.status.unwrap().code(), StatusCode::Error);
    assert_eq!(
        pairs(&attributes),
        [
            "error.type=5",
            "network.peer.address=10.1.0.5",
            "network.peer.port=8080",
            "network.protocol.name=http",
            "network.protocol.version=2",
            "rpc.grpc.status_code=5",
            "rpc.method=Add",
            "rpc.service=shop.v1.Cart",
            "rpc.system=grpc",
            "server.address=fd00::1",
            "server.port=50051",
            "weir.observed=true",
        ]
    );
    // NOT_FOUND is an answer: not an error of the server.
    let (span, attributes) = one(request(Direction::Inbound, exchange));
    assert_eq!(span.status.unwrap().code(), StatusCode::Unset);
    assert!(!attributes.contains_key("error.type"));
}

#[test]
fn errors_are_those_of_the_conventions() {
    use ExchangeEnd::{Answered, Cancelled, ClientReset, Complete, UpstreamClosed, UpstreamReset};
    for (status, grpc, end, client, server) in [
        (Some(200), None, Complete, None, None),
        (Some(404), None, Complete, Some("404"), None),
        (Some(503), None, Complete, Some("503"), Some("503")),
        (Some(200), Some(0), Complete, None, None),
        (Some(200), Some(1), Complete, Some("1"), None),
        (Some(200), Some(14), Complete, Some("14"), Some("14")),
        (Some(502), None, Answered("connect"), Some("connect"), Some("connect")),
        (None, None, UpstreamClosed, Some("upstream_closed"), Some("upstream_closed")),
        (Some(200), None, UpstreamReset(Some(2)), Some("upstream_reset"), Some("upstream_reset")),
        (Some(200), None, UpstreamReset(Some(0)), None, None),
        (None, None, ClientReset(Some(8)), Some("client_reset"), Some("client_reset")),
        (None, None, Cancelled, Some("cancelled"), Some("cancelled")),
    ] {
        let what = format!("{status:?} {grpc:?} {end:?}");
        let exchange =
            Exchange { status, grpc_status: grpc, grpc: grpc.is_some(), end, ..exchange() };
        for (direction, expected) in [(Direction::Outbound, client), (Direction::Inbound, server)] {
            let (span, attributes) = one(request(direction, exchange.clone()));
            let error = attributes.get("error.type").map(String::as_str);
            assert_eq!(error, expected, "{what} {direction:?}");
            let is_error = span.status.unwrap().code() == StatusCode::Error;
            assert_eq!(is_error, expected.is_some(), "{what} {direction:?}");
        }
    }
}

#[test]
fn a_workload_is_one_resource_with_its_pod() {
    let pod = PodLabels::from(&Pod {
        uid: "u".into(),
        namespace: "default".into(),
        name: "shop-5d9".into(),
        workload_kind: "Deployment".into(),
        workload_name: "shop-api".into(),
    });
    let target = target(&[("OTEL_RESOURCE_ATTRIBUTES", "team=a,k8s.pod.name=weir-node-x")]);
    let of = |workload: &str| FinishedRequest {
        workload: workload.into(),
        ..request(Direction::Outbound, exchange())
    };
    let batch = [of("shop"), of("plain"), of("shop")];
    let known = Arc::new(pod);
    let encoded = encode(&batch, &target, |name| (name == "shop").then(|| Arc::clone(&known)));
    let bytes = encoded.encode_to_vec();
    let decoded = ExportTraceServiceRequest::decode(&*bytes).unwrap();
    let [plain, shop] = &decoded.resource_spans[..] else { panic!("{decoded:?}") };
    let of = |it: &ResourceSpans| pairs(&attributes(&it.resource.as_ref().unwrap().attributes));
    assert_eq!(
        of(plain),
        ["k8s.pod.name=weir-node-x", "service.name=plain", "team=a", "weir.workload=plain"]
    );
    assert_eq!(
        of(shop),
        [
            "k8s.deployment.name=shop-api",
            "k8s.namespace.name=default",
            "k8s.pod.name=shop-5d9",
            "service.name=shop-api",
            "team=a",
            "weir.workload=shop",
        ]
    );
    let scope = &shop.scope_spans[0];
    assert_eq!((scope.scope.as_ref().unwrap().name.as_str(), scope.spans.len()), ("weir", 2));
    assert_ne!(scope.spans[0].span_id, scope.spans[1].span_id);
}

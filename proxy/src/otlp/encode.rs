//! Spans as OTLP has them, with the names of the OpenTelemetry semantic conventions: HTTP 1.23 and later
//! (stable), RPC 1.23 to 1.36. A span has no raw path in its name, and no query, user or password at all.

use std::{collections::BTreeMap, net::SocketAddr, time::UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

use super::Target;
use crate::{
    decision::Direction,
    forward::http::{Exchange, ExchangeEnd},
    telemetry::{FinishedRequest, PodLabels},
};

/// `has_is_remote` and `is_remote` of a span's flags: the parent is in another process.
const REMOTE_PARENT: u32 = 0x300;
/// `has_is_remote` alone.
const NO_REMOTE_PARENT: u32 = 0x100;

/// Methods that are attributes as they are (RFC 9110 §9, RFC 5789).
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// gRPC codes that are a server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS.
const SERVER_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];

/// The request to the collector for these spans; those of a workload have one resource.
pub(super) fn encode(
    batch: &[FinishedRequest],
    target: &Target,
    pod: impl Fn(&str) -> Option<std::sync::Arc<PodLabels>>,
) -> ExportTraceServiceRequest {
    let mut workloads: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for request in batch {
        workloads.entry(&request.workload).or_default().push(span(request));
    }
    let scope = InstrumentationScope {
        name: "weir".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let resource_spans = workloads.into_iter().map(|(workload, spans)| ResourceSpans {
        resource: Some(resource(target, workload, pod(workload).as_deref())),
        scope_spans: vec![ScopeSpans { scope: Some(scope.clone()), spans, ..Default::default() }],
        ..Default::default()
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

/// What is said of the workload: of its pod first, then by the environment.
fn resource(target: &Target, workload: &str, pod: Option<&PodLabels>) -> Resource {
    let mut attributes = Attributes::default();
    let name = pod.map_or(workload, PodLabels::owner);
    attributes.add("service.name", target.service.as_deref().unwrap_or(name));
    attributes.add("weir.workload", workload);
    if let Some(pod) = pod {
        attributes.add("k8s.namespace.name", pod.namespace());
        attributes.add("k8s.pod.name", pod.name());
        let kind = pod.kind().to_ascii_lowercase();
        if kind != "pod" {
            attributes.0.push(attribute(format!("k8s.{kind}.name"), text(pod.owner())));
        }
    }
    for (key, value) in &target.resource {
        if attributes.0.iter().all(|known| known.key != *key) {
            attributes.0.push(attribute(key.clone(), text(value)));
        }
    }
    Resource { attributes: attributes.0, ..Default::default() }
}

fn span(request: &FinishedRequest) -> Span {
    let exchange = &request.exchange;
    let is_client = request.direction == Direction::Outbound;
    let start = exchange.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let error = error_type(request, is_client);
    let parent = request.trace.parent_id;
    let mut attributes = Attributes::default();
    attributes.of(request, is_client);
    let code = if error.is_some() { StatusCode::Error } else { StatusCode::Unset };
    if let Some(error) = error {
        attributes.add("error.type", error);
    }
    let remote = if parent.is_some() { REMOTE_PARENT } else { NO_REMOTE_PARENT };
    Span {
        trace_id: request.trace.trace_id.to_vec(),
        // An id of zeros is none.
        span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
        parent_span_id: parent.map(Vec::from).unwrap_or_default(),
        flags: u32::from(request.trace.flags) | remote,
        name: name(exchange),
        kind: if is_client { SpanKind::Client } else { SpanKind::Server }.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start + exchange.duration),
        attributes: attributes.0,
        status: Some(Status { code: code.into(), ..Default::default() }),
        ..Default::default()
    }
}

/// `{service}/{method}` of gRPC; else the method: the route is not known.
fn name(exchange: &Exchange) -> String {
    match rpc(exchange) {
        Some((service, method)) => format!("{service}/{method}"),
        None if METHODS.contains(&&*exchange.method) => (*exchange.method).to_owned(),
        None => "HTTP".to_owned(),
    }
}

/// Service and method of a gRPC request.
fn rpc(exchange: &Exchange) -> Option<(&str, &str)> {
    exchange.path.strip_prefix('/')?.rsplit_once('/').filter(|_| exchange.grpc)
}

/// What went wrong; `None` if nothing did, from this side's point of view.
fn error_type(request: &FinishedRequest, is_client: bool) -> Option<String> {
    let exchange = &request.exchange;
    let end = match exchange.end {
        ExchangeEnd::Answered(error) => Some(error),
        ExchangeEnd::ClientReset(_) => Some("client_reset"),
        // NO_ERROR: the response was whole (RFC 9113 §8.1).
        ExchangeEnd::UpstreamReset(code) => (code != Some(0)).then_some("upstream_reset"),
        ExchangeEnd::UpstreamClosed => Some("upstream_closed"),
        ExchangeEnd::Cancelled => Some("cancelled"),
        ExchangeEnd::TimedOut => Some(weir_http::TIMEOUT),
        ExchangeEnd::Complete | ExchangeEnd::Tunnel | ExchangeEnd::Untracked => None,
    };
    if let Some(end) = end {
        return Some(end.to_owned());
    }
    if let Some(code) = exchange.grpc_status {
        let is_error = if is_client { code != 0 } else { SERVER_ERRORS.contains(&code) };
        return is_error.then(|| code.to_string());
    }
    let least = if is_client { 400 } else { 500 };
    exchange.status.filter(|status| *status >= least).map(|status| status.to_string())
}

/// The attributes of a span or a resource.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

// === impl Attributes ===

impl Attributes {
    fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.push(attribute(key.to_owned(), text(value)));
    }

    fn add_number(&mut self, key: &str, value: impl TryInto<i64>) {
        let value = Value::IntValue(value.try_into().unwrap_or(i64::MAX));
        self.0.push(attribute(key.to_owned(), value));
    }

    fn add_address(&mut self, [address, port]: [&str; 2], of: SocketAddr) {
        self.add(address, of.ip().to_canonical().to_string());
        self.add_number(port, of.port());
    }

    /// What is known of a request.
    fn of(&mut self, request: &FinishedRequest, is_client: bool) {
        let exchange = &request.exchange;
        self.0.push(attribute("weir.observed".to_owned(), Value::BoolValue(true)));
        match rpc(exchange) {
            Some((service, method)) => self.rpc(exchange, service, method),
            None => self.http(exchange, is_client),
        }
        let authority = exchange.authority.as_deref().map(without_userinfo);
        let (host, port) = match authority.map(split_port) {
            Some((host, port)) if !host.is_empty() => (host.to_owned(), port),
            _ => (request.destination.ip().to_canonical().to_string(), None),
        };
        self.add("server.address", host);
        self.add_number("server.port", port.unwrap_or(request.destination.port()));
        let peer = ["network.peer.address", "network.peer.port"];
        if is_client {
            self.add_address(peer, request.endpoint.unwrap_or(request.destination));
        } else {
            self.add_address(peer, request.client);
            self.add("client.address", request.client.ip().to_canonical().to_string());
        }
        self.add("network.protocol.name", "http");
        self.add("network.protocol.version", version(exchange.version));
        if exchange.attempts > 1 {
            self.add_number("http.request.resend_count", exchange.attempts - 1);
        }
    }

    fn http(&mut self, exchange: &Exchange, is_client: bool) {
        if METHODS.contains(&&*exchange.method) {
            self.add("http.request.method", &*exchange.method);
        } else {
            self.add("http.request.method", "_OTHER");
            self.add("http.request.method_original", &*exchange.method);
        }
        if let Some(status) = exchange.status {
            self.add_number("http.response.status_code", status);
        }
        self.add_number("http.request.body.size", exchange.request_bytes);
        self.add_number("http.response.body.size", exchange.response_bytes);
        self.add("url.scheme", "http");
        match exchange.authority.as_deref().map(without_userinfo).filter(|_| is_client) {
            Some(authority) => self.add("url.full", format!("http://{authority}{}", exchange.path)),
            None => self.add("url.path", &*exchange.path),
        }
    }

    fn rpc(&mut self, exchange: &Exchange, service: &str, method: &str) {
        self.add("rpc.system", "grpc");
        self.add("rpc.service", service);
        self.add("rpc.method", method);
        if let Some(code) = exchange.grpc_status {
            self.add_number("rpc.grpc.status_code", code);
        }
        // A proxy's answer, not gRPC's.
        if let Some(status) = exchange.status.filter(|status| *status != 200) {
            self.add_number("http.response.status_code", status);
        }
    }
}

// === helpers ===

fn text(value: impl Into<String>) -> Value {
    Value::StringValue(value.into())
}

fn attribute(key: String, value: Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

/// Host and port of an authority (RFC 3986 §3.2), without the brackets of an IPv6 address.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.trim_matches(['[', ']']), port)
}

const fn version(version: u8) -> &'static str {
    match version {
        10 => "1.0",
        11 => "1.1",
        _ => "2",
    }
}

#[cfg(test)]
mod tests;

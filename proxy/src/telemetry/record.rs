//! Access records: one per connection and one per request, as JSON lines, for people to read, or as the
//! access logs of other servers have them.

mod human;
mod lines;
mod output;
mod rotation;
mod sink;
mod words;
mod writer;

pub use rotation::Rotation;
pub use sink::Observer;
pub(super) use sink::{Records, UNDETECTED};
pub(super) use words::Words;
pub use writer::RecordLog;

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use weir_http::RouteName;

use super::{ConnectionInfo, classify::Class};
use crate::{
    decision::{Detection, Direction, Source, Treatment},
    forward::http::{Exchange, ExchangeEnd, TraceParent},
    names,
    process::Process,
};

/// One line of the record log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A connection has ended.
    Connection(ConnectionRecord),
    /// A request has ended.
    Request(RequestRecord),
}

/// A connection, as it ended. `sent` and `received` are seen from the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Unique within one run of weir.
    pub id: u64,
    /// When it was accepted, RFC 3339.
    #[serde(with = "time")]
    pub time: SystemTime,
    /// The workload's name.
    pub workload: Arc<str>,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// Who connected; unknown for connections that the kernel let pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// The process that connected: of outbound connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The original destination.
    pub destination: SocketAddr,
    /// The endpoint that was chosen in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// What it was treated as; absent if it ended before a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub treatment: Option<Treatment>,
    /// Who said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why the kernel let it pass, where no rule asks for that: a reason of
    /// `weir_kernel_decisions_total`, such as `no_listener`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// Why, as a clause.
    pub why: Cow<'static, str>,
    /// The host name that its client has asked for: that of the TLS ClientHello, or of the first request
    /// that names a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Server name of the TLS ClientHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Protocols offered in the TLS ClientHello.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
    /// Requests seen on it.
    pub requests: u64,
    /// Why its HTTP messages could not be followed any more: from then on bytes passed unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<Cow<'static, str>>,
    /// Why its requests are not balanced any more: from then on it had an upstream connection of its own. A
    /// reason of `weir_unpoolable_total`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpoolable: Option<Cow<'static, str>>,
    /// `tap` where it was seen in the kernel and not proxied; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Cow<'static, str>>,
    /// From accept to the decision.
    #[serde(
        rename = "detect_us",
        default,
        skip_serializing_if = "Option::is_none",
        with = "micros::optional"
    )]
    pub detect: Option<Duration>,
    /// Of a TLS connection: from the ClientHello to the first bytes of the server, whose part of the
    /// handshake they are.
    #[serde(
        rename = "handshake_us",
        default,
        skip_serializing_if = "Option::is_none",
        with = "micros::optional"
    )]
    pub handshake: Option<Duration>,
    /// From accept to close.
    #[serde(rename = "duration_us", with = "micros")]
    pub duration: Duration,
    /// The stable name of a [`super::CloseReason`].
    pub close: Cow<'static, str>,
    /// An errno's name or an engine's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What only the kernel knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelNumbers>,
}

/// TCP numbers of a connection that went direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelNumbers {
    /// Smoothed round-trip time.
    #[serde(rename = "srtt_us", with = "micros")]
    pub srtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
}

/// The route of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTaken {
    /// The route.
    pub name: Arc<str>,
    /// Its rule: the name, or the place among the rules, which counts from zero.
    pub rule: Arc<str>,
    /// The service that the request went to; absent where weir has answered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Arc<str>>,
}

/// A request and its response, as they ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The connection's id.
    pub connection: u64,
    /// When the request's head was complete, RFC 3339.
    #[serde(with = "time")]
    pub time: SystemTime,
    /// The workload's name.
    pub workload: Arc<str>,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// The process that connected: of outbound connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The original destination.
    pub destination: SocketAddr,
    /// The endpoint that it was sent to last in its place: one that was chosen for the request, else
    /// that of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The route that it has taken, if its destination has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTaken>,
    /// Connections that it was sent on, where it was retried.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u8,
    /// What the connection was treated as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treatment: Option<Treatment>,
    /// Who said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::source::optional")]
    pub source: Option<Source>,
    /// `1.0`, `1.1` or `2`.
    pub version: Cow<'static, str>,
    /// As sent.
    pub method: String,
    /// `:authority`, the target's or Host, without user and password (RFC 3986 §3.2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// Absent if no response came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of the `traceparent` that the request had, if it is valid: the id of the trace, as 32 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The id of the span that it was sent in, as 16 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether its sender records the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<bool>,
    /// gRPC status code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// `success`, `failure`, or absent if there was nothing to judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Cow<'static, str>>,
    /// From the request's head to the response's.
    #[serde(
        rename = "latency_us",
        default,
        skip_serializing_if = "Option::is_none",
        with = "micros::optional"
    )]
    pub latency: Option<Duration>,
    /// From the request's head to the end of the response.
    #[serde(rename = "duration_us", with = "micros")]
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// `complete`, `client_reset`, `upstream_reset`, `upstream_closed`, `answered`, `tunnel`,
    /// `untracked` or `cancelled`.
    pub end: Cow<'static, str>,
    /// HTTP/2 error code of a reset (RFC 9113 §7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h2_error: Option<u32>,
    /// The `x-weir-error` that weir answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weir_error: Option<Cow<'static, str>>,
}

// === impl Record ===

impl Record {
    /// The workload's name.
    pub(super) fn workload(&self) -> &str {
        match self {
            Self::Connection(record) => &record.workload,
            Self::Request(record) => &record.workload,
        }
    }

    /// Bytes of what peers have said in it.
    pub(super) fn words(&self) -> usize {
        match self {
            Self::Connection(record) => {
                let alpn: usize = record.alpn.iter().map(String::len).sum();
                let names = [&record.name, &record.sni].into_iter().flatten();
                names.map(String::len).sum::<usize>() + alpn
            }
            Self::Request(record) => {
                let authority = record.authority.as_ref().map_or(0, String::len);
                record.method.len() + authority + record.path.len()
            }
        }
    }
}

// === impl RouteTaken ===

impl RouteTaken {
    fn of(name: &RouteName) -> Self {
        let RouteName { route, rule, backend } = name;
        Self { name: Arc::clone(route), rule: Arc::clone(rule), backend: backend.clone() }
    }
}

// === impl RequestRecord ===

impl RequestRecord {
    pub(super) fn new(
        connection: u64,
        info: &ConnectionInfo,
        endpoint: Option<SocketAddr>,
        detection: Option<Detection>,
        class: Option<Class>,
        exchange: &Exchange,
    ) -> Self {
        let (end, h2_error, weir_error) = match exchange.end {
            ExchangeEnd::Complete => ("complete", None, None),
            ExchangeEnd::ClientReset(code) => ("client_reset", code, None),
            ExchangeEnd::UpstreamReset(code) => ("upstream_reset", code, None),
            ExchangeEnd::UpstreamClosed => ("upstream_closed", None, None),
            ExchangeEnd::Answered(weir_http::REDIRECT) => ("answered", None, None),
            ExchangeEnd::Answered(error) => ("answered", None, Some(error.into())),
            ExchangeEnd::Tunnel => ("tunnel", None, None),
            ExchangeEnd::Untracked => ("untracked", None, None),
            ExchangeEnd::Cancelled => ("cancelled", None, None),
            ExchangeEnd::TimedOut => ("timed_out", None, Some(weir_http::TIMEOUT.into())),
        };
        let trace = exchange.trace.as_deref();
        Self {
            connection,
            time: exchange.started,
            workload: Arc::clone(&info.workload),
            direction: info.direction,
            client: info.client,
            process: info.process,
            destination: info.destination,
            endpoint,
            route: exchange.route.as_deref().map(RouteTaken::of),
            attempts: exchange.attempts,
            treatment: detection.map(Detection::treatment),
            source: detection.map(Detection::source),
            version: version_name(exchange.version).into(),
            method: (*exchange.method).to_owned(),
            authority: exchange.authority.as_deref().map(without_userinfo),
            path: (*exchange.path).to_owned(),
            status: exchange.status,
            trace_id: trace.map(|it| hex(&it.trace_id)),
            parent_id: trace.map(|it| hex(&it.parent_id)),
            sampled: trace.map(TraceParent::is_sampled),
            grpc_status: exchange.grpc_status,
            classification: class.map(|class| class.name().into()),
            latency: exchange.time_to_head,
            duration: exchange.duration,
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
            end: end.into(),
            h2_error,
            weir_error,
        }
    }
}

const fn one() -> u8 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(attempts: &u8) -> bool {
    *attempts <= 1
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

fn without_userinfo(authority: &str) -> String {
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

fn version_name(version: u8) -> &'static str {
    match version {
        10 => "1.0",
        11 => "1.1",
        _ => "2",
    }
}

/// A [`SystemTime`] as RFC 3339 text. Read back to the millisecond.
pub(super) mod time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::units;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &SystemTime,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&units::rfc3339(*time))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(d)?;
        units::parse_rfc3339(&text)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not an RFC 3339 time in UTC")))
    }
}

/// A [`Duration`] as whole microseconds.
pub(super) mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        value: &Duration,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_micros)
    }

    pub(super) mod optional {
        use serde::Serialize;

        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            value: &Option<Duration>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            value.map(|v| u64::try_from(v.as_micros()).unwrap_or(u64::MAX)).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(d)?.map(Duration::from_micros))
        }
    }
}

#[cfg(test)]
mod tests;

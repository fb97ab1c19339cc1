//! Which records a reader wants.

use std::{convert::Infallible, fmt, net::SocketAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    decision::{Direction, Treatment},
    names,
    ports::{CidrList, PortSet},
    telemetry::{
        name::{port, without_port},
        record::{ConnectionRecord, Record, RequestRecord},
    },
    units,
};

/// Conditions; a record is wanted that fits all of those that are set. A condition on what only
/// requests have leaves connections out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TapFilter {
    /// Connections or requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RecordKind>,
    /// Seen from the workload.
    #[serde(with = "names::direction::optional", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Ports of the original destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortSet>,
    /// Prefixes of the client's address; connections that went direct have no client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<CidrList>,
    /// Prefixes of the original destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<CidrList>,
    /// Prefixes of the address of the endpoint that was chosen in its place; what went to the original
    /// destination has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<CidrList>,
    /// What connections are treated as; empty for anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Treatment>,
    /// A request's method; case matters (RFC 9110 §9.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A request's authority, or a connection's name: that of the TLS ClientHello or of its first
    /// request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<NamePattern>,
    /// What a request's path begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Status codes of responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statuses: Option<super::Statuses>,
    /// Only requests that are classified as failures or were reset, and connections that did not
    /// end in order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Only what took at least this long.
    #[serde(with = "units::duration", skip_serializing_if = "Duration::is_zero")]
    pub at_least: Duration,
}

/// What conditions on connections and on requests look at.
#[derive(Debug)]
pub(in crate::telemetry) struct Place<'a> {
    pub(in crate::telemetry) direction: Direction,
    pub(in crate::telemetry) client: Option<SocketAddr>,
    pub(in crate::telemetry) destination: SocketAddr,
    pub(in crate::telemetry) endpoint: Option<SocketAddr>,
    pub(in crate::telemetry) treatment: Option<Treatment>,
    pub(in crate::telemetry) name: Option<&'a str>,
    pub(in crate::telemetry) took: Duration,
}

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// [`Record::Connection`].
    Connection,
    /// [`Record::Request`].
    Request,
}

/// A host name, with `*.` for anything before it; letters' case does not matter. One without a port
/// fits any port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamePattern(String);

// === impl TapFilter ===

impl TapFilter {
    /// Whether a record fits every condition.
    #[must_use]
    pub fn fits(&self, record: &Record) -> bool {
        match record {
            Record::Connection(connection) => self.fits_connection(connection),
            Record::Request(request) => self.fits_request(request),
        }
    }

    fn fits_connection(&self, connection: &ConnectionRecord) -> bool {
        let place = Place {
            direction: connection.direction,
            client: connection.client,
            destination: connection.destination,
            endpoint: connection.endpoint,
            treatment: connection.treatment,
            name: connection.name.as_deref().or(connection.sni.as_deref()),
            took: connection.duration,
        };
        !self.is_of_requests()
            && self.fits_place(&place)
            && (!self.failed || connection.close != "finished")
    }

    /// Whether an open connection fits: one that has not failed so far.
    #[must_use]
    pub(in crate::telemetry) fn fits_open(&self, place: &Place<'_>) -> bool {
        !self.is_of_requests() && !self.failed && self.fits_place(place)
    }

    /// Whether it leaves all connections out.
    fn is_of_requests(&self) -> bool {
        self.kind.is_some_and(|kind| kind != RecordKind::Connection)
            || self.method.is_some()
            || self.path.is_some()
            || self.statuses.is_some()
    }

    fn fits_request(&self, request: &RequestRecord) -> bool {
        let Self { kind, method, path, statuses, failed, .. } = self;
        let place = Place {
            direction: request.direction,
            client: Some(request.client),
            destination: request.destination,
            endpoint: request.endpoint,
            treatment: request.treatment,
            name: request.authority.as_deref(),
            took: request.duration,
        };
        let has_failed = request.classification.as_deref() == Some("failure")
            || ["client_reset", "upstream_reset"].contains(&&*request.end);
        kind.is_none_or(|kind| kind == RecordKind::Request)
            && self.fits_place(&place)
            && fits(method, |method| *method == request.method)
            && fits(path, |begin| request.path.starts_with(begin.as_str()))
            && fits(statuses, |statuses| request.status.is_some_and(|it| statuses.contains(it)))
            && (!failed || has_failed)
    }

    fn fits_place(&self, place: &Place<'_>) -> bool {
        let Self { direction, ports, from, to, endpoint, protocols, authority, .. } = self;
        direction.is_none_or(|direction| direction == place.direction)
            && fits(ports, |ports| ports.contains(place.destination.port()))
            && fits(to, |to| to.find(place.destination.ip()).is_some())
            && fits(from, |from| has(from, place.client))
            && fits(endpoint, |endpoint| has(endpoint, place.endpoint))
            && fits_protocol(protocols, place.treatment)
            && fits(authority, |pattern| place.name.is_some_and(|name| pattern.fits(name)))
            && place.took >= self.at_least
    }
}

fn fits<T>(condition: &Option<T>, holds: impl FnOnce(&T) -> bool) -> bool {
    condition.as_ref().is_none_or(holds)
}

fn has(prefixes: &CidrList, address: Option<SocketAddr>) -> bool {
    address.is_some_and(|address| prefixes.find(address.ip()).is_some())
}

fn fits_protocol(wanted: &[Treatment], treatment: Option<Treatment>) -> bool {
    wanted.is_empty() || treatment.is_some_and(|treatment| wanted.contains(&treatment))
}

// === impl NamePattern ===

impl NamePattern {
    /// Whether an authority, or a server name, is meant.
    #[must_use]
    pub fn fits(&self, authority: &str) -> bool {
        let host = if port(&self.0).is_some() { authority } else { without_port(authority) };
        match self.0.strip_prefix("*.") {
            Some(domain) => {
                let end = host.len().checked_sub(domain.len() + 1);
                let end = end.and_then(|at| host.get(at..));
                end.and_then(|end| end.strip_prefix('.'))
                    .is_some_and(|end| end.eq_ignore_ascii_case(domain))
                    && host.len() > domain.len() + 1
            }
            None => host.eq_ignore_ascii_case(&self.0),
        }
    }
}

impl FromStr for NamePattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::{connection_record, request_record};

    type Set = fn(&mut TapFilter);

    fn filter(set: Set) -> TapFilter {
        let mut filter = TapFilter::default();
        set(&mut filter);
        // What is asked for over the control socket is what was meant.
        let line = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<TapFilter>(&line).unwrap(), filter, "{line}");
        filter
    }

    /// `GET example.com/a` to 192.0.2.1:80 at 10.1.0.5:8080 with status 200 in 5 ms, and a TLS
    /// connection for example.com to 192.0.2.1:443 at 10.1.0.6:8443 in 1.25 s; both from 10.0.0.1.
    fn fits(set: Set) -> (bool, bool) {
        let filter = filter(set);
        let mut request = request_record();
        let mut connection = connection_record();
        request.endpoint = "10.1.0.5:8080".parse().ok();
        connection.endpoint = "10.1.0.6:8443".parse().ok();
        (filter.fits(&Record::Request(request)), filter.fits(&Record::Connection(connection)))
    }

    #[test]
    fn each_condition_leaves_out_what_does_not_fit_it() {
        let cases: [(Set, (bool, bool)); 27] = [
            (|_| (), (true, true)),
            (|f| f.kind = Some(RecordKind::Request), (true, false)),
            (|f| f.kind = Some(RecordKind::Connection), (false, true)),
            (|f| f.direction = Some(Direction::Outbound), (true, true)),
            (|f| f.direction = Some(Direction::Inbound), (false, false)),
            (|f| f.ports = Some(PortSet::from_iter([443])), (false, true)),
            (|f| f.ports = Some(PortSet::default()), (false, false)),
            (|f| f.to = "192.0.2.0/24".parse().ok(), (true, true)),
            (|f| f.to = "10.0.0.0/8".parse().ok(), (false, false)),
            (|f| f.from = "fd00::/8,10.0.0.1".parse().ok(), (true, true)),
            (|f| f.from = "192.0.2.0/24".parse().ok(), (false, false)),
            (|f| f.endpoint = "10.1.0.0/16".parse().ok(), (true, true)),
            (|f| f.endpoint = "10.1.0.6,192.0.2.1".parse().ok(), (false, true)),
            (|f| f.protocols = vec![Treatment::Http1, Treatment::Http2], (true, false)),
            (|f| f.protocols = vec![Treatment::Tls], (false, true)),
            (|f| f.method = Some("GET".into()), (true, false)),
            (|f| f.method = Some("get".into()), (false, false)),
            (|f| f.authority = "EXAMPLE.com".parse().ok(), (true, true)),
            (|f| f.authority = "example.org".parse().ok(), (false, false)),
            (|f| f.path = Some("/a".into()), (true, false)),
            (|f| f.path = Some("/b".into()), (false, false)),
            (|f| f.statuses = "2xx".parse().ok(), (true, false)),
            (|f| f.statuses = "404,5xx".parse().ok(), (false, false)),
            (|f| f.failed = true, (false, false)),
            (|f| f.at_least = Duration::from_millis(5), (true, true)),
            (|f| f.at_least = Duration::from_secs(1), (false, true)),
            (
                |f| {
                    f.path = Some("/".into());
                    f.statuses = "5xx".parse().ok();
                },
                (false, false),
            ),
        ];
        for (i, (set, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(fits(set), wanted, "case {i}");
        }
    }

    #[test]
    fn failures_are_what_metrics_call_so_and_what_was_cut() {
        let failed = filter(|f| f.failed = true);
        let request = |change: fn(&mut RequestRecord)| {
            let mut record = request_record();
            change(&mut record);
            failed.fits(&Record::Request(record))
        };
        assert!(request(|r| r.classification = Some("failure".into())));
        assert!(request(|r| (r.classification, r.end) = (None, "upstream_reset".into())));
        assert!(!request(|r| (r.classification, r.end) = (None, "tunnel".into())));
        let mut connection = connection_record();
        connection.close = "connect_failed".into();
        assert!(failed.fits(&Record::Connection(connection)));
    }

    #[test]
    fn a_connection_without_client_name_or_endpoint_has_none_that_fits() {
        let mut record = connection_record();
        (record.client, record.sni, record.name) = (None, None, None);
        let record = Record::Connection(record);
        assert!(!filter(|f| f.endpoint = "0.0.0.0/0,::/0".parse().ok()).fits(&record));
        assert!(!filter(|f| f.from = "0.0.0.0/0,::/0".parse().ok()).fits(&record));
        assert!(!filter(|f| f.authority = "*.com".parse().ok()).fits(&record));
    }

    #[test]
    fn names_fit_with_any_port_unless_they_have_one() {
        for (pattern, authority, fits) in [
            ("shop.example", "shop.example", true),
            ("shop.example", "Shop.Example:8080", true),
            ("shop.example:8080", "shop.example:8080", true),
            ("shop.example:8080", "shop.example", false),
            ("shop.example", "myshop.example", false),
            ("*.example", "shop.example:80", true),
            ("*.example", "a.b.EXAMPLE", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "myexample", false),
            ("[::1]", "[::1]:80", true),
            ("[::1]", "[::1]", true),
            ("*.é", "aé", false),
            ("", "", true),
            ("", "a", false),
        ] {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.fits(authority), fits, "{pattern} {authority}");
        }
    }

    #[test]
    fn an_unknown_condition_is_refused() {
        for (line, says) in [
            (r#"{"port":"80"}"#, "unknown field `port`"),
            (r#"{"statuses":"0"}"#, "not a status code"),
            (r#"{"ports":"+80"}"#, "'+' is not allowed here"),
            (r#"{"protocols":["quic"]}"#, "unknown variant `quic`"),
        ] {
            let error = serde_json::from_str::<TapFilter>(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}

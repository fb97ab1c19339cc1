//! Where spans go: the configuration, and the variables of the OpenTelemetry specification
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>). As there, an empty variable is none,
//! what the configuration says counts before the environment, and a variable that makes no sense is
//! warned of and ignored.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::config::{Otlp, url_problem};

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans go, and what is said with all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// For people.
    pub(crate) url: Arc<str>,
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as `Host` has them.
    pub(super) authority: String,
    /// With the query.
    pub(super) path: String,
    /// Of each request to the collector. They may hold secrets: never logged.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Of one attempt, from the connection to the end of the response.
    pub(super) timeout: Duration,
    /// `service.name` of all workloads.
    pub(super) service: Option<String>,
    /// Attributes of all workloads.
    pub(super) resource: Vec<(String, String)>,
}

/// The environment.
struct Variables<E> {
    get: E,
    ignored: Vec<String>,
}

// === impl Target ===

impl Target {
    /// The target, if there is one, and what is ignored of the environment, for people.
    pub(crate) fn find(
        config: &Otlp,
        env: impl Fn(&str) -> Option<String>,
    ) -> (Option<Self>, Vec<String>) {
        let mut variables = Variables { get: env, ignored: Vec::new() };
        let target = variables.target(config);
        (target, variables.ignored)
    }

    /// The target that the environment of this process names, unless the configuration does.
    pub(crate) fn of_process(config: &Otlp) -> (Option<Self>, Vec<String>) {
        if !cfg!(feature = "otlp") {
            return (None, Vec::new());
        }
        Self::find(config, |name| std::env::var(name).ok())
    }
}

// === impl Variables ===

impl<E: Fn(&str) -> Option<String>> Variables<E> {
    fn target(&mut self, config: &Otlp) -> Option<Target> {
        let url = match &config.endpoint {
            Some(base) => below(base),
            None if self.is_off() => return None,
            None => self.url()?,
        };
        if let Some((name, protocol)) = self.signal("PROTOCOL")
            && protocol != "http/protobuf"
        {
            self.ignored.push(format!("{name}={protocol}: weir speaks http/protobuf"));
        }
        let uri: Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let mut resource = self.pairs("OTEL_RESOURCE_ATTRIBUTES");
        let named = resource.iter().position(|(key, _)| key == "service.name");
        let named = named.map(|at| resource.remove(at).1);
        Some(Target {
            host,
            port: uri.port_u16().unwrap_or(80),
            authority: uri.authority()?.as_str().rsplit('@').next()?.to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: self.headers(),
            timeout: self.timeout(),
            service: self.get("OTEL_SERVICE_NAME").or(named),
            resource,
            url: without_secrets(&uri).into(),
        })
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    /// The variable of spans, else that of all signals, with its name.
    fn signal(&self, name: &str) -> Option<(String, String)> {
        ["TRACES_", ""].into_iter().find_map(|signal| {
            let name = format!("OTEL_EXPORTER_OTLP_{signal}{name}");
            let value = self.get(&name)?;
            Some((name, value))
        })
    }

    fn is_off(&self) -> bool {
        let is = |name, value| self.get(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
        is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none")
    }

    fn url(&mut self) -> Option<String> {
        let (name, url) = self.signal("ENDPOINT")?;
        if let Some(problem) = url_problem(&url) {
            self.ignored.push(format!("{name}: {problem}"));
            return None;
        }
        // That of spans is taken as it is.
        Some(if name.contains("TRACES") { url } else { below(&url) })
    }

    fn timeout(&mut self) -> Duration {
        let Some((name, value)) = self.signal("TIMEOUT") else { return TIMEOUT };
        match value.parse() {
            Ok(millis) if millis > 0 => Duration::from_millis(millis),
            _ => {
                self.ignored.push(format!("{name}={value}: not a number of milliseconds"));
                TIMEOUT
            }
        }
    }

    fn headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        let Some((variable, _)) = self.signal("HEADERS") else { return Vec::new() };
        let mut headers = Vec::new();
        for (name, value) in self.pairs(&variable) {
            match (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                (Ok(name), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.push((name, value));
                }
                _ => self.ignored.push(format!("{variable}: {name:?} is no header field")),
            }
        }
        headers
    }

    /// `key=value,…`, values with percent-encoding (W3C Baggage).
    fn pairs(&mut self, variable: &str) -> Vec<(String, String)> {
        let Some(text) = self.get(variable) else { return Vec::new() };
        let mut pairs = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let pair = item.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
            let decoded = pair.and_then(|(key, value)| {
                let value = percent_decode_str(value).decode_utf8().ok()?;
                (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
            });
            match decoded {
                Some(pair) => pairs.push(pair),
                // The value may be a secret.
                None => self.ignored.push(format!("{variable}: an item is not key=value")),
            }
        }
        pairs
    }
}

// === helpers ===

/// The URL of spans below that of all signals.
fn below(base: &str) -> String {
    format!("{}/v1/traces", base.trim_end_matches('/'))
}

/// Without user and password, and without the query.
fn without_secrets(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let authority = authority.rsplit('@').next().unwrap_or_default();
    format!("http://{authority}{}", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(endpoint: &str, variables: &[(&str, &str)]) -> (Option<Target>, Vec<String>) {
        let endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
        let config = Otlp { endpoint, ..Otlp::default() };
        Target::find(&config, |name| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        })
    }

    fn target(endpoint: &str, variables: &[(&str, &str)]) -> Target {
        match find(endpoint, variables) {
            (Some(target), ignored) if ignored.is_empty() => target,
            other => panic!("{other:?}"),
        }
    }

    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    #[test]
    fn the_configuration_counts_before_the_environment() {
        assert_eq!(find("", &[]), (None, Vec::new()));
        let url = |endpoint, variables: &[_]| target(endpoint, variables).url.to_string();
        let all = [(BASE, "http://env:4318/"), (TRACES, "http://env:9/mine?x=y")];
        assert_eq!(url("http://cfg:4318", &all), "http://cfg:4318/v1/traces");
        assert_eq!(url("http://cfg/otlp/", &[]), "http://cfg/otlp/v1/traces");
        assert_eq!(url("", &all[..1]), "http://env:4318/v1/traces");
        assert_eq!(target("", &all).path, "/mine?x=y");
        assert_eq!(find("", &[(BASE, "")]).0, None, "empty is unset");
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(find("", &[all[0], off]).0, None);
            assert!(find("http://cfg", &[off]).0.is_some());
        }
    }

    #[test]
    fn a_target_is_host_port_and_path() {
        let it = target("http://user:word@[::1]:4318", &[]);
        assert_eq!((it.host.as_str(), it.port, it.path.as_str()), ("::1", 4318, "/v1/traces"));
        assert_eq!(it.authority, "[::1]:4318");
        assert_eq!(&*it.url, "http://[::1]:4318/v1/traces", "no secret is shown");
        assert_eq!(target("http://collector", &[]).port, 80);
    }

    #[test]
    fn headers_time_and_resource_are_those_of_the_environment() {
        let it = target(
            "http://c",
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20eDp5, x-scope=a"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,deployment.environment=a%2Cb"),
            ],
        );
        let headers: Vec<_> = it
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(headers, [("authorization", "Basic eDp5"), ("x-scope", "a")]);
        assert!(!format!("{it:?}").contains("eDp5"), "{it:?}");
        assert_eq!(it.timeout, Duration::from_millis(2500));
        assert_eq!(it.service.as_deref(), Some("shop"));
        assert_eq!(it.resource, [("deployment.environment".to_owned(), "a,b".to_owned())]);
        let named = &[("OTEL_SERVICE_NAME", "x"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=y")];
        assert_eq!(target("http://c", named).service.as_deref(), Some("x"));
        let both = &[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "c=d"),
        ];
        let it = target("http://c", both);
        assert_eq!((it.timeout.as_millis(), it.headers[0].0.as_str()), (2, "c"));
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_told_and_ignored() {
        for (name, value, expected) in [
            (BASE, "collector:4318", "no http URL"),
            (BASE, "https://collector", "https is not supported"),
            (TRACES, "https://collector", "https is not supported"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "weir speaks http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "not key=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "no header field"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a", "no header field"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=secret", "not key=value"),
        ] {
            let is_endpoint = name.ends_with("ENDPOINT");
            let (target, ignored) =
                find(if is_endpoint { "" } else { "http://c" }, &[(name, value)]);
            assert_eq!(target.is_none(), is_endpoint, "{name}");
            let [ignored] = &ignored[..] else { panic!("{name}={value}: {ignored:?}") };
            assert!(ignored.starts_with(name) && ignored.contains(expected), "{ignored}");
            assert!(!ignored.contains("secret"), "{ignored}");
        }
    }
}

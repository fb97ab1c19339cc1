//! Linkerd's annotations for retries, time limits and failing endpoints in the terms of the model. They are read
//! where `--linkerd-annotations` asks for it, and as strictly as everything else: what weir does not
//! know, or cannot do, is an error.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_http::{RetryOn, RetryPolicy, TimeLimits};

use super::object::full_name;
use crate::{
    balance::Breaker,
    route::{
        Backend, DEFAULT_BACKOFF, Filters, GRPC_RETRIES, GrpcMatch, Match, Parent, PathMatch,
        Route, RouteId, RouteKind, Rule,
    },
    units::parse_duration,
};

/// Annotations of these groups are weir's concern then.
pub(super) const GROUPS: [&str; 3] =
    ["retry.linkerd.io/", "timeout.linkerd.io/", "balancer.linkerd.io/"];

const ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";
/// What Linkerd does where the annotations say nothing more.
const MAX_FAILURES: u32 = 7;

/// What annotations say of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of HTTP.
    http: Option<Vec<(u16, u16)>>,
    /// Of gRPC.
    grpc: Option<Vec<u32>>,
    /// How often.
    attempts: Option<u8>,
    limits: TimeLimits,
}

/// The annotations of an object by their names, each of which has to be taken.
struct Annotations<'a>(BTreeMap<&'a str, &'a str>);

// === impl Annotations ===

impl<'a> Annotations<'a> {
    fn of(metadata: &'a ObjectMeta) -> Self {
        let all = metadata.annotations.iter().flatten();
        let is_meant = |name: &str| GROUPS.iter().any(|group| name.starts_with(group));
        let all = all.filter(|(name, _)| is_meant(name));
        Self(all.map(|(name, value)| (name.as_str(), value.as_str())).collect())
    }

    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let value = self.0.remove(name);
        value.map(read).transpose().map_err(|fault| format!("annotation {name}: {fault}"))
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>, String> {
        let read = |text| parse_duration(text).map_err(|error| error.to_string());
        // Zero is none.
        Ok(self.take(name, read)?.filter(|it| !it.is_zero()))
    }

    fn none_left(&self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("annotation {name}: weir does not know it; remove it")),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    /// What a route's annotations say.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of_route(metadata: &ObjectMeta, kind: RouteKind) -> Result<Self, String> {
        let mut annotations = Annotations::of(metadata);
        let wanted = Self::take(&mut annotations)?;
        annotations.none_left()?;
        match (kind, &wanted.http, &wanted.grpc) {
            (RouteKind::Http, _, Some(_)) => {
                Err("annotation retry.linkerd.io/grpc: it is for a GRPCRoute".to_owned())
            }
            (RouteKind::Grpc, Some(_), _) => {
                Err("annotation retry.linkerd.io/http: it is for an HTTPRoute".to_owned())
            }
            _ => Ok(wanted),
        }
    }

    fn take(annotations: &mut Annotations<'_>) -> Result<Self, String> {
        let http = annotations.take("retry.linkerd.io/http", |text| {
            text.split(',').map(|it| statuses(it.trim())).collect()
        })?;
        let grpc = annotations.take("retry.linkerd.io/grpc", |text| {
            text.split(',').map(|it| grpc_status(it.trim())).collect()
        })?;
        let attempts = annotations.take("retry.linkerd.io/limit", |text| {
            text.parse::<u8>().map_err(|_| format!("{text:?} is no number of retries up to 10"))
        })?;
        let per_try = annotations.duration("retry.linkerd.io/timeout")?;
        let request = annotations.duration("timeout.linkerd.io/request")?;
        let response = annotations.duration("timeout.linkerd.io/response")?;
        let idle = annotations.duration("timeout.linkerd.io/idle")?;
        // The shorter one counts, and none is longer than that of the request.
        let backend = per_try.into_iter().chain(response).min();
        let backend = backend.map(|it| request.map_or(it, |request| it.min(request)));
        Ok(Self {
            http,
            grpc,
            attempts: attempts.filter(|it| *it > 0),
            limits: TimeLimits { request, backend, idle },
        })
    }

    /// Adds it to a rule, which has the last word.
    pub(super) fn add_to(&self, rule: &mut Rule, kind: RouteKind) {
        if rule.limits.is_none() {
            rule.limits = self.limits;
        }
        if rule.retry.is_none() {
            rule.retry = self.retry(kind).map(Arc::new);
        }
    }

    fn retry(&self, kind: RouteKind) -> Option<RetryPolicy> {
        let on = match kind {
            RouteKind::Http => self.http.clone().map(RetryOn::Http),
            RouteKind::Grpc => self.grpc.clone().map(RetryOn::Grpc),
        };
        let nothing = match kind {
            RouteKind::Http => RetryOn::Http(Vec::new()),
            RouteKind::Grpc => RetryOn::Grpc(Vec::new()),
        };
        // A limit alone is for what has no answer.
        let on = on.or_else(|| self.attempts.map(|_| nothing))?;
        let attempts = self.attempts.unwrap_or(1);
        Some(RetryPolicy { on, attempts, backoff: DEFAULT_BACKOFF })
    }
}

/// What a Service's annotations say: how endpoints fail, and the routes that its requests follow where it has no
/// others.
///
/// # Errors
/// What is wrong with them.
pub(super) fn of_service(
    metadata: &ObjectMeta,
) -> Result<(Option<Breaker>, Vec<Arc<Route>>), String> {
    let mut annotations = Annotations::of(metadata);
    let breaker = breaker(&mut annotations)?;
    let wanted = Wanted::take(&mut annotations)?;
    annotations.none_left()?;
    if wanted == Wanted::default() {
        return Ok((breaker, Vec::new()));
    }
    let service: Arc<str> = full_name(metadata).into();
    let route = |kind, path, suffix: &str| -> Result<Arc<Route>, String> {
        let mut rule = Rule {
            matches: vec![Match { path, ..Match::default() }],
            backends: vec![Backend {
                service: Arc::clone(&service),
                port: None,
                weight: 1,
                filters: Filters::default(),
            }],
            ..Rule::default()
        };
        wanted.add_to(&mut rule, kind);
        rule.check()?;
        Ok(Arc::new(Route {
            id: RouteId { kind, name: format!("{service} ({suffix})").into() },
            namespace: metadata.namespace.as_deref().map(Into::into),
            created: None,
            parents: vec![Parent { service: Arc::clone(&service), port: None, section: None }],
            rules: vec![rule],
            notes: vec!["of annotations of the Service".to_owned()],
            is_default: true,
        }))
    };
    let mut routes = vec![route(RouteKind::Http, PathMatch::default(), "Service")?];
    if wanted.grpc.is_some() {
        // Of two that are equal otherwise the first by its name counts.
        let calls = PathMatch::Grpc(GrpcMatch::default());
        routes.push(route(RouteKind::Grpc, calls, "Service calls")?);
    }
    Ok((breaker, routes))
}

// === helpers ===

/// `balancer.linkerd.io/failure-accrual: consecutive`, with what comes with it.
fn breaker(annotations: &mut Annotations<'_>) -> Result<Option<Breaker>, String> {
    let number = |text: &str| match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text:?} is no number of failures")),
    };
    let mode = annotations.take(ACCRUAL, |text| match text {
        "consecutive" => Ok(()),
        _ => Err(format!("{text:?} is unknown; write \"consecutive\"")),
    })?;
    let name = |what: &str| format!("{ACCRUAL}-consecutive-{what}");
    let failures = annotations.take(&name("max-failures"), number)?;
    let base = annotations.duration(&name("min-penalty"))?;
    let max = annotations.duration(&name("max-penalty"))?;
    let jitter = annotations.take(&name("jitter-ratio"), |text| match text.parse::<f64>() {
        Ok(0.5) => Ok(()),
        _ => Err(format!("{text:?} is not what weir does, which is 0.5; remove it")),
    })?;
    if mode.is_none() {
        let is_any = failures.is_some() || base.is_some() || max.is_some() || jitter.is_some();
        return match is_any {
            true => Err(format!("annotation {ACCRUAL} is missing; write \"consecutive\"")),
            false => Ok(None),
        };
    }
    let usual = Breaker::default();
    let breaker = Breaker {
        consecutive_failures: failures.unwrap_or(MAX_FAILURES),
        base: base.unwrap_or(usual.base),
        max: max.unwrap_or(usual.max),
    };
    if breaker.base > breaker.max {
        return Err(format!(
            "annotation {}: it is longer than the max-penalty",
            name("min-penalty")
        ));
    }
    Ok(Some(breaker))
}

/// `5xx`, `gateway-error`, a status, or two with `-` between.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let fail = || {
        format!("{text:?} is unknown; write 5xx, gateway-error, a status such as 503, or 502-504")
    };
    let number = |text: &str| text.parse().map_err(|_| fail());
    match text.to_ascii_lowercase().as_str() {
        "5xx" => Ok((500, 599)),
        "gateway-error" => Ok((502, 504)),
        _ => match text.split_once('-') {
            Some((from, to)) => Ok((number(from)?, number(to)?)),
            None => number(text).map(|code| (code, code)),
        },
    }
}

fn grpc_status(text: &str) -> Result<u32, String> {
    let found = GRPC_RETRIES.iter().find(|it| it.0.eq_ignore_ascii_case(text)).map(|it| it.1);
    found.ok_or_else(|| {
        let names = GRPC_RETRIES.map(|it| it.0).join(", ");
        format!("{text:?} is unknown; write {names}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Delta, Origin, PortSpec, ServiceSpec, Services};

    fn metadata(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ObjectMeta {
            name: Some("a".into()),
            namespace: Some("shop".into()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_route_has_the_retries_and_limits_of_its_annotations() {
        let wanted = Wanted::of_route(
            &metadata(&[
                ("retry.linkerd.io/http", "5xx,gateway-error, 429,502-503"),
                ("retry.linkerd.io/limit", "2"),
                ("retry.linkerd.io/timeout", "300ms"),
                ("timeout.linkerd.io/request", "2s"),
                ("timeout.linkerd.io/response", "1s"),
                ("timeout.linkerd.io/idle", "0s"),
                ("config.linkerd.io/opaque-ports", "1"),
            ]),
            RouteKind::Http,
        )
        .unwrap();
        let mut rule = Rule::default();
        wanted.add_to(&mut rule, RouteKind::Http);
        let retry = rule.retry.unwrap();
        let codes = RetryOn::Http(vec![(500, 599), (502, 504), (429, 429), (502, 503)]);
        assert_eq!((&retry.on, retry.attempts), (&codes, 2));
        let limits = TimeLimits {
            request: Some(Duration::from_secs(2)),
            backend: Some(Duration::from_millis(300)),
            idle: None,
        };
        assert_eq!(rule.limits, limits);
        // What the rule says itself counts.
        let own = TimeLimits { idle: Some(Duration::from_secs(1)), ..TimeLimits::default() };
        let mut rule = Rule { limits: own, ..Rule::default() };
        wanted.add_to(&mut rule, RouteKind::Http);
        assert_eq!(rule.limits, own);
    }

    #[test]
    fn a_service_has_a_breaker_and_routes_of_its_own() {
        let (breaker, routes) = of_service(&metadata(&[
            ("balancer.linkerd.io/failure-accrual", "consecutive"),
            ("balancer.linkerd.io/failure-accrual-consecutive-max-penalty", "30s"),
            ("retry.linkerd.io/grpc", "unavailable,internal"),
            ("timeout.linkerd.io/request", "1s"),
        ]))
        .unwrap();
        let (base, max) = (Duration::from_secs(1), Duration::from_secs(30));
        assert_eq!(breaker, Some(Breaker { consecutive_failures: 7, base, max }));
        let names: Vec<_> = routes.iter().map(|it| it.id.to_string()).collect();
        assert_eq!(names, ["HTTPRoute shop/a (Service)", "GRPCRoute shop/a (Service calls)"]);
        assert!(routes[0].rules[0].retry.is_none() && routes[0].is_default);
        assert_eq!(routes[1].rules[0].retry.as_ref().unwrap().on, RetryOn::Grpc(vec![14, 13]));
        assert_eq!(of_service(&metadata(&[])), Ok((None, Vec::new())));
    }

    #[test]
    fn routes_of_a_service_count_where_it_has_no_others() {
        let services = Services::default();
        let (_, routes) = of_service(&metadata(&[("timeout.linkerd.io/request", "1s")])).unwrap();
        let frontends = vec!["10.96.0.1:80".parse().unwrap()];
        let port = PortSpec { name: "".into(), frontends, app_protocol: None };
        let spec = ServiceSpec { ports: vec![port], routes, ..ServiceSpec::default() };
        let apply = |delta| services.apply(Origin::Cluster, [delta]).unwrap();
        let define = |spec: &ServiceSpec| apply(Delta::Service("shop/a".into(), spec.clone()));
        let in_force = || -> Vec<String> {
            let all = services.report_routes().routes.into_iter();
            all.filter(|it| !it.in_force.is_empty()).map(|it| it.route).collect()
        };
        define(&spec);
        assert_eq!(in_force(), ["shop/a (Service)"]);
        let route = |name: &str, namespace: &str| Route {
            id: RouteId { kind: RouteKind::Http, name: name.into() },
            namespace: Some(namespace.into()),
            is_default: false,
            ..(*spec.routes[0]).clone()
        };
        let own = route("shop/r", "shop");
        apply(Delta::Route(own.clone()));
        assert_eq!(in_force(), ["shop/r"]);
        apply(Delta::NoRoute(own.id));
        // Those of another namespace are for its own clients.
        apply(Delta::Route(route("web/r", "web")));
        assert_eq!(in_force(), ["shop/a (Service)", "web/r"]);
        define(&ServiceSpec { routes: Vec::new(), ..spec.clone() });
        assert_eq!(in_force(), ["web/r"]);
        define(&spec);
        apply(Delta::NoService("shop/a".into()));
        assert_eq!(in_force(), [""; 0]);
    }

    #[test]
    fn what_is_unknown_is_named() {
        let accrual = "balancer.linkerd.io/failure-accrual";
        for (name, value, expected) in [
            (
                "retry.linkerd.io/http",
                "4xx",
                "annotation retry.linkerd.io/http: \"4xx\" is unknown",
            ),
            ("retry.linkerd.io/http", "302", "retry: the code 302 is none of a failure"),
            ("retry.linkerd.io/grpc", "ok", "annotation retry.linkerd.io/grpc: \"ok\" is unknown"),
            ("retry.linkerd.io/limit", "many", "is no number of retries"),
            ("retry.linkerd.io/limit", "11", "retry: 11 attempts; write 1 to 10"),
            ("retry.linkerd.io/timeout", "1", "annotation retry.linkerd.io/timeout: "),
            ("timeout.linkerd.io/requests", "1s", "weir does not know it"),
            (accrual, "unified", "annotation balancer.linkerd.io/failure-accrual: \"unified\""),
        ] {
            let error = of_service(&metadata(&[(name, value)])).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let failures = format!("{accrual}-consecutive-max-failures");
        let jitter = format!("{accrual}-consecutive-jitter-ratio");
        let least = format!("{accrual}-consecutive-min-penalty");
        for (more, value, expected) in [
            (&failures, "0", "is no number of failures"),
            (&jitter, "0.1", "is not what weir does"),
            (&least, "2m", "it is longer than the max-penalty"),
        ] {
            let all = metadata(&[(accrual, "consecutive"), (more, value)]);
            let error = of_service(&all).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
        let error = of_service(&metadata(&[(&failures, "3")])).unwrap_err();
        assert!(error.contains("is missing; write \"consecutive\""), "{error}");
        let of_http = metadata(&[("retry.linkerd.io/grpc", "internal")]);
        assert!(Wanted::of_route(&of_http, RouteKind::Http).is_err());
    }
}

//! HTTPRoutes and GRPCRoutes of the Gateway API (`gateway.rs`) in the terms of the model.

use std::{borrow::Cow, marker::PhantomData, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use weir_http::{FieldEdit, RetryOn, RetryPolicy, TimeLimits};

use super::{
    super::{Delta, Problem, error::Fault},
    gateway::{
        BackendRef, CallMatch, CallMethod, FilterBody, FilterKind, GROUP, Header, HttpMatch,
        Modifier, NamedMatch, PathBody, PathChangeBody, PathKind, RetryBody, RouteBody, RuleBody,
        TextKind, TimeoutsBody,
    },
    linkerd::Wanted,
    object::{AFFINITY, FAULT, full_name, slim},
};
use crate::route::{
    Affinity, Backend, DEFAULT_BACKOFF, Faults, Filters, GrpcMatch, Match, Parent, PathChange,
    PathMatch, Pattern, Redirect, Rewrite, Route, RouteId, RouteKind, Rule, TextMatch, edits,
    parse_duration,
};

/// A route as an API server has it. What is in it is read strictly only where a Service is its parent: others
/// are not weir's.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub(crate) struct RouteObject<M> {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
    #[serde(skip)]
    _of: PhantomData<M>,
}

/// What the status of a route is written from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteSeen {
    pub(crate) id: RouteId,
    /// With namespace, name, version and generation.
    pub(crate) metadata: ObjectMeta,
    /// Its parents that are services, as they are written and in the order of the model.
    pub(crate) parents: Vec<Value>,
    /// What has been said of its parents, by all controllers (`status.parents`).
    pub(crate) said: Vec<Value>,
}

/// What annotations say of all rules of a route, for which the Gateway API has no fields.
#[derive(Debug, Default)]
struct Extra {
    faults: Option<Arc<Faults>>,
    affinity: Option<Affinity>,
    /// Linkerd's, where those are read.
    wanted: Wanted,
}

/// An HTTPRoute.
pub(crate) type HttpRouteObject = RouteObject<HttpMatch>;
/// A GRPCRoute.
pub(crate) type GrpcRouteObject = RouteObject<CallMatch>;

/// The matches of a kind of route.
pub(crate) trait MatchBody: DeserializeOwned {
    const KIND: RouteKind;
    const PLURAL: &'static str;

    fn convert(self) -> Result<Match, String>;
}

/// The route that an object is.
///
/// # Errors
/// What is wrong with the object, which is not to be taken over then.
pub(super) fn route<M: MatchBody>(
    metadata: &ObjectMeta,
    body: RouteBody<M>,
    linkerd: bool,
) -> Result<Route, Problem> {
    let name: Arc<str> = full_name(metadata).into();
    let id = RouteId { kind: M::KIND, name };
    let place = id.to_string();
    convert(metadata, id, body, linkerd)
        .map_err(|fault| Problem { place, fault: Fault::Other(fault) })
}

// === impl RouteObject ===

impl<M: MatchBody> RouteObject<M> {
    pub(crate) fn seen(&self) -> RouteSeen {
        let all = |it: &Value| it.as_array().cloned().unwrap_or_default();
        let mut parents = all(&self.spec["parentRefs"]);
        parents.retain(|it| it["kind"] == "Service" && it["group"] == "");
        RouteSeen {
            id: RouteId { kind: M::KIND, name: full_name(&self.metadata).into() },
            metadata: self.metadata.clone(),
            parents,
            said: all(&self.status["parents"]),
        }
    }

    /// What the object changes. One that is wrong leaves the route as it was, and one without a Service as
    /// parent is none.
    pub(crate) fn delta(&self, linkerd: bool) -> Delta {
        let id = RouteId { kind: M::KIND, name: full_name(&self.metadata).into() };
        let parents = self.spec["parentRefs"].as_array().into_iter().flatten();
        if !parents.into_iter().any(|it| it["kind"] == "Service") {
            return Delta::NoRoute(id);
        }
        let body = serde_json::from_value::<RouteBody<M>>(self.spec.clone());
        let read = body.map_err(|error| error.to_string()).and_then(|body| {
            route(&self.metadata, body, linkerd).map_err(|problem| problem.fault.to_string())
        });
        read.map_or_else(|fault| Delta::RefusedRoute(id, fault), Delta::Route)
    }
}

impl<M: MatchBody> kube::Resource for RouteObject<M> {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        M::KIND.name().into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        M::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

// === impl Extra ===

impl Extra {
    fn of(metadata: &ObjectMeta, linkerd: Option<RouteKind>) -> Result<Self, String> {
        let annotation = |name| metadata.annotations.as_ref()?.get(name);
        let wrong = |name: &str, fault: String| format!("annotation {name}: {fault}");
        let faults = annotation(FAULT).map(|text| Faults::parse(text)).transpose();
        let affinity = annotation(AFFINITY).map(|text| Affinity::parse(text)).transpose();
        Ok(Self {
            faults: faults.map_err(|fault| wrong(FAULT, fault))?.map(Arc::new),
            affinity: affinity.map_err(|fault| wrong(AFFINITY, fault))?,
            wanted: match linkerd {
                Some(kind) => Wanted::of_route(metadata, kind)?,
                None => Wanted::default(),
            },
        })
    }
}

// === impl HttpMatch ===

impl MatchBody for HttpMatch {
    const KIND: RouteKind = RouteKind::Http;
    const PLURAL: &'static str = "httproutes";

    fn convert(self) -> Result<Match, String> {
        let path = match self.path {
            None => PathMatch::default(),
            Some(PathBody { kind: PathKind::Exact, value }) => PathMatch::Exact(value.into()),
            Some(PathBody { kind: PathKind::PathPrefix, value }) => PathMatch::Prefix(value.into()),
            Some(PathBody { kind: PathKind::RegularExpression, value }) => {
                PathMatch::Pattern(Pattern::new(&value)?)
            }
        };
        Ok(Match {
            path,
            method: self.method.map(|method| method.0),
            headers: named(self.headers, str::eq_ignore_ascii_case)?,
            query: named(self.query_params, PartialEq::eq)?,
        })
    }
}

// === impl CallMatch ===

impl MatchBody for CallMatch {
    const KIND: RouteKind = RouteKind::Grpc;
    const PLURAL: &'static str = "grpcroutes";

    fn convert(self) -> Result<Match, String> {
        let path = match self.method {
            None => GrpcMatch::default(),
            Some(CallMethod { service: None, method: None, .. }) => {
                return Err("a match of a method names neither a service nor a method".to_owned());
            }
            Some(CallMethod { kind, service, method }) => GrpcMatch {
                service: service.map(|it| text(kind, &it)).transpose()?,
                method: method.map(|it| text(kind, &it)).transpose()?,
            },
        };
        let headers = named(self.headers, str::eq_ignore_ascii_case)?;
        Ok(Match { path: PathMatch::Grpc(path), headers, ..Match::default() })
    }
}

// === helpers ===

fn convert<M: MatchBody>(
    metadata: &ObjectMeta,
    id: RouteId,
    body: RouteBody<M>,
    linkerd: bool,
) -> Result<Route, String> {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let RouteBody { parent_refs, hostnames, rules } = body;
    let mut notes = Vec::new();
    if !hostnames.is_empty() {
        notes.push("hostnames have no effect for a parent that is a Service".to_owned());
    }
    let mut parents = Vec::new();
    for parent in parent_refs {
        if parent.kind != "Service" || !parent.group.is_empty() {
            notes.push(format!("the parent {} {} is not weir's", parent.kind, parent.name));
            continue;
        }
        let in_namespace = parent.namespace.as_deref().unwrap_or(namespace);
        let service = format!("{in_namespace}/{}", parent.name).into();
        let section = parent.section_name.map(Into::into);
        parents.push(Parent { service, port: parent.port, section });
    }
    if parents.is_empty() {
        let wanted = "write one with group \"\" and kind Service";
        return Err(format!("it has no parent that is a Service; {wanted}"));
    }
    if rules.is_empty() {
        return Err("it has no rules".to_owned());
    }
    let extra = Extra::of(metadata, linkerd.then_some(M::KIND))?;
    let rules = rules.into_iter().enumerate().map(|(at, body)| {
        let named = body.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        rule(body, namespace, &extra).map_err(|fault| format!("rules[{at}]{named}: {fault}"))
    });
    Ok(Route {
        id,
        namespace: Some(namespace.into()),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string().into()),
        parents,
        rules: rules.collect::<Result<_, _>>()?,
        notes,
        is_default: false,
    })
}

fn rule<M: MatchBody>(body: RuleBody<M>, namespace: &str, extra: &Extra) -> Result<Rule, String> {
    let matches =
        body.matches.into_iter().map(MatchBody::convert).collect::<Result<Vec<_>, _>>()?;
    let matches = match (matches.is_empty(), M::KIND) {
        (true, RouteKind::Grpc) => {
            vec![Match { path: PathMatch::Grpc(GrpcMatch::default()), ..Match::default() }]
        }
        _ => matches,
    };
    let backends = body.backend_refs.into_iter().map(|it| {
        let BackendRef { group, kind, name, port, weight, .. } = it;
        if kind != "Service" || !group.is_empty() {
            return Err(format!("the backend {kind} {name} is no Service"));
        }
        let Some(port) = port else {
            return Err(format!("the backend {name} has no port; write port"));
        };
        let namespace = it.namespace.as_deref().unwrap_or(namespace);
        let service = format!("{namespace}/{name}").into();
        Ok(Backend { service, port: Some(port), weight, filters: filters(it.filters)? })
    });
    let mut rule = Rule {
        name: body.name.map(Into::into),
        matches,
        filters: filters(body.filters)?,
        backends: backends.collect::<Result<_, String>>()?,
        limits: match (body.timeouts, M::KIND) {
            (None, _) => TimeLimits::default(),
            (Some(it), RouteKind::Http) => limits(&it)?,
            (Some(_), RouteKind::Grpc) => {
                return Err("a GRPCRoute has no timeouts; write an HTTPRoute".to_owned());
            }
        },
        retry: match (body.retry, M::KIND) {
            (None, _) => None,
            (Some(it), RouteKind::Http) => Some(retry(it)?),
            (Some(_), RouteKind::Grpc) => {
                return Err("a GRPCRoute has no retry; write an HTTPRoute".to_owned());
            }
        },
        faults: extra.faults.clone(),
        affinity: extra.affinity.clone(),
        ..Rule::default()
    };
    extra.wanted.add_to(&mut rule, M::KIND);
    rule.check()?;
    Ok(rule)
}

fn retry(it: RetryBody) -> Result<Arc<RetryPolicy>, String> {
    let RetryBody { codes, attempts, backoff } = it;
    let backoff = match backoff {
        Some(text) => parse_duration(&text).map_err(|fault| format!("retry.backoff: {fault}"))?,
        None => DEFAULT_BACKOFF,
    };
    let on = RetryOn::Http(codes.into_iter().map(|code| (code, code)).collect());
    Ok(Arc::new(RetryPolicy { on, attempts, backoff }))
}

/// Zero is none.
fn limits(it: &TimeoutsBody) -> Result<TimeLimits, String> {
    let limit = |name: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let read = parse_duration(text).map_err(|fault| format!("timeouts.{name}: {fault}"))?;
        Ok::<_, String>(Some(read).filter(|it| !it.is_zero()))
    };
    Ok(TimeLimits {
        request: limit("request", &it.request)?,
        backend: limit("backendRequest", &it.backend_request)?,
        idle: None,
    })
}

fn filters(bodies: Vec<FilterBody>) -> Result<Filters, String> {
    let text = |it: Option<String>| it.map(Into::into);
    let mut filters = Filters::default();
    for body in bodies {
        let kind = body.kind;
        match (kind, body) {
            (
                FilterKind::RequestHeaderModifier,
                FilterBody { request_header_modifier: Some(it), .. },
            ) => filters.request.extend(modifier(it)),
            (
                FilterKind::ResponseHeaderModifier,
                FilterBody { response_header_modifier: Some(it), .. },
            ) => filters.response.extend(modifier(it)),
            (FilterKind::RequestRedirect, FilterBody { request_redirect: Some(it), .. }) => {
                filters.redirect = Some(Redirect {
                    scheme: text(it.scheme),
                    hostname: text(it.hostname),
                    port: it.port,
                    path: it.path.map(path_change),
                    status: it.status_code,
                });
            }
            (FilterKind::UrlRewrite, FilterBody { url_rewrite: Some(it), .. }) => {
                let path = it.path.map(path_change);
                filters.rewrite = Some(Rewrite { hostname: text(it.hostname), path });
            }
            _ => {
                return Err(format!("a filter of type {kind:?} does not say what it changes"));
            }
        }
    }
    Ok(filters)
}

fn modifier(it: Modifier) -> Vec<FieldEdit> {
    let pair = |Header { name, value }| (name.into(), value.into());
    let remove = it.remove.into_iter().map(Into::into);
    edits(it.set.into_iter().map(pair), it.add.into_iter().map(pair), remove)
}

fn path_change(body: PathChangeBody) -> PathChange {
    match body {
        PathChangeBody::ReplaceFullPath { replace_full_path } => {
            PathChange::Full(replace_full_path.into())
        }
        PathChangeBody::ReplacePrefixMatch { replace_prefix_match } => {
            PathChange::Prefix(replace_prefix_match.into())
        }
    }
}

fn text(kind: TextKind, value: &str) -> Result<TextMatch, String> {
    Ok(match kind {
        TextKind::Exact => TextMatch::Exact(value.into()),
        TextKind::RegularExpression => TextMatch::Pattern(Pattern::new(value)?),
    })
}

/// Of several with one name the first counts (`HTTPRouteMatch.headers`).
fn named(
    matches: Vec<NamedMatch>,
    is_same: impl Fn(&str, &str) -> bool,
) -> Result<Vec<(Box<str>, TextMatch)>, String> {
    let mut all: Vec<(Box<str>, TextMatch)> = Vec::new();
    for it in matches {
        if !all.iter().any(|known| is_same(&known.0, &it.name)) {
            all.push((it.name.as_str().into(), text(it.kind, &it.value)?));
        }
    }
    Ok(all)
}

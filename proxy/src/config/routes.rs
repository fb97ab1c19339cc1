//! Routes without a cluster: `[[route]]`.

mod policy;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Visitor, value::MapAccessDeserializer},
};
use weir_http::FieldEdit;

use self::policy::{AffinityConfig, FaultConfig, RateLimited, Retry, Timeouts};
use super::list::Listed;
use crate::route::{
    Backend, Filters, GrpcMatch, Match, Parent, PathChange, PathMatch, Pattern, Redirect, Rewrite,
    Route, RouteId, RouteKind, Rule, TextMatch, edits,
};

/// Rules for the requests to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct RouteConfig {
    written: Written,
    /// Checked, and as the model has it.
    route: Arc<Route>,
}

/// As it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The service, with or without a port: `shop/checkout:80`.
    parent: String,
    /// For records; absent for that of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    rule: Vec<RuleConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Http,
    Grpc,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    matches: Vec<MatchConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    backends: Vec<BackendConfig>,
    #[serde(default, skip_serializing_if = "Modifier::is_empty")]
    request_headers: Modifier,
    #[serde(default, skip_serializing_if = "Modifier::is_empty")]
    response_headers: Modifier,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<RedirectConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewrite: Option<RewriteConfig>,
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    timeouts: Timeouts,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<RateLimited>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<FaultConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<AffinityConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchConfig {
    /// The first elements of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_regex: Option<String>,
    /// Of HTTP, or of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Text>,
    /// Of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Text>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Text>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    query: BTreeMap<String, Text>,
}

/// `"this"`, or `{ regex = "an expression" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Text {
    Exact(String),
    Regex(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Regex {
    regex: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendConfig {
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default, skip_serializing_if = "Modifier::is_empty")]
    request_headers: Modifier,
    #[serde(default, skip_serializing_if = "Modifier::is_empty")]
    response_headers: Modifier,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Modifier {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    set: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    add: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default = "found")]
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
}

// === impl RouteConfig ===

impl RouteConfig {
    /// As the model has it.
    #[must_use]
    pub const fn route(&self) -> &Arc<Route> {
        &self.route
    }
}

impl TryFrom<Written> for RouteConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let route =
            written.route().map_err(|fault| format!("route {:?}: {fault}", written.name()))?;
        Ok(Self { written, route: Arc::new(route) })
    }
}

impl From<RouteConfig> for Written {
    fn from(config: RouteConfig) -> Self {
        config.written
    }
}

impl Listed for RouteConfig {
    const NAME: &'static str = "route";

    /// Each name once.
    fn check(&self, before: &[Self]) -> Result<(), String> {
        let id = &self.route.id;
        match before.iter().any(|other| other.route.id == *id) {
            true => Err(format!("route {:?} is there twice; give each a name of its own", id.name)),
            false => Ok(()),
        }
    }
}

// === impl Written ===

impl Written {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.parent)
    }

    /// `SERVICE`, `SERVICE:80`, or `SERVICE:web` by the name of the port.
    fn parent(&self) -> Result<Parent, String> {
        let Some((service, port)) = self.parent.rsplit_once(':') else {
            return Ok(Parent { service: self.parent.as_str().into(), port: None, section: None });
        };
        let number = port.parse().ok().filter(|port| *port != 0);
        // As ports of a Service are named (RFC 1123 §2.1, with a letter in it).
        let is_name = port.bytes().any(|it| it.is_ascii_lowercase())
            && port.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !port.starts_with('-')
            && !port.ends_with('-');
        if number.is_none() && !is_name {
            return Err(format!(
                "the parent {:?} has no port; write SERVICE:PORT, with the number or the name of the port",
                self.parent
            ));
        }
        let section = number.is_none().then(|| port.into());
        Ok(Parent { service: service.into(), port: number, section })
    }

    fn route(&self) -> Result<Route, String> {
        let parent = self.parent()?;
        if self.rule.is_empty() {
            return Err("it has no rules; write [[route.rule]]".to_owned());
        }
        let kind = match self.kind {
            Kind::Http => RouteKind::Http,
            Kind::Grpc => RouteKind::Grpc,
        };
        let rules = self.rule.iter().enumerate().map(|(at, rule)| {
            let named = rule.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            rule.rule(kind).map_err(|fault| format!("rule {at}{named}: {fault}"))
        });
        Ok(Route {
            id: RouteId { kind, name: self.name().into() },
            namespace: None,
            created: None,
            parents: vec![parent],
            rules: rules.collect::<Result<_, _>>()?,
            notes: Vec::new(),
            is_default: false,
        })
    }
}

// === impl RuleConfig ===

impl RuleConfig {
    fn rule(&self, kind: RouteKind) -> Result<Rule, String> {
        let any = MatchConfig::default();
        let matches = if self.matches.is_empty() { &[any][..] } else { &self.matches };
        let backends = self.backends.iter().map(|it| Backend {
            service: it.service.as_str().into(),
            port: it.port,
            weight: it.weight,
            filters: Filters {
                request: it.request_headers.edits(),
                response: it.response_headers.edits(),
                ..Filters::default()
            },
        });
        let text = |it: &Option<String>| it.as_deref().map(Into::into);
        let redirect = self.redirect.as_ref().map(|it| {
            Ok::<_, String>(Redirect {
                scheme: text(&it.scheme),
                hostname: text(&it.hostname),
                port: it.port,
                path: change(&it.path, &it.prefix)?,
                status: it.status,
            })
        });
        let rewrite = self.rewrite.as_ref().map(|it| {
            let path = change(&it.path, &it.prefix)?;
            Ok::<_, String>(Rewrite { hostname: text(&it.hostname), path })
        });
        let rule = Rule {
            name: text(&self.name),
            matches: matches.iter().map(|it| it.of(kind)).collect::<Result<_, String>>()?,
            filters: Filters {
                request: self.request_headers.edits(),
                response: self.response_headers.edits(),
                redirect: redirect.transpose()?,
                rewrite: rewrite.transpose()?,
            },
            backends: backends.collect(),
            limits: self.timeouts.limits()?,
            retry: self.retry.as_ref().map(|it| it.policy(kind)).transpose()?,
            rate: self.rate_limit.as_ref().map(RateLimited::rate).transpose()?,
            faults: self.fault.as_ref().map(FaultConfig::faults).transpose()?,
            affinity: self.affinity.as_ref().map(AffinityConfig::affinity).transpose()?,
            tally: Arc::default(),
        };
        if rule.backends.is_empty() && rule.filters.redirect.is_none() {
            return Err("it leads nowhere; write backends or redirect".to_owned());
        }
        rule.check()?;
        Ok(rule)
    }
}

// === impl MatchConfig ===

impl MatchConfig {
    fn of(&self, kind: RouteKind) -> Result<Match, String> {
        let text = |it: &Text| it.of();
        let path = match (&self.path, &self.path_exact, &self.path_regex) {
            (None, None, None) => None,
            (Some(prefix), None, None) => Some(PathMatch::Prefix(prefix.as_str().into())),
            (None, Some(exact), None) => Some(PathMatch::Exact(exact.as_str().into())),
            (None, None, Some(regex)) => Some(PathMatch::Pattern(Pattern::new(regex)?)),
            _ => return Err("path, path_exact and path_regex exclude each other".to_owned()),
        };
        let (path, method) = match (kind, path, &self.method) {
            (RouteKind::Http, _, _) if self.service.is_some() => {
                return Err("a service is matched in a route of kind \"grpc\" only".to_owned());
            }
            (RouteKind::Http, _, Some(Text::Regex(_))) => {
                return Err("the method of HTTP is no expression".to_owned());
            }
            (RouteKind::Http, path, method) => {
                let method = method.as_ref().and_then(|it| match it {
                    Text::Exact(method) => Some(method.as_str().into()),
                    Text::Regex(_) => None,
                });
                (path.unwrap_or_default(), method)
            }
            (RouteKind::Grpc, Some(_), _) => {
                return Err("a call is matched by service and method, not by its path".to_owned());
            }
            (RouteKind::Grpc, None, method) => {
                let service = self.service.as_ref().map(text).transpose()?;
                let method = method.as_ref().map(text).transpose()?;
                (PathMatch::Grpc(GrpcMatch { service, method }), None)
            }
        };
        let named = |all: &BTreeMap<String, Text>| {
            let each = |(name, value): (&String, &Text)| Ok((name.as_str().into(), value.of()?));
            all.iter().map(each).collect::<Result<_, String>>()
        };
        Ok(Match { path, method, headers: named(&self.headers)?, query: named(&self.query)? })
    }
}

// === impl Text ===

impl Text {
    fn of(&self) -> Result<TextMatch, String> {
        Ok(match self {
            Self::Exact(text) => TextMatch::Exact(text.as_str().into()),
            Self::Regex(Regex { regex }) => TextMatch::Pattern(Pattern::new(regex)?),
        })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"TEXT\" or { regex = \"EXPRESSION\" }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::Exact(text.to_owned()))
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> Result<Text, M::Error> {
                Regex::deserialize(MapAccessDeserializer::new(map)).map(Text::Regex)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

// === impl Modifier ===

impl Modifier {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    fn edits(&self) -> Vec<FieldEdit> {
        let pair =
            |(name, value): (&'_ String, &'_ String)| (name.as_str().into(), value.as_str().into());
        let remove = self.remove.iter().map(|name| name.as_str().into());
        edits(self.set.iter().map(pair), self.add.iter().map(pair), remove)
    }
}

// === helpers ===

fn change(full: &Option<String>, prefix: &Option<String>) -> Result<Option<PathChange>, String> {
    match (full, prefix) {
        (None, None) => Ok(None),
        (Some(full), None) => Ok(Some(PathChange::Full(full.as_str().into()))),
        (None, Some(prefix)) => Ok(Some(PathChange::Prefix(prefix.as_str().into()))),
        (Some(_), Some(_)) => Err("path and prefix exclude each other".to_owned()),
    }
}

const fn one() -> u32 {
    1
}

const fn found() -> u16 {
    302
}

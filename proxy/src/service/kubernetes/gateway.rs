//! HTTPRoutes and GRPCRoutes as they are written. A field that weir does not know is an error: a route
//! without it would do something else.

use std::fmt;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// The group of the Gateway API.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// What a route of a kind says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "M: DeserializeOwned"))]
pub(super) struct RouteBody<M> {
    #[serde(default)]
    pub(super) parent_refs: Vec<ParentRef>,
    #[serde(default)]
    pub(super) hostnames: Vec<String>,
    #[serde(default)]
    pub(super) rules: Vec<RuleBody<M>>,
}

/// Of an HTTPRoute.
pub(super) type HttpBody = RouteBody<HttpMatch>;
/// Of a GRPCRoute.
pub(super) type GrpcBody = RouteBody<CallMatch>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ParentRef {
    #[serde(default = "gateway_group")]
    pub(super) group: String,
    #[serde(default = "gateway")]
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "M: DeserializeOwned"))]
pub(super) struct RuleBody<M> {
    pub(super) name: Option<String>,
    #[serde(default = "Vec::new")]
    pub(super) matches: Vec<M>,
    #[serde(default)]
    pub(super) filters: Vec<FilterBody>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRef>,
    /// Of an HTTPRoute only.
    pub(super) timeouts: Option<TimeoutsBody>,
    /// The same.
    pub(super) retry: Option<RetryBody>,
}

/// Which requests are sent once more (`HTTPRouteRetry`, of the experimental channel).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {
    #[serde(default)]
    pub(super) codes: Vec<u16>,
    #[serde(default = "one_attempt")]
    pub(super) attempts: u8,
    pub(super) backoff: Option<String>,
}

/// How long requests may take (`HTTPRouteTimeouts`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TimeoutsBody {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpMatch {
    pub(super) path: Option<PathBody>,
    #[serde(default)]
    pub(super) headers: Vec<NamedMatch>,
    #[serde(default)]
    pub(super) query_params: Vec<NamedMatch>,
    pub(super) method: Option<Method>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CallMatch {
    pub(super) method: Option<CallMethod>,
    #[serde(default)]
    pub(super) headers: Vec<NamedMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallMethod {
    #[serde(default, rename = "type")]
    pub(super) kind: TextKind,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathBody {
    #[serde(default, rename = "type")]
    pub(super) kind: PathKind,
    #[serde(default = "root")]
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum PathKind {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum TextKind {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedMatch {
    #[serde(default, rename = "type")]
    pub(super) kind: TextKind,
    pub(super) name: String,
    pub(super) value: String,
}

/// A method that a match can name.
#[derive(Clone, Debug)]
pub(super) struct Method(pub(super) Box<str>);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FilterBody {
    #[serde(rename = "type")]
    pub(super) kind: FilterKind,
    pub(super) request_header_modifier: Option<Modifier>,
    pub(super) response_header_modifier: Option<Modifier>,
    pub(super) request_redirect: Option<RedirectBody>,
    pub(super) url_rewrite: Option<RewriteBody>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum FilterKind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modifier {
    #[serde(default)]
    pub(super) set: Vec<Header>,
    #[serde(default)]
    pub(super) add: Vec<Header>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RedirectBody {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathChangeBody>,
    pub(super) port: Option<u16>,
    #[serde(default = "found")]
    pub(super) status_code: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RewriteBody {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathChangeBody>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum PathChangeBody {
    ReplaceFullPath { replace_full_path: String },
    ReplacePrefixMatch { replace_prefix_match: String },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BackendRef {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default = "service")]
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    #[serde(default = "one")]
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) filters: Vec<FilterBody>,
}

// === impl Method ===

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Method;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a method")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Method, E> {
                const KNOWN: [&str; 9] = [
                    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
                ];
                match KNOWN.contains(&text) {
                    true => Ok(Method(text.into())),
                    false => {
                        Err(E::custom(format!("{text:?} is no method; write one such as GET")))
                    }
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

// === helpers ===

fn gateway_group() -> String {
    GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn service() -> String {
    "Service".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

const fn one() -> u32 {
    1
}

const fn one_attempt() -> u8 {
    1
}

const fn found() -> u16 {
    302
}

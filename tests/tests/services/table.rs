//! Requests and what is expected of them, and the rules that they follow: in our own words what the mesh
//! conformance of the Gateway API asks for.

use super::place::PORT;

/// A request, and what is expected of it.
pub(crate) struct Case {
    pub(crate) request: &'static str,
    pub(crate) status: u64,
    /// The server, if one is to answer.
    pub(crate) server: &'static str,
    /// `path /x`, `field NAME=VALUE`, `no NAME`, `response NAME=VALUE`, `no-response NAME`.
    pub(crate) expected: &'static [&'static str],
}

pub(crate) const fn case(
    request: &'static str,
    status: u64,
    server: &'static str,
    expected: &'static [&'static str],
) -> Case {
    Case { request, status, server, expected }
}

pub(crate) const CASES: &[Case] = &[
    // Paths and headers.
    case("GET /", 200, "echo-v1", &["path /"]),
    case("GET /v2", 200, "echo-v2", &[]),
    case("GET /v2/example?x=1", 200, "echo-v2", &["path /v2/example?x=1"]),
    case("GET /v2example", 200, "echo-v1", &[]),
    case("GET /foo/v2/example", 200, "echo-v1", &[]),
    case("GET /any version: two", 200, "echo-v2", &["field version=two"]),
    case("GET /any VERSION: two", 200, "echo-v2", &["field VERSION=two"]),
    case("GET /v2/exact", 200, "echo-v1", &[]),
    case("GET /v2/exact/more", 200, "echo-v2", &[]),
    case("GET /v77/x", 200, "echo-v2", &[]),
    // Parameters and methods.
    case("GET /any?animal=whale", 200, "echo-v2", &[]),
    case("GET /any?animal=shark", 200, "echo-v1", &[]),
    case("PATCH /any", 200, "echo-v2", &["method PATCH"]),
    case("POST /any", 200, "echo-v1", &["content 7"]),
    // Changes of fields.
    case(
        "GET /modify X-Set: old X-Remove: here X-Add: first Untouched-FIELD: As-Is",
        200,
        "echo-v1",
        &[
            "field X-Set=set",
            "field X-Add=first",
            "field x-add=second",
            "field x-backend=v1",
            "field Untouched-FIELD=As-Is",
            "no X-Remove",
            "response x-set=response",
            "response X-Server=echo-v1",
            "no-response X-Old",
        ],
    ),
    // Rewrites.
    case(
        "GET /rewrite/one/two?q=1",
        200,
        "echo-v1",
        &["path /one/two?q=1", "field Host=one.example.org"],
    ),
    case("GET /rewrite", 200, "echo-v1", &["path /one"]),
    case("GET /full/any?q", 200, "echo-v1", &["path /all?q"]),
    // Redirects.
    case(
        "GET /redirect/host",
        302,
        "",
        &["response location=http://example.org:8080/redirect/host"],
    ),
    case("GET /redirect/301", 301, "", &["response location=http://10.96.0.10:8083/redirect/301"]),
    case(
        "GET /redirect/scheme",
        308,
        "",
        &["response location=https://10.96.0.10/redirect/scheme"],
    ),
    case(
        "GET /redirect/prefix/lemon",
        307,
        "",
        &["response location=http://10.96.0.10:8080/new/lemon"],
    ),
    // What cannot go anywhere.
    case("GET /nobackend", 500, "", &["response x-weir-error=unknown-backend"]),
    case("GET /noendpoint", 503, "", &["response x-weir-error=no-endpoint"]),
    case("GET /zero", 500, "", &["response x-weir-error=no-backend"]),
    // Time limits. A server that is late answers after an hour.
    case("GET /limit/request?delay=3600", 504, "", &["response x-weir-error=timeout"]),
    case("GET /limit/backend?delay=3600", 504, "", &["response x-weir-error=timeout"]),
    case("GET /limit/none?delay=0.1", 200, "echo-v1", &[]),
    case("GET /limit/long?delay=0.1", 200, "echo-v1", &[]),
    // Which match counts: a method before fields, more fields before fewer, and the first of those that are equal.
    case("GET /order", 200, "echo-v2", &[]),
    case("DELETE /order", 200, "echo-v1", &[]),
    case("GET /order one: 1 two: 2", 200, "echo-v2", &[]),
    case("DELETE /order one: 1", 200, "echo-v2", &[]),
    case("DELETE /order one: 1 two: 2", 200, "echo-v1", &[]),
    case("GET /order/longer/x", 200, "echo-v1", &["path /order/longer/x"]),
    case("GET /equal", 200, "echo-v1", &[]),
    // More of rewrites and redirects.
    case("GET /host/x?y", 200, "echo-v1", &["path /host/x?y", "field Host=two.example.org"]),
    case("GET /redirect/303?q=1", 303, "", &["response location=http://10.96.0.10:8080/see?q=1"]),
    case(
        "GET /redirect/all",
        308,
        "",
        &["response location=https://two.example.org:8443/redirect/all"],
    ),
];

/// As both doors have it: match, what else is in the rule (TOML and YAML), and the backends.
pub(crate) struct RuleText {
    /// `path`, `exact` or `regex`, with `header`, `query` and `method`.
    pub(crate) matches: &'static [&'static str],
    pub(crate) toml: &'static str,
    pub(crate) yaml: &'static str,
    pub(crate) backends: &'static [(&'static str, u32)],
}

pub(crate) const fn rule(
    matches: &'static [&'static str],
    backends: &'static [(&'static str, u32)],
) -> RuleText {
    RuleText { matches, toml: "", yaml: "", backends }
}

pub(crate) const ONE: &[(&str, u32)] = &[("echo-v1", 1)];
pub(crate) const TWO: &[(&str, u32)] = &[("echo-v2", 1)];

pub(crate) const RULES: &[RuleText] = &[
    rule(&["path=/"], ONE),
    rule(&["path=/v2", "path=/ header=version:two"], TWO),
    rule(&["exact=/v2/exact"], ONE),
    rule(&["regex=/v[0-9]{2}/.*", "path=/ query=animal:whale", "path=/ method=PATCH"], TWO),
    RuleText {
        matches: &["path=/modify"],
        toml: "request_headers = { set = { X-Set = \"set\" }, add = { x-add = \"second\", x-backend = \"v1\" }, \
               remove = [\"x-remove\"] }\n\
               response_headers = { set = { x-set = \"response\" }, remove = [\"x-old\"] }",
        yaml: "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: set}], \
               add: [{name: x-add, value: second}, {name: x-backend, value: v1}], remove: [x-remove]}}, \
               {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: response}], \
               remove: [x-old]}}]",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/rewrite/one", "path=/rewrite"],
        toml: "rewrite = { hostname = \"one.example.org\", prefix = \"/one\" }",
        yaml: "filters: [{type: URLRewrite, urlRewrite: {hostname: one.example.org, path: {type: \
               ReplacePrefixMatch, replacePrefixMatch: /one}}}]",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/full"],
        toml: "rewrite = { path = \"/all\" }",
        yaml: "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: \
               /all}}}]",
        backends: ONE,
    },
    RuleText {
        matches: &["exact=/redirect/host"],
        toml: "redirect = { hostname = \"example.org\" }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]",
        backends: &[],
    },
    RuleText {
        matches: &["exact=/redirect/301"],
        toml: "redirect = { port = 8083, status = 301 }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: 301}}]",
        backends: &[],
    },
    RuleText {
        matches: &["exact=/redirect/scheme"],
        toml: "redirect = { scheme = \"https\", status = 308 }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 308}}]",
        backends: &[],
    },
    RuleText {
        matches: &["path=/redirect/prefix"],
        toml: "redirect = { prefix = \"/new\", status = 307 }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, \
               replacePrefixMatch: /new}, statusCode: 307}}]",
        backends: &[],
    },
    rule(&["path=/nobackend"], &[("nothing", 1)]),
    rule(&["path=/noendpoint"], &[("empty", 1)]),
    rule(&["path=/zero"], &[("echo-v1", 0)]),
    rule(&["path=/weights"], &[("echo-v1", 70), ("echo-v2", 30)]),
    RuleText {
        matches: &["path=/limit/request"],
        toml: "timeouts = { request = \"500ms\" }",
        yaml: "timeouts: {request: 500ms}",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/limit/backend"],
        toml: "timeouts = { request = \"1h\", backend = \"500ms\" }",
        yaml: "timeouts: {request: 1h, backendRequest: 500ms}",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/limit/none"],
        toml: "timeouts = { request = \"0s\", backend = \"0s\" }",
        yaml: "timeouts: {request: 0s, backendRequest: 0s}",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/limit/long"],
        toml: "timeouts = { request = \"1h\", backend = \"30m\" }",
        yaml: "timeouts: {request: 1h, backendRequest: 30m}",
        backends: ONE,
    },
    rule(&["path=/order"], ONE),
    rule(&["path=/order method=GET"], TWO),
    rule(&["path=/order header=one:1"], TWO),
    rule(&["path=/order header=one:1 header=two:2"], ONE),
    rule(&["path=/order/longer"], ONE),
    rule(&["path=/equal"], ONE),
    rule(&["path=/equal"], TWO),
    RuleText {
        matches: &["path=/host"],
        toml: "rewrite = { hostname = \"two.example.org\" }",
        yaml: "filters: [{type: URLRewrite, urlRewrite: {hostname: two.example.org}}]",
        backends: ONE,
    },
    RuleText {
        matches: &["path=/redirect/303"],
        toml: "redirect = { path = \"/see\", status = 303 }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, \
               replaceFullPath: /see}, statusCode: 303}}]",
        backends: &[],
    },
    RuleText {
        matches: &["path=/redirect/all"],
        toml: "redirect = { scheme = \"https\", hostname = \"two.example.org\", port = 8443, status = 308 }",
        yaml: "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: \
               two.example.org, port: 8443, statusCode: 308}}]",
        backends: &[],
    },
];

// === impl RuleText ===

impl RuleText {
    fn parts(&self) -> impl Iterator<Item = Vec<(&str, &str)>> {
        self.matches
            .iter()
            .map(|it| it.split(' ').filter_map(|word| word.split_once('=')).collect())
    }

    pub(crate) fn toml(&self) -> String {
        let matches = self.parts().map(|parts| {
            let (headers, parts) = headers(parts);
            let headers = headers.iter().map(|(name, value)| format!("{name} = \"{value}\""));
            let headers = headers.collect::<Vec<_>>().join(", ");
            let headers = (!headers.is_empty()).then(|| format!("headers = {{ {headers} }}"));
            let parts = parts.into_iter().map(|(key, value)| match (key, value.split_once(':')) {
                ("query", Some((name, value))) => format!("query = {{ {name} = \"{value}\" }}"),
                ("exact", _) => format!("path_exact = \"{value}\""),
                ("regex", _) => format!("path_regex = '{value}'"),
                _ => format!("{key} = \"{value}\""),
            });
            format!("{{ {} }}", parts.chain(headers).collect::<Vec<_>>().join(", "))
        });
        let backends = self
            .backends
            .iter()
            .map(|(service, weight)| format!("{{ service = \"{service}\", weight = {weight} }}"));
        format!(
            "[[route.rule]]\nmatch = [{}]\nbackends = [{}]\n{}\n",
            matches.collect::<Vec<_>>().join(", "),
            backends.collect::<Vec<_>>().join(", "),
            self.toml
        )
    }

    pub(crate) fn yaml(&self) -> String {
        let matches = self.parts().map(|parts| {
            let (headers, parts) = headers(parts);
            let each = |(name, value): &(&str, &str)| format!("{{name: {name}, value: '{value}'}}");
            let headers = headers.iter().map(each).collect::<Vec<_>>().join(", ");
            let headers = (!headers.is_empty()).then(|| format!("headers: [{headers}]"));
            let parts = parts.into_iter().map(|(key, value)| match (key, value.split_once(':')) {
                ("query", Some((name, value))) => {
                    format!("queryParams: [{{name: {name}, value: {value}}}]")
                }
                ("exact", _) => format!("path: {{type: Exact, value: '{value}'}}"),
                ("regex", _) => format!("path: {{type: RegularExpression, value: '{value}'}}"),
                ("path", _) => format!("path: {{type: PathPrefix, value: '{value}'}}"),
                _ => format!("{key}: {value}"),
            });
            format!("{{{}}}", parts.chain(headers).collect::<Vec<_>>().join(", "))
        });
        let backends = self
            .backends
            .iter()
            .map(|(name, weight)| format!("{{name: {name}, port: {PORT}, weight: {weight}}}"));
        format!(
            "  - matches: [{}]\n    backendRefs: [{}]\n    {}\n",
            matches.collect::<Vec<_>>().join(", "),
            backends.collect::<Vec<_>>().join(", "),
            self.yaml
        )
    }
}

// === helpers ===

type Parts<'a> = Vec<(&'a str, &'a str)>;

/// The fields that a match asks for by name, and the rest of it.
fn headers(parts: Parts<'_>) -> (Parts<'_>, Parts<'_>) {
    let (headers, rest): (Parts<'_>, Parts<'_>) =
        parts.into_iter().partition(|it| it.0 == "header");
    (headers.into_iter().filter_map(|it| it.1.split_once(':')).collect(), rest)
}

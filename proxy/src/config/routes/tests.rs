//! Routes of a configuration, as they are read and refused.

use std::time::Duration;

use weir_http::{RetryOn, RetryPolicy, TimeLimits};

use crate::config::tests::load;

const SHOP: &str = r#"
[[route]]
parent = "shop/checkout:80"
[[route.rule]]
name = "new"
match = [{ path = "/v2", headers = { version = { regex = "two|2" } }, method = "GET" }]
backends = [{ service = "shop/checkout-v2", weight = 90 }, { service = "shop/checkout" }]
request_headers = { set = { x-new = "1" }, remove = ["x-old"] }
rewrite = { hostname = "v2.test", prefix = "/" }
timeouts = { request = "10s", backend = "2s", idle = "0s" }
retry = { codes = "500, 502-504", attempts = 2 }
[[route.rule]]
redirect = { scheme = "https", status = 301 }
[[route]]
parent = "shop/cart"
kind = "grpc"
[[route.rule]]
match = [{ service = "shop.Cart", method = "Add" }]
backends = [{ service = "shop/cart" }]
retry = { codes = "unavailable, cancelled", backoff = "1s" }
rate_limit = { requests = 100, burst = 5 }
fault = { abort = { status = 503, percent = 5 }, delay = { time = "100ms", percent = 0.5 } }
affinity = { header = "x-user" }
"#;

#[test]
fn routes_are_read_and_printed_as_they_are() {
    let config = load(SHOP).unwrap();
    let [checkout, cart] = &config.process.route[..] else { panic!() };
    let rule = &checkout.route().rules[0];
    assert_eq!(rule.matches[0].to_string(), "GET /v2/*, version ~ two|2");
    assert_eq!((rule.backends[0].weight, rule.backends[1].weight), (90, 1));
    assert_eq!(checkout.route().parents[0].port, Some(80));
    let limits = TimeLimits {
        request: Some(Duration::from_secs(10)),
        backend: Some(Duration::from_secs(2)),
        idle: None,
    };
    assert_eq!(rule.limits, limits);
    let http = RetryPolicy {
        on: RetryOn::Http(vec![(500, 500), (502, 504)]),
        attempts: 2,
        backoff: Duration::from_millis(25),
    };
    assert_eq!(rule.retry.as_deref(), Some(&http));
    let grpc = RetryPolicy {
        on: RetryOn::Grpc(vec![14, 1]),
        attempts: 1,
        backoff: Duration::from_secs(1),
    };
    assert_eq!(cart.route().rules[0].retry.as_deref(), Some(&grpc));
    let limit = cart.route().rules[0].rate.as_ref().map(|rate| rate.limit().to_string());
    assert_eq!(limit.as_deref(), Some("100 in 1s, 5 at once"));
    let faults = cart.route().rules[0].faults.as_ref().map(ToString::to_string);
    assert_eq!(faults.as_deref(), Some("5% answered with 503, 0.5% delayed by 100ms"));
    let affinity = cart.route().rules[0].affinity.as_ref().map(ToString::to_string);
    assert_eq!(affinity.as_deref(), Some("header x-user"));
    assert_eq!(cart.route().id.to_string(), "GRPCRoute shop/cart");
    assert_eq!(load(&config.to_toml()).unwrap(), config);
    let named = load(&SHOP.replace("checkout:80", "checkout:web-1")).unwrap();
    let parent = &named.process.route[0].route().parents[0];
    assert_eq!((parent.port, parent.section.as_deref()), (None, Some("web-1")));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (from, to, expected) in [
        ("path = \"/v2\"", "paht = \"/v2\"", "line 6, column 12: unknown field `paht`"),
        ("weight = 90", "weight = -1", "line 7"),
        ("two|2", "two|(2", "route \"shop/checkout:80\": rule 0 (new): \"two|(2\" is no regular"),
        ("/v2", "v2", "rule 0 (new): the path \"v2\" does not begin with a slash"),
        ("backend = \"2s\"", "backends = \"2s\"", "line 10, column 31: unknown field `backends`"),
        ("\"10s\"", "\"10\"", "rule 0 (new): timeouts.request: \"10\" is not a duration"),
        ("\"10s\"", "\"1s\"", "rule 0 (new): a backend may take longer than the whole request"),
        ("502-504", "504-502", "rule 0 (new): retry: the code 504-502 is none of a failure"),
        ("502-504", "302", "rule 0 (new): retry: the code 302 is none of a failure"),
        ("502-504", "5xx", "rule 0 (new): retry.codes: \"5xx\" is no status"),
        ("attempts = 2", "attempts = 11", "rule 0 (new): retry: 11 attempts; write 1 to 10"),
        ("attempts = 2", "atempts = 2", "line 11, column 35: unknown field `atempts`"),
        ("cancelled", "canceled", "rule 0: retry.codes: \"canceled\" is no status of gRPC"),
        ("backoff = \"1s\"", "backoff = \"1\"", "rule 0: retry.backoff: \"1\" is not a duration"),
        ("requests = 100", "requests = 0", "rule 0: rate_limit: requests and burst are 1 at least"),
        ("burst = 5", "per = \"2h\"", "rule 0: rate_limit.per is a time of up to an hour"),
        ("burst = 5", "bursts = 5", "unknown field `bursts`"),
        ("percent = 5 ", "percent = 101 ", "rule 0: fault.abort.percent: 101 is no percentage"),
        ("status = 503", "status = 302", "rule 0: fault: 302 is no error"),
        ("\"100ms\"", "\"100\"", "rule 0: fault.delay.time: \"100\" is not a duration"),
        ("header = \"x-user\"", "", "rule 0: affinity: write header or cookie"),
        ("abort = {", "abrt = {", "unknown field `abrt`"),
        ("status = 301", "status = 300", "rule 1: 300 is no redirect"),
        ("x-old", "Connection", "Connection belongs to the connection"),
        ("checkout:80", "checkout:Http", "the parent \"shop/checkout:Http\" has no port"),
        ("checkout:80", "checkout:0", "the parent \"shop/checkout:0\" has no port"),
        ("shop/cart\"\nkind", "shop/cart\"\nname = \"x\"\nkimd", "unknown field `kimd`"),
        ("kind = \"grpc\"", "kind = \"http\"", "a service is matched in a route of kind \"grpc\""),
        ("method = \"GET\"", "path_exact = \"/a\"", "path, path_exact and path_regex exclude"),
        (
            "parent = \"shop/cart\"\nkind = \"grpc\"\n",
            "parent = \"shop/checkout:80\"\n[[route.rule]]\nredirect = { status = 301 }\n[[route]]\n\
             parent = \"shop/cart\"\nkind = \"grpc\"\n",
            "line 14, column 1: route \"shop/checkout:80\" is there twice",
        ),
    ] {
        let error = load(&SHOP.replace(from, to)).unwrap_err();
        assert!(error.starts_with("config weir.toml, line "), "{error}");
        assert!(error.contains(expected), "{error} != {expected}");
    }
}

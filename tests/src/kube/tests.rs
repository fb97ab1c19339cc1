//! The API server, asked by a plain HTTP client.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::api::{Api, TOKEN};
use super::object::{Owner, key, namespace, pod};
use super::server::{Call, Streaming, Trouble};
use super::store::Kind;
use crate::site::PATIENCE;

/// One thread that asks.
struct Client {
    runtime: Runtime,
    port: u16,
    token: String,
}

/// A watch, line by line.
struct Lines<'a> {
    client: &'a Client,
    body: Incoming,
    rest: BytesMut,
}

// === impl Client ===

impl Client {
    fn of(api: &Api) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, port: api.port(), token: TOKEN.to_owned() }
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Value)>,
    ) -> Result<Response<Incoming>> {
        self.runtime.block_on(async {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut request = Request::builder().method(method).uri(path);
            request = request.header("Authorization", format!("Bearer {}", self.token));
            let mut bytes = Bytes::new();
            if let Some((kind, value)) = body {
                request = request.header("Content-Type", kind);
                bytes = value.to_string().into();
            }
            Ok(sender.send_request(request.body(Full::new(bytes))?).await?)
        })
    }

    fn answer(&self, response: Response<Incoming>) -> Result<(u16, HeaderMap, Value)> {
        let (head, body) = response.into_parts();
        let bytes = self.runtime.block_on(body.collect())?.to_bytes();
        Ok((head.status.as_u16(), head.headers, serde_json::from_slice(&bytes)?))
    }

    fn get(&self, path: &str) -> Result<(u16, HeaderMap, Value)> {
        self.answer(self.send(Method::GET, path, None)?)
    }

    fn put(&self, method: Method, path: &str, kind: &str, value: Value) -> Result<(u16, Value)> {
        let (status, _, body) = self.answer(self.send(method, path, Some((kind, value)))?)?;
        Ok((status, body))
    }

    fn watch(&self, path: &str) -> Result<Lines<'_>> {
        let response = self.send(Method::GET, path, None)?;
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        Ok(Lines { client: self, body: response.into_body(), rest: BytesMut::new() })
    }
}

// === impl Lines ===

impl Lines<'_> {
    /// The next event; an error with what there is of it if it ends before.
    fn next(&mut self) -> Result<(String, Value)> {
        let line = loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                break self.rest.split_to(end + 1);
            }
            // A timer needs a runtime around it.
            let frame = self
                .client
                .runtime
                .block_on(async { timeout(PATIENCE, self.body.frame()).await })?;
            let rest = || format!("after {:?}", String::from_utf8_lossy(&self.rest));
            let frame = frame.with_context(|| format!("end {}", rest()))?.with_context(rest)?;
            self.rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        };
        let mut event: Value = serde_json::from_slice(&line)?;
        let object = event["object"].take();
        Ok((event["type"].as_str().context("no type")?.to_owned(), object))
    }

    fn expect(&mut self, what: &str, name: &str) -> Value {
        let (kind, object) = self.next().unwrap();
        assert_eq!((&*kind, object["metadata"]["name"].as_str().unwrap_or("")), (what, name));
        object
    }

    fn fails(&mut self) -> String {
        format!("{:#}", self.next().unwrap_err())
    }
}

fn api() -> Api {
    let api = Api::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    api.put(&namespace("shop"));
    for name in ["a", "b", "c"] {
        api.put(&pod("shop", name, Owner::Deployment));
    }
    api
}

const HERE: &str = "fieldSelector=spec.nodeName%3Dworker-1";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn version(list: &Value) -> &str {
    list["metadata"]["resourceVersion"].as_str().unwrap()
}

#[test]
fn lists_are_paged_and_filtered() {
    let api = api();
    let client = Client::of(&api);
    let mut elsewhere = pod("shop", "d", Owner::None);
    elsewhere["spec"]["nodeName"] = json!("worker-2");
    api.put(&elsewhere);
    let (status, headers, first) = client.get(&format!("/api/v1/pods?&{HERE}&limit=2")).unwrap();
    assert_eq!((status, headers["content-type"].as_bytes()), (200, &b"application/json"[..]));
    assert_eq!((&first["kind"], names(&first)), (&json!("PodList"), vec!["a", "b"]));
    assert_eq!(first["items"][0]["kind"], Value::Null);
    let next = first["metadata"]["continue"].as_str().unwrap();
    api.remove(&key(&pod("shop", "a", Owner::None)));
    let path = format!("/api/v1/pods?{HERE}&limit=2&continue={next}");
    let (_, _, second) = client.get(&path).unwrap();
    assert_eq!((names(&second), version(&second)), (vec!["c"], version(&first)));
    assert_eq!(second["metadata"]["continue"], Value::Null);
    api.compact();
    let (status, _, gone) = client.get(&path).unwrap();
    assert_eq!(
        (status, &gone["kind"], &gone["reason"]),
        (410, &json!("Status"), &json!("Expired"))
    );
    api.page(1);
    assert_eq!(names(&client.get("/api/v1/pods?limit=500").unwrap().2), ["b"]);
    let (_, _, all) = client.get("/api/v1/namespaces").unwrap();
    assert_eq!(names(&all), ["shop"]);
    let (_, _, all) = client.get("/api/v1/namespaces/other/pods").unwrap();
    assert_eq!(names(&all), [""; 0]);
}

#[test]
fn watches_go_on_from_a_version() {
    let api = api();
    let client = Client::of(&api);
    let (_, _, list) = client.get(&format!("/api/v1/pods?{HERE}")).unwrap();
    let path = format!(
        "/api/v1/pods?watch=true&{HERE}&allowWatchBookmarks=true&resourceVersion={}",
        version(&list)
    );
    let a = key(&pod("shop", "a", Owner::None));
    api.annotate(&a, "weir.dev/inject", Some("enabled"));
    let mut watch = client.watch(&path).unwrap();
    let object = watch.expect("MODIFIED", "a");
    assert_eq!(object["metadata"]["annotations"]["weir.dev/inject"], "enabled");
    assert_eq!(object["kind"], "Pod");
    api.put(&pod("shop", "new", Owner::Job));
    watch.expect("ADDED", "new");
    api.put(&namespace("other"));
    api.bookmark();
    let bookmark = watch.expect("BOOKMARK", "");
    let newest = version(&client.get("/api/v1/pods").unwrap().2).to_owned();
    assert_eq!(bookmark["metadata"]["resourceVersion"], newest);
    api.remove(&a);
    let last = watch.expect("DELETED", "a");
    assert!(version(&last).parse::<u64>().unwrap() > newest.parse().unwrap());
    // Another one sees what this one has seen.
    let mut again = client.watch(&path).unwrap();
    for (what, name) in [("MODIFIED", "a"), ("ADDED", "new"), ("DELETED", "a")] {
        again.expect(what, name);
    }
    api.watch_limit(Duration::from_millis(100));
    let mut short = client.watch(&path.replace(version(&list), &newest)).unwrap();
    short.expect("DELETED", "a");
    short.expect("BOOKMARK", "");
    assert_eq!(short.fails(), "end after \"\"");
}

#[test]
fn a_version_that_is_forgotten_is_gone() {
    let api = api();
    let client = Client::of(&api);
    let path = "/api/v1/pods?watch=true&resourceVersion=1001";
    client.watch(path).unwrap().expect("ADDED", "a");
    api.compact();
    let gone = client.watch(path).unwrap().expect("ERROR", "");
    assert_eq!((&gone["code"], &gone["reason"]), (&json!(410), &json!("Expired")));
    api.gone_as_status(true);
    let (status, _, gone) = client.get(path).unwrap();
    assert_eq!((status, &gone["code"]), (410, &json!(410)));
    let newest = version(&client.get("/api/v1/pods").unwrap().2).to_owned();
    let mut open = client.watch(&path.replace("1001", &newest)).unwrap();
    api.put(&pod("shop", "d", Owner::Job));
    open.expect("ADDED", "d");
    api.expire_watches();
    assert_eq!(open.expect("ERROR", "")["code"], 410);
    assert_eq!(open.fails(), "end after \"\"");
}

#[test]
fn watches_are_cut_where_a_test_wants() {
    let api = api();
    let client = Client::of(&api);
    let path = "/api/v1/pods?watch=true&resourceVersion=1004";
    let (mut torn, mut cut) = (client.watch(path).unwrap(), client.watch(path).unwrap());
    api.put(&namespace("other"));
    api.tear_watches();
    api.put(&pod("shop", "d", Owner::StatefulSet));
    let said = torn.fails();
    assert!(said.starts_with("after \"{\\\"") && said.contains("object"), "{said}");
    assert!(!said.contains("end after"), "{said}");
    // Both are open, so both are.
    assert!(cut.next().is_err());
    assert_eq!(api.torn(), 2);
    let mut cut = client.watch(path).unwrap();
    cut.expect("ADDED", "d");
    api.cut_watches();
    assert!(cut.fails().starts_with("after \"\""));
}

#[test]
fn initial_events_are_sent_as_old_and_new_servers_do() {
    let api = api();
    let client = Client::of(&api);
    let path = "/api/v1/pods?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                &resourceVersionMatch=NotOlderThan&resourceVersion=0";
    let mut watch = client.watch(path).unwrap();
    ["a", "b", "c"].into_iter().for_each(|name| drop(watch.expect("ADDED", name)));
    let end = watch.expect("BOOKMARK", "");
    assert_eq!(end["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.streaming(Streaming::Unknown);
    let mut watch = client.watch(path).unwrap();
    ["a", "b", "c"].into_iter().for_each(|name| drop(watch.expect("ADDED", name)));
    api.put(&pod("shop", "d", Owner::None));
    watch.expect("ADDED", "d");
    api.streaming(Streaming::Forbidden);
    let (status, _, refused) = client.get(path).unwrap();
    assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")));
}

#[test]
fn only_what_weir_may_do_is_allowed() {
    let api = api();
    let mut client = Client::of(&api);
    for path in ["/version", "/api", "/apis", "/api/v1/namespaces/shop/pods/a"] {
        assert_eq!(client.get(path).unwrap().0, 200, "{path}");
    }
    api.nothing_forbidden().unwrap();
    assert_eq!(client.get("/api/v1/namespaces/shop/pods/z").unwrap().0, 404);
    assert_eq!(client.get("/api/v1/secrets").unwrap().0, 403);
    let delete = client.send(Method::DELETE, "/api/v1/namespaces/shop/pods/a", None).unwrap();
    assert_eq!(delete.status(), 403);
    assert_eq!(client.get("/api/v1/pods?fieldSelector=spec.dnsPolicy%3DNone").unwrap().0, 400);
    assert!(api.nothing_forbidden().is_err());
    client.token = "stolen".to_owned();
    let (status, _, refused) = client.get("/api/v1/pods").unwrap();
    assert_eq!((status, &refused["reason"]), (401, &json!("Unauthorized")));
    api.change_token("stolen");
    assert_eq!(client.get("/api/v1/pods").unwrap().0, 200);
}

#[test]
fn what_is_to_go_wrong_goes_wrong_once() {
    let api = api();
    let client = Client::of(&api);
    api.spoil(Call::List(Kind::Pod), Trouble::Refused(429, Some(1)));
    api.spoil(Call::List(Kind::Pod), Trouble::Torn);
    api.spoil(Call::List(Kind::Pod), Trouble::Cut);
    api.spoil(Call::List(Kind::Pod), Trouble::Slow(Duration::from_millis(10)));
    api.spoil(Call::Watch(Kind::Pod), Trouble::Refused(503, None));
    let (status, headers, body) = client.get("/api/v1/pods").unwrap();
    assert_eq!((status, headers["retry-after"].as_bytes()), (429, &b"1"[..]));
    assert_eq!(body["reason"], "TooManyRequests");
    let torn = client.send(Method::GET, "/api/v1/pods", None).unwrap();
    assert!(client.answer(torn).is_err());
    assert!(client.send(Method::GET, "/api/v1/pods", None).is_err());
    assert_eq!(client.get("/api/v1/pods").unwrap().0, 200);
    assert_eq!(api.spoiled(), 1);
    assert_eq!(client.get("/api/v1/pods?watch=true").unwrap().0, 503);
    let statuses: Vec<_> = api.asked().iter().map(|asked| asked.status).collect();
    assert_eq!(statuses, [429, 200, 0, 200, 503]);
    assert_eq!(api.count(Call::Watch(Kind::Pod)), 1);
}

#[test]
fn events_are_recorded() {
    let api = api();
    let client = Client::of(&api);
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "a.1", "namespace": "shop"},
        "eventTime": "2026-11-21T17:00:00.000000Z", "type": "Warning",
        "reportingController": "weir.dev/node", "reportingInstance": "n1",
        "action": "Capture", "reason": "WeirHostNetwork", "note": "why",
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "a"},
    });
    let at = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let json_type = "application/json";
    let (status, created) = client.put(Method::POST, at, json_type, event.clone()).unwrap();
    assert_eq!((status, &created["metadata"]["name"]), (201, &json!("a.1")));
    assert_eq!(client.put(Method::POST, at, json_type, event).unwrap().0, 409);
    let (patch, at) = (json!({"series": {"count": 2}}), format!("{at}/a.1"));
    let merge = "application/merge-patch+json";
    assert_eq!(client.put(Method::PATCH, &at, merge, patch.clone()).unwrap().0, 200);
    assert_eq!(
        client.put(Method::PATCH, &at, "application/apply-patch+yaml", patch).unwrap().0,
        415
    );
    let events = api.events();
    assert_eq!((events.len(), &events[0]["series"]["count"]), (1, &json!(2)));
}

#[test]
fn metadata_only_is_metadata_only() {
    let api = api();
    let client = Client::of(&api);
    let ask = |path: &str| {
        client.runtime.block_on(async {
            let stream = TcpStream::connect(("127.0.0.1", client.port)).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
            let request = Request::get(path).header("Accept", accept);
            let request = request.header("Authorization", format!("Bearer {TOKEN}"));
            let request = request.body(Full::new(Bytes::new())).unwrap();
            sender.send_request(request).await.unwrap()
        })
    };
    let (_, _, list) = client.answer(ask("/api/v1/namespaces")).unwrap();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&list), &list["items"][0]["status"]), (vec!["shop"], &Value::Null));
    let body = ask("/api/v1/pods?watch=true").into_body();
    let mut watch = Lines { client: &client, body, rest: BytesMut::new() };
    let object = watch.expect("ADDED", "a");
    assert_eq!((&object["kind"], &object["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
}

#[test]
fn it_goes_away_and_comes_back() {
    let api = api();
    let client = Client::of(&api);
    let mut watch = client.watch("/api/v1/pods?watch=true&resourceVersion=1004").unwrap();
    api.go_away();
    assert!(watch.next().is_err());
    // The listener closes when its task is next polled.
    let away = std::iter::repeat_with(|| client.send(Method::GET, "/version", None));
    assert!(away.take(1000).any(|sent| sent.is_err()));
    let mut back = None;
    while back.is_none() {
        back = TcpListener::bind(("127.0.0.1", api.port())).ok();
    }
    api.come_back(back.unwrap());
    assert_eq!(client.get("/version").unwrap().0, 200);
}

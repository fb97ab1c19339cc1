//! Requests that are routed by their heads: the behaviours that the Gateway API's mesh conformance asks
//! for, from a file of the configuration and from a directory of objects.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    Lab,
    cgroup::Cgroup,
    fixture,
    metrics::{self, Metrics},
    process::{Process, run, wait_until},
    record::Records,
    site::PATIENCE,
    weir::{Daemon, Run},
};

use super::{
    place::{PORT, VIP, add_addresses, address, lab},
    table::{CASES, ONE, RULES, RuleText, TWO, rule},
};

/// Services: the first three have a server each, by their numbers, the next one none, and the last one the second
/// and the third.
const SERVICES: [&str; 5] = ["echo", "echo-v1", "echo-v2", "empty", "pair"];
/// Addresses of services: those behind the first are only asked for by routes.
const VIPS: [&str; 5] = [VIP, "10.96.0.11", "10.96.0.12", "10.96.0.13", "10.96.0.14"];

/// What weir reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Door {
    Config,
    Objects,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u64,
    fields: Vec<(String, String)>,
    said: Value,
}

// === impl Door ===

impl Door {
    pub(crate) const ALL: [Self; 2] = [Self::Config, Self::Objects];

    /// The flags with which weir reads rules for the service `echo`.
    pub(crate) fn flags(self, lab: &Lab, rules: &[RuleText]) -> Result<Vec<String>> {
        match self {
            Self::Config => {
                let mut text = String::new();
                for (number, name) in SERVICES.iter().enumerate() {
                    // A service of a configuration has endpoints, or is in the DNS.
                    let endpoints = match *name {
                        "empty" => "dns = \"nothing.invalid:80\"".to_owned(),
                        _ => {
                            let all =
                                servers_of(number).map(|it| format!("\"{}:{PORT}\"", address(it)));
                            format!("endpoints = [{}]", all.collect::<Vec<_>>().join(", "))
                        }
                    };
                    let vip = VIPS[number];
                    text += &format!(
                        "[[service]]\nname = \"{name}\"\naddresses = [\"{vip}:{PORT}\"]\n{endpoints}\n"
                    );
                }
                text += "[[route]]\nname = \"all\"\nparent = \"echo\"\n";
                rules.iter().for_each(|rule| text += &rule.toml());
                let file = lab.dir().join("routes.toml");
                std::fs::write(&file, text)?;
                Ok(vec!["--config".to_owned(), file.display().to_string()])
            }
            Self::Objects => {
                let directory = lab.subdir("routes")?;
                std::fs::write(directory.join("services.yaml"), services())?;
                std::fs::write(directory.join("route.yaml"), route(rules))?;
                Ok(vec!["--objects-dir".to_owned(), directory.display().to_string()])
            }
        }
    }

    /// As records name the route.
    const fn route(self) -> &'static str {
        match self {
            Self::Config => "all",
            Self::Objects => "default/all",
        }
    }

    const fn service(self, name: &str) -> (&'static str, &str) {
        match self {
            Self::Config => ("", name),
            Self::Objects => ("default/", name),
        }
    }
}

/// The servers of a service.
fn servers_of(service: usize) -> std::ops::Range<usize> {
    if SERVICES[service] == "pair" { 1..3 } else { service..service + 1 }
}

/// Services with their endpoints.
fn services() -> String {
    let mut text = String::new();
    for (number, (name, vip)) in SERVICES.iter().zip(VIPS).enumerate() {
        text += &format!(
            "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {vip}, ports: [{{port: {PORT}}}]}}\n"
        );
        if *name != "empty" {
            text += &format!(
                "---\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: \
                 {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{port: {PORT}}}]\n\
                 endpoints: [{}]\n",
                servers_of(number)
                    .map(|it| format!("{{addresses: ['{}']}}", address(it)))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
    }
    text
}

fn route(rules: &[RuleText]) -> String {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all}\n\
                    spec:\n  parentRefs: [{group: '', kind: Service, name: echo, port: 8080}]\n  rules:\n"
        .to_owned();
    rules.iter().for_each(|rule| text += &rule.yaml());
    text
}

// === impl Answer ===

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let is_it = |it: &&(String, String)| it.0.eq_ignore_ascii_case(name);
        self.fields.iter().find(is_it).map(|it| &*it.1)
    }

    pub(crate) fn server(&self) -> &str {
        self.said["name"].as_str().unwrap_or_default()
    }

    /// The fields that the server has got.
    fn got(&self) -> Vec<(&str, &str)> {
        let pairs = self.said["fields"].as_array().into_iter().flatten();
        pairs.filter_map(|it| Some((it[0].as_str()?, it[1].as_str()?))).collect()
    }

    pub(crate) fn is(&self, expected: &str) -> bool {
        let (what, rest) = expected.split_once(' ').unwrap_or((expected, ""));
        let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
        match what {
            "path" => self.said["path"] == rest,
            "method" => self.said["method"] == rest,
            "content" => self.said["content"].as_u64() == rest.parse().ok(),
            "field" => self.got().contains(&(name, value)),
            "no" => !self.got().iter().any(|it| it.0.eq_ignore_ascii_case(name)),
            "response" => self.field(name) == Some(value),
            "no-response" => self.field(name).is_none(),
            _ => false,
        }
    }
}

/// Servers that say what they have got: one for each of the services with an endpoint.
fn servers(lab: &Lab, script: &str) -> Result<Process> {
    add_addresses(lab, 3)?;
    let mut command = fixture::command(&lab.server, script);
    if script == "grpc_routed.py" {
        command.arg("serve");
    }
    command.args((0..3).map(|at| format!("{}:{PORT}={}", address(at), SERVICES[at])));
    let process = Process::start("echo", command, lab.dir())?;
    wait_until("the servers to listen", PATIENCE, || Ok(process.log().contains("listening")))?;
    Ok(process)
}

/// A weir with rules, and servers.
pub(crate) struct Place {
    pub(crate) daemon: Daemon,
    _servers: Process,
    cgroup: Cgroup,
    pub(crate) lab: Lab,
}

impl Place {
    pub(crate) fn new(door: Door, rules: &[RuleText]) -> Result<Self> {
        Self::with(|lab| door.flags(lab, rules), "echo_named.py")
    }

    pub(crate) fn with(
        flags: impl FnOnce(&Lab) -> Result<Vec<String>>,
        script: &str,
    ) -> Result<Self> {
        let lab = lab()?;
        let servers = servers(&lab, script)?;
        let cgroup = Cgroup::new("routes")?;
        let run = Run::new(&lab.client, lab.dir()).workload("client", &cgroup, None);
        let run = run.flags(&["--detect-timeout", "1h"]).flags(&metrics::FLAGS);
        let daemon = run.flags(&flags(&lab)?).start()?;
        Ok(Self { daemon, _servers: servers, cgroup, lab })
    }

    /// Has the application say something.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.lab.client.command_in(self.cgroup.path(), arguments[0]);
        Ok(run(command.args(&arguments[1..]), PATIENCE)?.ok()?.stdout)
    }

    /// Has a fixture ask for something that it reads.
    pub(crate) fn ask(&self, words: &[&str], asked: &Value) -> Result<Value> {
        let input = self.lab.dir().join("asked.json");
        std::fs::write(&input, asked.to_string())?;
        let script = fixture::path(words[0]).display().to_string();
        let words = words[1..].join(" ");
        let line = format!("exec {} -B {script} {words} < {}", fixture::PYTHON, input.display());
        let text = self.run(&["sh", "-c", &line])?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Waits for the records of so many requests.
    pub(crate) fn records(&self, count: usize) -> Result<Records> {
        wait_until("the records", PATIENCE, || {
            Ok(self.daemon.records()?.requests_to(PORT).len() >= count)
        })?;
        self.daemon.records()
    }

    /// The answers to requests on one connection, and how many connections there were in the end.
    pub(crate) fn answers(&self, requests: &[&str]) -> Result<(Vec<Answer>, u64)> {
        let asked: Vec<_> = requests
            .iter()
            .map(|request| {
                let words: Vec<_> = request.split(' ').collect();
                let fields: BTreeMap<_, _> =
                    words[2..].chunks(2).map(|it| (it[0].trim_end_matches(':'), it[1])).collect();
                let content = if words[0] == "POST" { "content" } else { "" };
                json!([words[0], words[1], fields, content])
            })
            .collect();
        let port = PORT.to_string();
        let words = ["http_requests.py", VIP, &port];
        let said = self.ask(&words, &Value::from(asked))?;
        let all = said[0].as_array().context("no answers")?;
        let answers = all.iter().map(|it| {
            let pairs = it[1].as_array().into_iter().flatten();
            let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
            let fields = pairs.map(|it| (text(&it[0]), text(&it[1]))).collect();
            let said = serde_json::from_str(it[2].as_str().unwrap_or_default()).unwrap_or_default();
            Answer { status: it[0].as_u64().unwrap_or_default(), fields, said }
        });
        Ok((answers.collect(), said[1].as_u64().unwrap_or_default()))
    }
}

#[test]
fn each_request_follows_the_rule_that_it_matches() -> Result<()> {
    for door in Door::ALL {
        let place = Place::new(door, RULES)?;
        let requests: Vec<_> = CASES.iter().map(|it| it.request).collect();
        let (answers, connections) = place.answers(&requests)?;
        for (case, answer) in CASES.iter().zip(&answers) {
            let what = format!("{door:?} {}: {answer:?}", case.request);
            ensure!(answer.status == case.status && answer.server() == case.server, "{what}");
            for expected in case.expected {
                ensure!(answer.is(expected), "{expected}: {what}");
            }
        }
        ensure!(answers.len() == CASES.len() && connections == 1, "{connections} connections");
        let records = place.records(CASES.len())?;
        let requests = records.requests_to(PORT);
        let second = requests.get(1).context("no record")?;
        let (namespace, _) = door.service("");
        let route = format!(
            "{{\"backend\":\"{namespace}echo-v2\",\"name\":\"{}\",\"rule\":\"1\"}}",
            door.route()
        );
        ensure!(second.text("route") == route, "{}", second.text("route"));
        let redirected = requests.iter().find(|it| it.text("path") == "/redirect/host");
        let redirected = redirected.context("no record of the redirect")?;
        ensure!(
            redirected.text("end") == "answered" && redirected.text("classification") == "success"
        );
        let late = requests.iter().find(|it| it.text("path") == "/limit/backend");
        let late = late.context("no record of the late request")?;
        let of = |field: &str| late.text(field);
        ensure!(of("end") == "answered" && of("weir_error") == "timeout", "{late:?}");
        ensure!(of("classification") == "failure", "{late:?}");
        ensure!(of("endpoint") == format!("{}:{PORT}", address(1)), "{late:?}");
        let metrics = Metrics::scrape(&place.lab.client)?;
        for limit in ["request", "backend"] {
            let count = metrics.sum("weir_timeouts_total", &[&format!("limit=\"{limit}\"")]);
            ensure!((0.5..1.5).contains(&count), "{limit}: {count}");
        }
    }
    Ok(())
}

#[test]
fn without_a_rule_for_it_a_request_is_answered_with_404() -> Result<()> {
    let place = Place::new(Door::Objects, &[rule(&["path=/only"], ONE)])?;
    let (answers, connections) = place.answers(&["GET /only", "GET /other", "GET /only"])?;
    let statuses: Vec<_> = answers.iter().map(|it| it.status).collect();
    ensure!(statuses == [200, 404, 200] && connections == 1, "{answers:?}");
    ensure!(answers[1].is("response x-weir-error=no-route"), "{answers:?}");
    Ok(())
}

#[test]
fn weights_are_kept() -> Result<()> {
    let place = Place::new(Door::Objects, RULES)?;
    let (answers, _) = place.answers(&["GET /weights"; 500])?;
    let first = answers.iter().filter(|it| it.server() == "echo-v1").count();
    let second = answers.iter().filter(|it| it.server() == "echo-v2").count();
    ensure!(first + second == 500 && (325..=375).contains(&first), "{first} {second}");
    Ok(())
}

/// What needs a connection of its own is routed too: by the first request on it.
#[test]
fn what_cannot_share_a_connection_is_routed_with_it() -> Result<()> {
    let place = Place::new(Door::Objects, RULES)?;
    for (request, server, path) in [
        ("GET /v2 HTTP/1.0\\r\\nHost: shop\\r\\n\\r\\n", "echo-v2", "/v2"),
        (
            "GET /rewrite/one/x HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\nConnection: close\\r\\n\\r\\n",
            "echo-v1",
            "/one/x",
        ),
        ("GET /v2 HTTP/1.1\\nHost: shop\\nConnection: close\\n\\n", "echo-v2", "/v2"),
    ] {
        let program = format!(
            "import socket\ns = socket.create_connection(('{VIP}', {PORT}))\ns.sendall(b'{request}')\n\
             all = b''\nwhile part := s.recv(9999): all += part\nprint(all.partition(b'\\r\\n\\r\\n')[2].decode())\n"
        );
        let text = place.run(&[fixture::PYTHON, "-c", &program])?;
        let said: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(said["name"] == server && said["path"] == path, "{request}: {said}");
    }
    Ok(())
}

/// An unsaid protocol is no request.
#[test]
fn raw_tcp_goes_to_the_service_as_without_routes() -> Result<()> {
    let place = Place::new(Door::Objects, &[rule(&["path=/"], TWO)])?;
    // The servers answer what is no HTTP with 400, each with its name.
    let program = format!(
        "import socket\ns = socket.create_connection(('{VIP}', {PORT}))\n\
         s.sendall(b'\\x00\\x01raw\\r\\n')\ns.shutdown(socket.SHUT_WR)\n\
         while s.recv(9999): pass\n"
    );
    place.run(&[fixture::PYTHON, "-c", &program])?;
    wait_until("the record", PATIENCE, || {
        Ok(!place.daemon.records()?.connections(PORT).is_empty())
    })?;
    let records = place.daemon.records()?;
    let connection = records.connections(PORT)[0].clone();
    let endpoint = format!("{}:{PORT}", address(0));
    ensure!(connection.text("endpoint") == endpoint, "{connection:?}");
    ensure!(connection.text("treatment") == "tcp", "{connection:?}");
    Ok(())
}

#[test]
fn routes_change_for_requests_on_a_connection_that_is_open() -> Result<()> {
    let place = Place::new(Door::Objects, &[rule(&["path=/"], ONE)])?;
    let file = place.lab.dir().join("routes/route.yaml");
    let replace = |text: &str| {
        let new = file.with_file_name(".new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, &file)
    };
    let program = format!(
        "import http.client, json, sys\nc = http.client.HTTPConnection('{VIP}', {PORT})\n\
         def name():\n    c.request('GET', '/')\n    return json.loads(c.getresponse().read())['name']\n\
         print(name(), flush=True)\nwhile (now := name()) != 'echo-v2': pass\nprint(now)\n"
    );
    let mut command = place.lab.client.command_in(place.cgroup.path(), fixture::PYTHON);
    command.args(["-uc", &program]);
    let mut client = Process::start("client", command, place.lab.dir())?;
    wait_until("the first answer", PATIENCE, || Ok(client.log().contains("echo-v1")))?;
    // What is wrong changes nothing, and is said with its place.
    replace(&route(&[rule(&["path=/"], TWO)]).replace("backendRefs", "backendRef"))?;
    wait_until("the problem", PATIENCE, || {
        let said = place.daemon.ask(&["routes"])?.stdout;
        let is_named = said.contains("route.yaml: ") && said.contains("unknown field `backendRef`");
        Ok(is_named && said.contains("line ") && said.contains("default/echo-v1:8080"))
    })?;
    ensure!(client.running()?, "{}", client.log());
    replace(&route(&[rule(&["path=/"], TWO)]))?;
    client.wait(PATIENCE)?;
    ensure!(client.log().contains("echo-v2"), "{}", client.log());
    Ok(())
}

#[test]
fn routes_and_what_becomes_of_a_request_can_be_asked() -> Result<()> {
    let place = Place::new(Door::Objects, RULES)?;
    let said = place.daemon.ask(&["routes"])?.ok()?.stdout;
    for line in [
        "HTTPRoute default/all (from directory) for default/echo:8080\n",
        "  ! rule 11: the backend default/nothing is no known service with port 8080; requests for it are \
         answered with 500\n",
        "  rule 1: /v2/* or /*, version = two\n",
        "    -> default/echo-v2:8080 weight 1 (100.0%), 1 endpoint\n",
        "    -> default/empty:8080 weight 1 (100.0%), no endpoints: 503\n",
        "    -> default/echo-v1:8080 weight 70 (70.0%), 1 endpoint\n",
        "    rewrite: host one.example.org, prefix /one\n",
        "    time limits: request 1h00m, backend 500ms\n",
    ] {
        ensure!(said.contains(line), "{line}: {said}");
    }
    let address = format!("{VIP}:{PORT}");
    let explain = |request: &str| {
        Ok::<_, anyhow::Error>(
            place.daemon.ask(&["explain", &address, "--request", request])?.ok()?.stdout,
        )
    };
    let said = explain("GET /any version: two")?;
    for line in ["by /*, version = two", "  rule 1: ", "-> default/echo-v2:8080"] {
        ensure!(said.contains(line), "{line}: {said}");
    }
    let said = explain("GET /limit/request")?;
    ensure!(said.contains("        time limits: request 500ms\n"), "{said}");
    let said = explain("GET /redirect/301")?;
    ensure!(said.contains("weir answers with 301 to http://"), "{said}");
    Ok(())
}

#[test]
fn calls_follow_the_rules_of_a_grpcroute() -> Result<()> {
    let rules = "kind: GRPCRoute\nmetadata: {name: calls}\n\
        spec:\n  parentRefs: [{group: '', kind: Service, name: echo}]\n  rules:\n  \
        - matches: [{method: {service: weir.test.Echo, method: One}}]\n    \
          filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: set}], \
          remove: [x-remove]}}]\n    \
          backendRefs: [{name: echo-v1, port: 8080}]\n  \
        - matches: [{method: {service: weir.test.Echo}, headers: [{name: version, value: two}]}]\n    \
          backendRefs: [{name: echo-v2, port: 8080}]\n  \
        - matches: [{method: {method: Two}, headers: [{name: share, value: 'yes'}]}]\n    \
          backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}]\n  \
        - matches: [{method: {service: weir.test.Other, method: One}}]\n    \
          backendRefs: [{name: empty, port: 8080}]\n";
    let flags = |lab: &Lab| {
        let directory = lab.subdir("routes")?;
        std::fs::write(directory.join("services.yaml"), services())?;
        std::fs::write(directory.join("route.yaml"), rules)?;
        Ok(vec!["--objects-dir".to_owned(), directory.display().to_string()])
    };
    let place = Place::with(flags, "grpc_routed.py")?;
    let mut calls = vec![
        json!(["/weir.test.Echo/One", {"x-set": "old", "x-remove": "here", "kept": "as-is"}]),
        json!(["/weir.test.Echo/Two", {"version": "two"}]),
        json!(["/weir.test.Echo/Two", {"version": "three"}]),
        json!(["/weir.test.Other/One", {}]),
        json!(["/weir.test.Other/One", {"version": "two"}]),
    ];
    calls.extend(std::iter::repeat_n(json!(["/weir.test.Other/Two", {"share": "yes"}]), 500));
    let target = format!("{VIP}:{PORT}");
    let said = place.ask(&["grpc_routed.py", "call", &target], &Value::from(calls))?;
    let metadata = said[0][1]["metadata"].to_string();
    let is_changed = metadata.contains(r#"["x-set","set"]"#) && !metadata.contains("x-remove");
    ensure!(said[0][1]["name"] == "echo-v1" && is_changed, "{}", said[0]);
    ensure!(metadata.contains(r#"["kept","as-is"]"#), "{}", said[0]);
    ensure!(said[1][1]["name"] == "echo-v2", "{}", said[1]);
    // UNIMPLEMENTED without a rule, UNAVAILABLE without an endpoint.
    ensure!(said[2] == json!([12, "no-route"]), "{}", said[2]);
    ensure!(said[3] == json!([14, "no-endpoint"]), "{}", said[3]);
    ensure!(said[4] == json!([14, "no-endpoint"]), "{}", said[4]);
    let answers = said.as_array().context("no answers")?;
    let first = answers[5..].iter().filter(|it| it[1]["name"] == "echo-v1").count();
    ensure!((325..=375).contains(&first) && answers.len() == 505, "{first}");
    let records = place.records(505)?;
    let requests = records.requests_to(PORT);
    ensure!(requests[1].text("route").contains("default/calls"), "{:?}", requests[1]);
    Ok(())
}

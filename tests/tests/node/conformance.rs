//! The behaviours that the Gateway API's mesh conformance asks for, from objects of an API server: the same table
//! as from a file and from a directory (`tests/services/routes.rs`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    fixture,
    kube::{
        cluster::{Cluster, SHOP, SOON},
        object::Owner,
        pod::{Layout, Pod},
        store::Kind,
    },
    netns::ip,
    process::{Process, run, wait_until},
    site::PATIENCE,
    weir::Daemon,
};

use self::place::PORT;
use crate::{object, opted};

/// What the table wants of its neighbours.
mod place {
    pub(super) const PORT: u16 = 8080;
}

#[path = "../services/table.rs"]
#[expect(dead_code, reason = "a part of it is for files of the configuration")]
mod table;

/// Services with their addresses, which no server has, and the ports of their servers on the host.
const SERVICES: [(&str, &str, &[u16]); 5] = [
    ("echo", "10.96.0.10", &[9101]),
    ("echo-v1", "10.96.0.11", &[9102]),
    ("echo-v2", "10.96.0.12", &[9103]),
    ("empty", "10.96.0.13", &[]),
    ("pair", "10.96.0.14", &[9102, 9103]),
];
const VIP: &str = SERVICES[0].1;

/// A cluster with servers, a pod that asks them, and a route.
struct Place {
    weir: Daemon,
    _servers: Process,
    pod: Pod,
    cluster: Cluster,
}

/// An answer: status, fields and what the server has got.
struct Answer(u64, Vec<(String, String)>, Value);

// === impl Answer ===

impl Answer {
    fn server(&self) -> &str {
        self.2["name"].as_str().unwrap_or_default()
    }

    /// As `table::Case::expected` has it.
    fn is(&self, expected: &str) -> bool {
        let Self(_, fields, said) = self;
        let (what, rest) = expected.split_once(' ').unwrap_or((expected, ""));
        let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
        let field = |name: &str| {
            fields.iter().find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1.as_str())
        };
        let pairs = said["fields"].as_array().into_iter().flatten();
        let mut got = pairs.filter_map(|it| Some((it[0].as_str()?, it[1].as_str()?)));
        match what {
            "path" => said["path"] == rest,
            "method" => said["method"] == rest,
            "content" => said["content"].as_u64() == rest.parse().ok(),
            "field" => got.any(|it| it == (name, value)),
            "no" => !got.any(|it| it.0.eq_ignore_ascii_case(name)),
            "response" => field(name) == Some(value),
            "no-response" => field(name).is_none(),
            _ => false,
        }
    }
}

// === impl Place ===

impl Place {
    fn new(rules: &[table::RuleText]) -> Result<Self> {
        let place = Self::with(&[])?;
        let text = format!(
            "parentRefs: [{{group: '', kind: Service, name: echo, sectionName: web}}]\nrules:\n{}",
            rules.iter().map(table::RuleText::yaml).collect::<String>()
        );
        let spec: Value = serde_saphyr::from_str(&text).context(text)?;
        let mut route =
            object("HTTPRoute", "gateway.networking.k8s.io/v1", "all", &json!({"spec": spec}));
        route["metadata"]["generation"] = json!(1);
        place.cluster.api.put(&route);
        wait_until("the route", SOON, || {
            let known = place.weir.json(&["routes"])?;
            Ok(known["routes"][0]["in_force"] == json!([format!("{SHOP}/echo:{PORT}")]))
        })?;
        Ok(place)
    }

    /// Services without routes, and a weir with these flags.
    fn with(flags: &[&str]) -> Result<Self> {
        let cluster = Cluster::new()?;
        let pod = cluster.start(&opted("client", Owner::Deployment), Layout::SystemdContainerd)?;
        let host = pod.addresses().host.clone();
        ip(&["-n", pod.netns().name(), "route", "add", "10.96.0.0/24", "via", &host])?;
        let mut command = fixture::command(&cluster.host.netns, "echo_named.py");
        let names = SERVICES.iter().filter(|it| it.2.len() == 1);
        command.args(names.map(|(name, _, ports)| format!("{host}:{}={name}", ports[0])));
        let servers = Process::start("echo", command, cluster.dir())?;
        wait_until("the servers to listen", PATIENCE, || Ok(servers.log().contains("listening")))?;
        for (name, vip, ports) in SERVICES {
            put_service(&cluster, (name, vip), &host, ports);
        }
        let weir = cluster.weir()?.flags(flags).start()?;
        cluster.settle(&weir, &[&pod])?;
        Ok(Self { weir, _servers: servers, pod, cluster })
    }

    /// The answers to requests on one connection, and how many connections there were in the end.
    fn answers(&self, requests: &[&str]) -> Result<(Vec<Answer>, u64)> {
        let asked = requests.iter().map(|request| {
            let words: Vec<_> = request.split(' ').collect();
            let fields: BTreeMap<_, _> =
                words[2..].chunks(2).map(|it| (it[0].trim_end_matches(':'), it[1])).collect();
            json!([words[0], words[1], fields, if words[0] == "POST" { "content" } else { "" }])
        });
        let input = self.cluster.dir().join("asked.json");
        std::fs::write(&input, Value::from(asked.collect::<Vec<_>>()).to_string())?;
        let script = fixture::path("http_requests.py").display().to_string();
        let line =
            format!("exec {} -B {script} {VIP} {PORT} < {}", fixture::PYTHON, input.display());
        let mut command = self.pod.netns().command_in(self.pod.cgroup().path(), "sh");
        let text = run(command.args(["-c", &line]), PATIENCE)?.ok()?.stdout;
        let said: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let answers = said[0].as_array().context("no answers")?.iter().map(|it| {
            let pairs = it[1].as_array().into_iter().flatten();
            let fields = pairs.map(|it| (text(&it[0]), text(&it[1]))).collect();
            let said = serde_json::from_str(&text(&it[2])).unwrap_or_default();
            Answer(it[0].as_u64().unwrap_or_default(), fields, said)
        });
        Ok((answers.collect(), said[1].as_u64().unwrap_or_default()))
    }
}

// === helpers ===

fn put_service(cluster: &Cluster, (name, vip): (&str, &str), host: &str, ports: &[u16]) {
    let spec =
        json!({"clusterIP": vip, "ports": [{"name": "web", "port": PORT, "protocol": "TCP"}]});
    cluster.api.put(&object("Service", "v1", name, &json!({"spec": spec})));
    for (at, port) in ports.iter().enumerate() {
        let body = json!({
            "addressType": "IPv4", "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [host]}],
        });
        let name_of_slice = format!("{name}-{at}");
        let mut slice = object("EndpointSlice", "discovery.k8s.io/v1", &name_of_slice, &body);
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
        cluster.api.put(&slice);
    }
}

#[test]
fn each_request_follows_the_rule_that_it_matches() -> Result<()> {
    let place = Place::new(table::RULES)?;
    let requests: Vec<_> = table::CASES.iter().map(|it| it.request).collect();
    let (answers, connections) = place.answers(&requests)?;
    for (case, answer) in table::CASES.iter().zip(&answers) {
        let what = format!("{}: {} {:?} {}", case.request, answer.0, answer.1, answer.2);
        ensure!(answer.0 == case.status && answer.server() == case.server, "{what}");
        for expected in case.expected {
            ensure!(answer.is(expected), "{expected}: {what}");
        }
    }
    ensure!(answers.len() == table::CASES.len() && connections == 1, "{connections} connections");
    let (answers, _) = place.answers(&["GET /weights"; 500])?;
    let first = answers.iter().filter(|it| it.server() == "echo-v1").count();
    ensure!((325..=375).contains(&first), "{first} of 500");
    // The route says that one of its backends is no service.
    let key = (Kind::HttpRoute, SHOP.to_owned(), "all".to_owned());
    wait_until("the status", SOON, || {
        let route = place.cluster.api.object(&key).context("the route")?;
        let text = route["status"]["parents"][0]["conditions"].to_string();
        Ok(text.contains("BackendNotFound") && text.contains("shop/nothing"))
    })?;
    place.cluster.api.nothing_forbidden()
}

/// What a Service says in Linkerd's words, where that was asked for.
#[test]
fn requests_to_a_service_have_the_limits_of_linkerds_annotations() -> Result<()> {
    let place = Place::with(&["--linkerd-annotations"])?;
    let key = (Kind::Service, SHOP.to_owned(), "echo".to_owned());
    place.cluster.api.annotate(&key, "timeout.linkerd.io/request", Some("500ms"));
    let routes = || place.weir.json(&["routes"]);
    wait_until("the route of the annotation", SOON, || {
        Ok(routes()?["routes"][0]["route"] == format!("{SHOP}/echo (Service)"))
    })?;
    let (answers, connections) = place.answers(&["GET /?delay=3600", "GET /"])?;
    ensure!(answers[0].0 == 504 && answers[0].is("response x-weir-error=timeout"));
    ensure!(answers[1].0 == 200 && answers[1].server() == "echo" && connections == 1);
    // What is wrong is named, and changes nothing.
    place.cluster.api.annotate(&key, "timeout.linkerd.io/request", Some("soon"));
    wait_until("the problem in the log", SOON, || {
        let log = place.weir.process.log();
        Ok(log.contains("Service shop/echo: annotation timeout.linkerd.io/request: \"soon\""))
    })?;
    let seconds = &routes()?["routes"][0]["rules"][0]["timeouts"]["request"];
    ensure!(*seconds == 0.5, "{seconds}");
    place.cluster.api.annotate(&key, "timeout.linkerd.io/request", None);
    wait_until("no route", SOON, || Ok(routes()?["routes"] == json!([])))?;
    place.cluster.api.nothing_forbidden()
}

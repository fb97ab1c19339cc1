//! The dashboard, and the rules for Prometheus, ask for metrics and labels that there are: each
//! expression is parsed, and compared with what a running weir says of itself after traffic of every
//! kind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;
use weir_tests::metrics::{self, Metrics};
use weir_tests::peer::Peer;
use weir_tests::pods::{CLIENT, Pods};
use weir_tests::process::wait_until;
use weir_tests::site::PATIENCE;
use weir_tests::weir::Run;

use crate::rules;

const PORT: u16 = 8080;
/// A service that exists nowhere but in weir, with two endpoints at the client's host.
const SERVICE: &str = "10.96.0.10:80";
/// Another one, with routes.
const ROUTED: &str = "10.96.0.11:80";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Each connection gets one.
const FAILURE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// What `weir node` says of a workload beside its name, which `weir run` cannot know.
const OF_PODS: [&str; 4] = ["namespace", "pod", "workload_kind", "workload_name"];
/// What Prometheus adds: the scraped target.
const OF_TARGETS: [&str; 3] = ["instance", "job", "node"];

/// The labels of each metric.
type Known = BTreeMap<String, BTreeSet<String>>;

/// What an expression uses.
#[derive(Default)]
struct Uses {
    /// A metric, and the labels that are asked of it.
    selected: Vec<(String, Vec<String>)>,
    /// Labels that results are grouped by.
    grouped: Vec<String>,
}

// === impl Uses ===

impl Uses {
    fn of(expression: &str) -> Result<Self> {
        let plain = expression.replace("$__rate_interval", "5m");
        let parsed = parser::parse(&plain)
            .map_err(|error| anyhow::anyhow!("{expression} is no PromQL: {error}"))?;
        let mut uses = Self::default();
        let Ok(_) = walk_expr(&mut uses, &parsed);
        Ok(uses)
    }

    fn select(&mut self, selector: &VectorSelector) {
        let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone());
        self.selected.push((selector.name.clone().unwrap_or_default(), labels.collect()));
    }

    fn group(&mut self, modifier: Option<&LabelModifier>) {
        self.grouped.extend(modifier.into_iter().flat_map(|it| it.labels().labels.clone()));
    }

    /// What there is not, in words.
    fn unknown(&self, known: &Known) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut all: BTreeSet<&str> = OF_TARGETS.into();
        for (metric, labels) in &self.selected {
            let Some(own) = known.get(metric) else {
                unknown.push(format!("metric {metric:?}"));
                continue;
            };
            all.extend(own.iter().map(String::as_str));
            let is_known = |label: &str| own.contains(label) || OF_TARGETS.contains(&label);
            let missing = labels.iter().filter(|label| !is_known(label));
            unknown.extend(missing.map(|label| format!("label {label} of {metric}")));
        }
        let missing = self.grouped.iter().filter(|label| !all.contains(label.as_str()));
        unknown.extend(missing.map(|label| format!("label {label}")));
        unknown
    }
}

impl ExprVisitor for Uses {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Self::Error> {
        match expression {
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(matrix) => self.select(&matrix.vs),
            Expr::Aggregate(aggregate) => self.group(aggregate.modifier.as_ref()),
            Expr::Binary(binary) => {
                let matching = binary.modifier.as_ref().and_then(|it| it.matching.as_ref());
                self.group(matching);
            }
            _ => {}
        }
        Ok(true)
    }
}

// === helpers ===

fn dashboard() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/weir.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// Every expression: of the panels, and of the variables at the top.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            found.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        // label_values(SELECTOR, LABEL): the label is one of the selector's.
        let query = text(&variable["query"]["query"]);
        let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
        if let Some((selector, label)) = inner.and_then(|inner| inner.rsplit_once(',')) {
            let expression = format!("count by ({}) ({selector})", label.trim());
            found.push((text(&variable["name"]), expression));
        }
    }
    found
}

/// Name and labels of each sample: `name{label="value",…} number`.
fn known(metrics: &Metrics) -> Known {
    let mut known = Known::new();
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let Some((sample, _)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
        let own = known.entry(name.to_owned()).or_default();
        own.extend(names.map(str::to_owned));
        if own.contains("workload") {
            own.extend(OF_PODS.map(str::to_owned));
        }
    }
    known
}

fn ask(pods: &Pods, address: SocketAddr, request: &str) -> Result<()> {
    let mut stream = pods.pod_a.connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    Ok(())
}

/// Until the connection ends, or an answer is there.
fn ask_any(pods: &Pods, address: SocketAddr, request: &str) -> Result<()> {
    let mut stream = pods.pod_a.connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    ensure!(stream.read(&mut [0; 1000])? > 0, "no answer to {request}");
    Ok(())
}

/// The file with the service whose requests are routed, and its rules.
fn routes(pods: &Pods) -> Result<String> {
    let text = format!(
        "[[service]]\nname = \"routed\"\naddresses = [\"{ROUTED}\"]\n\
         endpoints = [\"{}:{}\"]\n\
         [[route]]\nparent = \"routed\"\n\
         [[route.rule]]\nmatch = [{{ path = \"/again\" }}]\nbackends = [{{ service = \"routed\" }}]\n\
         retry = {{ codes = \"503\", backoff = \"1ms\" }}\n\
         [[route.rule]]\nmatch = [{{ path = \"/late\" }}]\nbackends = [{{ service = \"routed\" }}]\n\
         timeouts = {{ request = \"1ms\" }}\nfault = {{ delay = {{ time = \"1h\", percent = 100 }} }}\n",
        CLIENT[0],
        PORT + 2
    );
    let file = pods.dir().join("routes.toml");
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_that_there_are() -> Result<()> {
    let pods = Pods::new()?;
    let answering = |port| -> Result<Peer> {
        let address = SocketAddr::new("::".parse()?, port);
        Peer::answering(pods.client_a.listen(address)?, ANSWER)
    };
    let failing = SocketAddr::new("::".parse()?, PORT + 2);
    let failing = Peer::answering(pods.client_a.listen(failing)?, FAILURE)?;
    let servers = [answering(PORT)?, answering(PORT + 1)?, failing];
    let server = SocketAddr::new(CLIENT[0].parse()?, PORT);
    let service = format!("{SERVICE}={server},{}:{}", CLIENT[0], PORT + 1);
    let mut weir = Run::new(&pods.node, pods.dir())
        .workload("a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns))
        .flags(&metrics::FLAGS)
        .flags(&["--service", &service, "--destination-metrics", "5"])
        .flags(&["--config", &routes(&pods)?])
        .start()?;
    ask(&pods, server, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    ask(&pods, SERVICE.parse()?, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    // A rule whose server has an answer that it asks for once more, and one that is too late.
    ask_any(&pods, ROUTED.parse()?, "GET /again HTTP/1.1\r\nhost: a\r\n\r\n")?;
    ask_any(&pods, ROUTED.parse()?, "GET /late HTTP/1.1\r\nhost: a\r\n\r\n")?;
    // Read in two ways: not followed.
    ask(&pods, server, "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")?;
    let dashboard = dashboard()?;
    let mut expressions = expressions(&dashboard);
    ensure!(expressions.len() > 19, "{expressions:?}");
    expressions.extend(rules::expressions()?);
    let recorded = rules::recorded()?;
    let mut wrong = Vec::new();
    let waited = wait_until("the metrics", PATIENCE, || {
        let mut known = known(&Metrics::scrape(&pods.node)?);
        let labels = ["workload", "direction", "reason"].map(str::to_owned);
        known.extend(recorded.iter().map(|name| (name.clone(), labels.clone().into())));
        wrong.clear();
        for (title, expression) in &expressions {
            let unknown = Uses::of(expression).with_context(|| title.clone())?.unknown(&known);
            wrong.extend(unknown.into_iter().map(|what| format!("{title}: {what}")));
        }
        Ok(wrong.is_empty())
    });
    waited.with_context(|| format!("there is no {wrong:#?}"))?;
    drop(servers);
    weir.stop()
}

#[test]
fn what_there_is_not_is_found() -> Result<()> {
    let own = BTreeSet::from(["workload".to_owned()]);
    let known = Known::from([("request_total".to_owned(), own)]);
    for (expression, expected) in [
        ("sum by (workload, node) (rate(request_total{workload=~\"a\"}[5m]))", vec![]),
        ("rate(requests_total[$__rate_interval])", vec!["metric \"requests_total\""]),
        ("request_total{workloads=\"a\"}", vec!["label workloads of request_total"]),
        ("1 - sum by (pot) (request_total)", vec!["label pot"]),
        ("request_total * on (pot) request_total", vec!["label pot"]),
    ] {
        assert_eq!(Uses::of(expression)?.unknown(&known), expected, "{expression}");
    }
    assert!(Uses::of("sum(rate(request_total[5m])").is_err());
    Ok(())
}

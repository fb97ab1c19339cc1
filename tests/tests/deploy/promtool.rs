//! Prometheus' own tool on what a running weir says: the text of a scrape, the rules, and what the rules make
//! of numbers that weir has served.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weir_tests::metrics::{self, Metrics};
use weir_tests::peer::Peer;
use weir_tests::pods::{CLIENT, Pods};
use weir_tests::process::{run, wait_until};
use weir_tests::site::PATIENCE;
use weir_tests::weir::Run;

const PORT: u16 = 8080;
const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
/// Requests between two scrapes.
const REQUESTS: u32 = 5;
/// What `promtool check metrics` has to say: the name is Linkerd's (docs/METRICS.md).
const KNOWN: &str = "response_latency_ms metric names should not contain abbreviated units";

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/weir.rules.yml")
}

/// A weir that captures a client of two servers: one that answers, and one that fails.
struct Place {
    pods: Pods,
    good: SocketAddr,
    bad: SocketAddr,
    _servers: [Peer; 2],
    weir: weir_tests::daemon::Daemon,
}

impl Place {
    fn new() -> Result<Self> {
        let pods = Pods::new()?;
        let start = |port, answer| -> Result<Peer> {
            Peer::answering(pods.client_a.listen(SocketAddr::new("::".parse()?, port))?, answer)
        };
        let servers = [start(PORT, GOOD)?, start(PORT + 1, BAD)?];
        let weir = Run::new(&pods.node, pods.dir())
            .workload("a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns))
            .flags(&metrics::FLAGS)
            .flags(&["--destination-metrics", "3"])
            .start()?;
        let (good, bad) = (
            SocketAddr::new(CLIENT[0].parse()?, PORT),
            SocketAddr::new(CLIENT[0].parse()?, PORT + 1),
        );
        Ok(Self { pods, good, bad, _servers: servers, weir })
    }

    /// Makes requests, and scrapes when all have been counted.
    fn after(&self, to: SocketAddr) -> Result<Metrics> {
        let ended = |metrics: &Metrics| metrics.sum("response_total", &["direction=\"outbound\""]);
        let before = ended(&Metrics::scrape(&self.pods.node)?);
        for _ in 0..REQUESTS {
            let mut stream = self.pods.pod_a.connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")?;
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
        let mut scraped = None;
        wait_until("the requests to be counted", PATIENCE, || {
            let metrics = Metrics::scrape(&self.pods.node)?;
            let counted = ended(&metrics) - before >= f64::from(REQUESTS);
            scraped = Some(metrics);
            Ok(counted)
        })?;
        scraped.context("nothing was scraped")
    }
}

/// Each series of a scrape with its value.
fn series(metrics: &Metrics) -> BTreeMap<&str, f64> {
    let lines = metrics.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

/// Half an hour of series that grow in each minute as they did from one scrape to the next, and what the rules
/// are to say of them at the end.
fn test_of(name: &str, before: &Metrics, after: &Metrics, alerts: &[&str]) -> String {
    let (before, after) = (series(before), series(after));
    let mut text = format!("- name: {name}\n  interval: 1m\n  input_series:\n");
    for (series, value) in &after {
        let from = before.get(series).copied().unwrap_or(0.0);
        let grows =
            series.contains("_total") || series.contains("_bucket") || series.contains("_count");
        let step = if grows { value - from } else { 0.0 };
        writeln!(text, "  - series: '{series}'\n    values: '{value}+{step}x30'")
            .expect("a string");
    }
    text.push_str("  promql_expr_test:\n");
    text.push_str(
        "  - expr: count by (alertname) (ALERTS{alertstate=\"firing\"})\n    eval_time: 25m\n",
    );
    text.push_str("    exp_samples:");
    text.push_str(if alerts.is_empty() { " []\n" } else { "\n" });
    for alert in alerts {
        writeln!(text, "    - labels: '{{alertname=\"{alert}\"}}'\n      value: 1")
            .expect("a string");
    }
    text
}

#[test]
fn promtool_understands_rules_and_metrics_and_the_rules_say_what_is_wrong() -> Result<()> {
    let checked = run(Command::new("promtool").args(["check", "rules"]).arg(rules()), PATIENCE)?;
    ensure!(checked.status.success(), "{}{}", checked.stdout, checked.stderr);

    let mut place = Place::new()?;
    let first = place.after(place.good)?;
    let good = place.after(place.good)?;
    let bad = place.after(place.bad)?;

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool: install Debian's package prometheus")?;
    let mut stdin = promtool.stdin.take().context("no stdin")?;
    let text = bad.text().to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let said = promtool.wait_with_output()?;
    writer.join().expect("the thread does not panic")?;
    let said = String::from_utf8([said.stdout, said.stderr].concat())?;
    ensure!(said.trim() == KNOWN, "promtool check metrics says: {said}");

    let tests = [
        test_of("all is well", &first, &good, &[]),
        test_of("requests fail", &good, &bad, &["WeirRequestsFail"]),
    ];
    let file = place.pods.dir().join("weir.test.yml");
    let head = format!("rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n", rules().display());
    fs::write(&file, head + &tests.concat())?;
    let tested = run(Command::new("promtool").args(["test", "rules"]).arg(&file), PATIENCE)?;
    ensure!(tested.status.success(), "{}{}", tested.stdout, tested.stderr);
    place.weir.stop()
}

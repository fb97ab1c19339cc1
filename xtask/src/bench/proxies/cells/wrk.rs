//! HTTP/1, with wrk.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Load, client};
use crate::bench::proxies::arena::HTTP1;
use crate::bench::proxies::proxy::Proxy;
use crate::bench::proxies::results::{Figure, Figures};

/// wrk's own text has no 99.9th percentile. Times in µs.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"us":%d,"p50":%f,"p99":%f,"p999":%f,"errors":%d}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

#[derive(Debug, Deserialize)]
struct Summary {
    requests: f64,
    us: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    /// Of the socket, and statuses from 400 on.
    errors: u64,
}

/// # Errors
///
/// Fails when one request does.
pub(super) fn load(
    proxy: &Proxy<'_>,
    connections: usize,
    kib: usize,
    seconds: u64,
) -> Result<Load> {
    let script = proxy.site.dir.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let mut command = proxy.site.arena.netns.command("wrk");
    command.args(["--threads", "1", "--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{seconds}s"), "--script"]).arg(script);
    command.arg(format!("http://{}/{kib}k", proxy.way.address(HTTP1)));
    read(&client(proxy, &command, seconds)?.stdout)
}

fn read(output: &str) -> Result<Load> {
    let line = output.lines().rev().find(|line| line.starts_with('{'));
    let it: Summary = serde_json::from_str(line.context("wrk has no summary")?)?;
    ensure!(it.errors == 0, "{} of {} requests failed", it.errors, it.requests);
    ensure!(it.requests > 0.0, "no request was answered");
    let figures = Figures::new([
        (Figure::Rate, it.requests / (it.us / 1e6)),
        (Figure::P50Us, it.p50),
        (Figure::P99Us, it.p99),
        (Figure::P999Us, it.p999),
    ]);
    Ok(Load { figures, units: it.requests })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 2s test @ http://127.0.0.1:8080/1k
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   449.00us  1.2ms   12.51ms   95.02%
  4000 requests in 2.00s, 5.01MB read
Requests/sec:   2000.00

";

    #[test]
    fn the_summary_of_the_script_is_read() {
        let line = r#"{"requests":4000,"us":2000000,"p50":449.000000,"p99":1750.000000,"p999":9000.5,"errors":0}"#;
        let load = read(&format!("{OUTPUT}{line}\n")).expect("a summary");
        assert_eq!(load.units, 4000.0);
        assert_eq!(load.figures.get(Figure::Rate), Some(2000.0));
        assert_eq!(load.figures.get(Figure::P999Us), Some(9000.5));
    }

    #[test]
    fn failed_requests_are_no_rate() {
        let line = r#"{"requests":4000,"us":2000000,"p50":4,"p99":5,"p999":6,"errors":3}"#;
        assert!(read(line).is_err());
        assert!(read(&line.replace("4000", "0").replace(":3}", ":0}")).is_err());
        assert!(read(OUTPUT).is_err());
    }
}

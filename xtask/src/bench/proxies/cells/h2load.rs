//! HTTP/2 and gRPC, with h2load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Cell, Load, client};
use crate::bench::proxies::client::Percentiles;
use crate::bench::proxies::proxy::Proxy;
use crate::bench::proxies::results::{Figure, Figures};

/// A gRPC frame (not compressed, length) with a protobuf message: field 1, a string of 62 bytes.
pub(in crate::bench::proxies) const GRPC_MESSAGE: &[u8] =
    b"\0\0\0\0\x40\x0a\x3eweir, weir, weir, weir, weir, weir, weir, weir, weir, weir, w!";

/// # Errors
///
/// Fails when one request does.
pub(super) fn load(
    proxy: &Proxy<'_>,
    cell: Cell,
    (connections, streams): (usize, usize),
    seconds: u64,
) -> Result<Load> {
    let log = proxy.site.dir.join("h2load.tsv");
    let _from_before = fs::remove_file(&log);
    let mut command = proxy.site.arena.netns.command("h2load");
    command.args(["--threads", "1", "--clients", &connections.to_string()]);
    command.args(["--max-concurrent-streams", &streams.to_string()]);
    command.args(["--duration", &seconds.to_string(), "--log-file"]).arg(&log);
    let address = proxy.way.address(cell.port());
    if matches!(cell, Cell::Grpc { .. }) {
        let message = proxy.site.dir.join("grpc.bin");
        fs::write(&message, GRPC_MESSAGE)?;
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers", "--data"]);
        command.arg(message).arg(format!("http://{address}/bench.Echo/Unary"));
    } else {
        command.arg(format!("http://{address}/1k"));
    }
    let output = client(proxy, &command, seconds)?.stdout;
    let (rate, done) = read(&output)?;
    let latency = latency(&log)?;
    let figures = Figures::new([
        (Figure::Rate, rate),
        (Figure::P50Us, latency.p50),
        (Figure::P99Us, latency.p99),
        (Figure::P999Us, latency.p999),
    ]);
    Ok(Load { figures, units: done })
}

/// Requests per second, and requests.
fn read(output: &str) -> Result<(f64, f64)> {
    let line = |name: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(name));
        line.with_context(|| format!("h2load says nothing about {name:?}"))
    };
    let rate = line("finished in ")?.split(", ").find_map(|part| part.strip_suffix(" req/s"));
    let rate = rate.context("h2load names no rate")?.parse()?;
    let requests = line("requests: ")?;
    let counted = |name: &str| number(requests, name);
    let (done, succeeded) = (counted("done")?, counted("succeeded")?);
    let bad = counted("failed")? + counted("errored")? + counted("timeout")?;
    let good = number(line("status codes: ")?, "2xx")?;
    ensure!(bad == 0.0 && done == succeeded && good >= done, "not all succeeded: {requests}");
    ensure!(done > 0.0, "no request was answered");
    Ok((rate, done))
}

/// The number before a word, as in `12 total, 11 done`.
fn number(text: &str, name: &str) -> Result<f64> {
    let mut parts = text.split(", ").map(str::trim);
    let part = parts.find_map(|part| part.strip_suffix(name)?.strip_suffix(' '));
    part.with_context(|| format!("h2load counts no {name}"))?.parse().context("no number")
}

/// From the log of single requests: start, status, µs. Status 0 or -1 is of those that were on their
/// way in the end.
fn latency(log: &Path) -> Result<Percentiles> {
    let text = fs::read_to_string(log).context("h2load has written no log")?;
    let micros = |line: &str| {
        let mut fields = line.split('\t').skip(1);
        let answered = fields.next()? == "200";
        answered.then(|| fields.next()?.parse().ok()).flatten()
    };
    let all: Vec<f64> = text.lines().filter_map(micros).collect();
    ensure!(!all.is_empty(), "h2load's log has no answered request");
    Ok(Percentiles::of(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "starting benchmark...
Application protocol: h2c

finished in 2.00s, 52000.50 req/s, 55.12MB/s
requests: 104001 total, 104501 started, 104001 done, 104001 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 104001 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 110.24MB (115596000) total
";

    #[test]
    fn rate_and_number_are_read() {
        assert_eq!(read(OUTPUT).expect("a rate"), (52000.5, 104_001.0));
    }

    #[test]
    fn failed_requests_are_no_rate() {
        for (good, bad) in [
            ("0 errored", "2 errored"),
            ("104001 succeeded, 0 failed", "104000 succeeded, 1 failed"),
            ("104001 2xx, 0 3xx, 0 4xx, 0 5xx", "0 2xx, 0 3xx, 0 4xx, 104001 5xx"),
            ("104001 done, 104001 succeeded", "0 done, 0 succeeded"),
            ("finished in", "ended in"),
        ] {
            assert!(read(&OUTPUT.replace(good, bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_answered_requests_have_a_latency() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "1\t200\t10\n2\t200\t30\n3\t-1\t9000\n4\t0\t9000\n").expect("write");
        let latency = latency(file.path()).expect("latencies");
        assert_eq!((latency.p50, latency.p999), (10.0, 30.0));
    }

    #[test]
    fn the_grpc_frame_has_the_length_that_it_says() {
        assert_eq!(GRPC_MESSAGE.len(), 5 + usize::from(GRPC_MESSAGE[4]));
        assert_eq!(GRPC_MESSAGE.len(), 7 + usize::from(GRPC_MESSAGE[6]));
    }
}

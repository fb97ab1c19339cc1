//! Raw TCP streams, with iperf3.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::process::Process;

use super::{Load, client};
use crate::bench::proxies::arena::IPERF;
use crate::bench::proxies::proxy::Proxy;
use crate::bench::proxies::results::{Figure, Figures};

/// # Errors
///
/// Fails when iperf3 does, which through a broken proxy may be by hanging.
pub(super) fn load(proxy: &Proxy<'_>, streams: usize, reverse: bool, seconds: u64) -> Result<Load> {
    let netns = &proxy.site.arena.netns;
    let mut server = netns.command("iperf3");
    let port = IPERF.to_string();
    server.args(["--server", "--one-off", "--bind", "127.0.0.1", "--port", &port]);
    // Killed when the client is done: a test that went wrong must not wait for another.
    let _server = Process::serve("iperf3", server, proxy.site.dir, (netns, IPERF))?;
    let address = proxy.way.address(IPERF);
    let mut command = netns.command("iperf3");
    command.args(["--json", "--client", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--time", &seconds.to_string(), "--parallel", &streams.to_string()]);
    command.args(reverse.then_some("--reverse"));
    read(&client(proxy, &command, seconds)?.stdout)
}

fn read(output: &str) -> Result<Load> {
    let output: Value = serde_json::from_str(output).context("iperf3 has written no JSON")?;
    ensure!(output["error"].is_null(), "iperf3: {}", output["error"]);
    let sum = &output["end"]["sum_received"];
    let number = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3 has no {name}"));
    let (bits, bytes) = (number("bits_per_second")?, number("bytes")?);
    ensure!(bytes > 0.0, "nothing arrived");
    let figures = Figures::new([(Figure::Rate, bits / 1e9)]);
    Ok(Load { figures, units: bytes / 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_counts() {
        let output = r#"{"end": {"sum_sent": {"bytes": 9e9, "bits_per_second": 9e10},
            "sum_received": {"bytes": 2500000000, "bits_per_second": 2e10}}}"#;
        let load = read(output).expect("a sum");
        assert_eq!((load.units, load.figures.get(Figure::Rate)), (2.5, Some(20.0)));
    }

    #[test]
    fn errors_are_no_rate() {
        for output in [
            r#"{"end": {}, "error": "unable to connect to server"}"#,
            r#"{"end": {}}"#,
            r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}"#,
            "",
        ] {
            assert!(read(output).is_err(), "{output}");
        }
    }
}

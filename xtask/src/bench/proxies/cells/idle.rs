//! What an idle connection takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Cell, Load};
use crate::bench::proxies::proxy::Proxy;
use crate::bench::proxies::results::{Figure, Figures};
use crate::bench::proxies::tools::load_command;

/// # Errors
///
/// Fails when one connection does.
pub(super) fn load(proxy: &Proxy<'_>, http: bool) -> Result<Load> {
    let mut command = load_command(&proxy.site.arena.netns)?;
    let connections = proxy.site.descriptors.idle();
    command.args(["idle", "--connections", &connections.to_string()]);
    command.args(http.then_some("--http"));
    command.arg(proxy.way.address(Cell::Idle { http }.port()).to_string());
    let (user, kernel) = (proxy.gauge.pss_kib(), socket_kib()?);
    let mut command = proxy.site.arena.client(&command);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut client = Client(child);
    client.wait_open()?;
    let each = |after: f64, before: f64| (after - before) / connections as f64;
    let figures = Figures::new([
        (Figure::UserKib, each(proxy.gauge.pss_kib(), user)),
        (Figure::SocketKib, each(socket_kib()?, kernel)),
    ]);
    client.close()?;
    Ok(Load { figures, units: connections as f64 })
}

/// The client's process; killed when dropped.
struct Client(Child);

// === impl Client ===

impl Client {
    /// Its own deadlines, one for each connection, end this.
    fn wait_open(&mut self) -> Result<()> {
        let stdout = self.0.stdout.take().context("stdout was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "open", "not all connections could be opened; see above");
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        drop(self.0.stdin.take());
        ensure!(self.0.wait()?.success(), "the client ended badly");
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

// === helpers ===

/// Buffers of all TCP sockets of the machine, all ends of a connection; KiB.
fn socket_kib() -> Result<f64> {
    let text = fs::read_to_string("/proc/net/sockstat").context("/proc/net/sockstat")?;
    pages(&text).map(|pages| pages * 4.0).context("sockstat has no TCP mem")
}

fn pages(sockstat: &str) -> Option<f64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split(' ').skip_while(|word| *word != "mem").skip(1);
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::pages;

    #[test]
    fn pages_are_found() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 7 mem 12\nUDP: inuse 1 mem 3\n";
        assert_eq!(pages(text), Some(12.0));
        assert_eq!(pages("sockets: used 9"), None);
    }
}

//! iptables REDIRECT, to the origin or to a proxy.

use std::time::Duration;

use anyhow::Result;
use weir_tests::netns::Netns;
use weir_tests::process::run;

use crate::bench::proxies::arena::{PROXIED, REDIRECTED};
use crate::bench::proxies::paths::Way;

const LIMIT: Duration = Duration::from_secs(20);

/// Rules; taken out again on drop.
pub(in crate::bench::proxies) struct Rules<'a> {
    netns: &'a Netns,
}

// === impl Rules ===

impl<'a> Rules<'a> {
    /// # Errors
    ///
    /// Fails when iptables does, such as where the kernel has no NAT.
    pub(in crate::bench::proxies) fn new(way: &Way, netns: &'a Netns) -> Result<Self> {
        let rules = Self { netns };
        for port in way.ports() {
            let to = if *way == Way::Redirect { *port } else { port + PROXIED };
            let (from, to) = ((port + REDIRECTED).to_string(), to.to_string());
            rules.iptables(&[
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "--dport",
                &from,
                "-j",
                "REDIRECT",
                "--to-ports",
                &to,
            ])?;
        }
        Ok(rules)
    }

    fn iptables(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.netns.command("iptables");
        run(command.args(["-w", "-t", "nat"]).args(arguments), LIMIT)?.ok()?;
        Ok(())
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.iptables(&["-F", "OUTPUT"]) {
            eprintln!("rules of iptables stay until the namespace goes: {error:#}");
        }
    }
}

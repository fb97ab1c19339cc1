//! weir, which captures what the clients' cgroup connects to on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use weir_tests::process::run;
use weir_tests::weir::binary;

use crate::bench::proxies::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF};
use crate::bench::proxies::paths::Weir;
use crate::bench::proxies::proxy::{Cores, Site};

/// Ports that nothing connects to: every second one, so that no range makes it easy.
fn other_ports() -> String {
    let list: Vec<_> = (0..10_000_u32).map(|at| (30_001 + 2 * at).to_string()).collect();
    list.join(",")
}

/// # Errors
///
/// Fails when weir was not built.
pub(in crate::bench::proxies) fn command(weir: Weir, site: &Site<'_>) -> Result<Command> {
    let _from_before = std::fs::remove_file(control(site.dir));
    let mut command = site.netns.command(binary()?);
    command.args(["run", "--capture-loopback", "--no-capture-inbound", "--log-level", "warn"]);
    command.arg("--cgroup").arg(site.clients).arg("--netns").arg(site.netns.path());
    command.arg("--control").arg(control(site.dir)).args(["--instance", site.instance]);
    command.args(["--workers", if site.cores == Cores::One { "1" } else { "0" }]);
    let ports = [HTTP1, HTTP2, GRPC, ECHO, IPERF].map(|port| port.to_string()).join(",");
    match weir {
        Weir::Skip => _ = command.arg("--skip-outbound-ports").arg(ports),
        Weir::SkipMany => {
            let list = format!("{ports},{}", other_ports());
            command.arg("--skip-outbound-ports").arg(list);
        }
        Weir::Opaque => _ = command.arg("--opaque-ports").arg(ports),
        Weir::Detect { engine, sk_msg } => {
            command.args(["--sk-msg", if sk_msg { "on" } else { "off" }]);
            if let Some(engine) = engine {
                command.args(["--http-engine", engine]);
            }
        }
    }
    Ok(command)
}

/// Whether it captures: it opens the control socket after that.
pub(in crate::bench::proxies) fn is_ready(dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(control(dir)).is_ok()
}

/// Removes what a weir has left in the kernel.
pub(in crate::bench::proxies) fn detach(instance: &str) {
    if let Ok(binary) = binary() {
        let mut command = Command::new(binary);
        let _looked_for_at_the_end =
            run(command.args(["detach", "--instance", instance]), Duration::from_secs(20));
    }
}

fn control(dir: &Path) -> PathBuf {
    dir.join("weir.sock")
}

//! weir, which captures what the clients' cgroup connects to on loopback.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use weir_tests::process::run;
use weir_tests::weir::binary;

use crate::bench::control::captured;
use crate::bench::proxies::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF};
use crate::bench::proxies::paths::Weir;
use crate::bench::proxies::proxy::{Cores, Site};

/// 10,000 ports that nothing connects to.
const OTHER_PORTS: &str = "30001-40000";

/// # Errors
///
/// Fails when weir was not built.
pub(in crate::bench::proxies) fn command(weir: Weir, site: &Site<'_>) -> Result<Command> {
    let _from_before = std::fs::remove_file(control(site.dir));
    let mut command = site.arena.netns.command(binary()?);
    command.args(["run", "--capture-loopback", "--no-capture-inbound", "--log-level", "warn"]);
    command
        .arg("--cgroup")
        .arg(site.arena.clients.path())
        .arg("--netns")
        .arg(site.arena.netns.path());
    command.arg("--control").arg(control(site.dir)).args(["--instance", site.instance]);
    command.args(["--workers", if site.cores == Cores::One { "1" } else { "0" }]);
    let ports = [HTTP1, HTTP2, GRPC, ECHO, IPERF].map(|port| port.to_string()).join(",");
    match weir {
        Weir::Skip => _ = command.arg("--skip-outbound-ports").arg(ports),
        Weir::SkipMany { scattered } => {
            let others = if scattered { scattered_ports() } else { OTHER_PORTS.to_owned() };
            command.arg("--skip-outbound-ports").arg(format!("{ports},{others}"));
        }
        Weir::Opaque => _ = command.arg("--opaque-ports").arg(ports),
        Weir::Tap => _ = command.args(["--http-engine", "tap"]),
        Weir::Detect { engine, sk_msg } => {
            command.args(["--sk-msg", if sk_msg { "on" } else { "off" }]);
            if let Some(engine) = engine {
                command.args(["--http-engine", engine]);
            }
        }
    }
    Ok(command)
}

/// Whether it captures.
pub(in crate::bench::proxies) fn is_ready(dir: &Path) -> bool {
    // No socket yet, or not yet its answer: it starts.
    UnixStream::connect(control(dir)).is_ok_and(|stream| matches!(captured(stream), Ok(1)))
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

/// As many as [`OTHER_PORTS`], of which no two are neighbours.
fn scattered_ports() -> String {
    let ports = (30_001..50_000).step_by(2).map(|port: u16| port.to_string());
    ports.collect::<Vec<_>>().join(",")
}

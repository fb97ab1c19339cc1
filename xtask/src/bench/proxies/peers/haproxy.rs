//! HAProxy.

use std::fmt::Write;
use std::process::Command;

use anyhow::Result;

use super::write;
use crate::bench::proxies::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF, PROXIED};
use crate::bench::proxies::paths::Layer;
use crate::bench::proxies::proxy::{Cores, Site};

/// # Errors
///
/// Fails when its configuration cannot be written.
pub(in crate::bench::proxies) fn command(layer: Layer, site: &Site<'_>) -> Result<Command> {
    let file = write(site, "haproxy.cfg", &configuration(layer, site))?;
    let mut command = site.arena.netns.command("haproxy");
    // In the foreground, without a master process.
    command.args(["-db", "-q", "-f"]).arg(file);
    Ok(command)
}

fn configuration(layer: Layer, site: &Site<'_>) -> String {
    let connections = site.descriptors.connections();
    let threads = if site.cores == Cores::One { "nbthread 1" } else { "" };
    let mut text = format!(
        "global\n maxconn {connections}\n maxpipes 500\n {threads}\n\
         defaults\n maxconn {connections}\n backlog 16384\n timeout connect 5s\n \
         timeout client 600s\n timeout server 600s\n"
    );
    let mut listen = |mode: &str, port: u16, protocol: &str| {
        let from = port + PROXIED;
        let _always_fits = writeln!(
            text,
            "listen p{port}\n {mode}\n bind 127.0.0.1:{from}{protocol}\n \
             server origin 127.0.0.1:{port}{protocol}"
        );
    };
    match layer {
        Layer::Http => {
            let mode = "mode http\n option http-keep-alive\n http-reuse always";
            listen(mode, HTTP1, "");
            listen(mode, HTTP2, " proto h2");
            listen(mode, GRPC, " proto h2");
        }
        Layer::Tcp => {
            for port in [HTTP1, HTTP2, GRPC, ECHO, IPERF] {
                listen("mode tcp\n option splice-auto", port, "");
            }
        }
    }
    text
}

//! Where everything of a measurement is: one network namespace with the origins, all on loopback.
//!
//! There are two of them, because connection tracking, which iptables needs, costs every connection
//! of a namespace.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use weir_tests::cgroup::Cgroup;
use weir_tests::netns::Netns;
use weir_tests::process::Process;

use super::tools::load_command;

/// nginx with files; HTTP/1.
pub(super) const HTTP1: u16 = 8080;
/// The same with HTTP/2 without TLS.
pub(super) const HTTP2: u16 = 8081;
/// gRPC on the h2 crate.
pub(super) const GRPC: u16 = 8082;
/// Sends back what it gets.
pub(super) const ECHO: u16 = 8083;
/// `iperf3 --server`, while one is measured.
pub(super) const IPERF: u16 = 8084;

/// Of a plain reverse proxy, above the origin's.
pub(super) const PROXIED: u16 = 10_000;
/// Nothing listens there: iptables sends it elsewhere.
pub(super) const REDIRECTED: u16 = 20_000;

/// So that one run of short connections after the other finds free ports: twice the ports of the
/// default, and those of closed connections again after a second (ip-sysctl.rst).
const SYSCTLS: [(&str, &str); 4] = [
    ("ip_local_port_range", "1024 65535"),
    ("ip_local_reserved_ports", "8080-8084,18080-18084,28080-28084"),
    ("tcp_tw_reuse", "1"),
    ("tcp_max_syn_backlog", "16384"),
];

/// A namespace with origins, and the cgroup that clients are in.
pub(super) struct Arena {
    pub(super) netns: Netns,
    /// What weir captures. Everything else is outside.
    pub(super) clients: Cgroup,
    _origins: Vec<Process>,
}

/// An address on loopback.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

// === impl Arena ===

impl Arena {
    /// Makes the namespace and starts the origins.
    ///
    /// # Errors
    ///
    /// Fails without root, or when an origin does not start.
    pub(super) fn new(role: &str, dir: &Path) -> Result<Self> {
        let netns = Netns::new(role)?;
        netns.enter(tune)??;
        let clients = Cgroup::new(role)?;
        let nginx = nginx(&netns, &dir.join(role))?;
        let mut command = load_command(&netns)?;
        command.args(["origin", "--echo"]).arg(local(ECHO).to_string());
        command.arg("--grpc").arg(local(GRPC).to_string());
        let own = Process::serve(&format!("origin-{role}"), command, dir, (&netns, GRPC))?;
        Ok(Self { netns, clients, _origins: vec![nginx, own] })
    }

    /// A client's command: in the namespace and in the cgroup.
    pub(super) fn client(&self, command: &Command) -> Command {
        self.clients.wrap(command)
    }
}

// === helpers ===

fn tune() -> Result<()> {
    for (name, value) in SYSCTLS {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
    }
    fs::write("/proc/sys/net/core/somaxconn", "16384").context("cannot write somaxconn")
}

fn nginx(netns: &Netns, dir: &Path) -> Result<Process> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("1k"), body(1024))?;
    fs::write(dir.join("64k"), body(64 * 1024))?;
    let root = dir.display();
    // sendfile: with HTTP/2 the last frame waits for a delayed acknowledgement (44 ms).
    let server = |listen: &str, sendfile: &str| {
        format!(
            "server {{ listen 127.0.0.1:{listen} backlog=16384; sendfile {sendfile}; root {root};
               location = /peer {{ return 200 $remote_port; }} }}"
        )
    };
    let text = format!(
        "daemon off; worker_processes auto; pid {root}/pid; error_log {root}/error.log;
         events {{ worker_connections 32768; }}
         http {{
           access_log off; default_type application/octet-stream; tcp_nopush off;
           client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
           uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
           open_file_cache max=100; keepalive_timeout 600s; keepalive_requests 1000000000;
           http2_max_concurrent_streams 1000;
           {}
           {}
         }}",
        server(&HTTP1.to_string(), "on"),
        server(&format!("{HTTP2} http2"), "off"),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = netns.command("nginx");
    command.arg("-c").arg(file).args(["-e", "stderr", "-g", "user root;"]);
    Process::serve("nginx-origin", command, dir, (netns, HTTP2))
}

/// What the origin's files contain.
pub(super) fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b"0123456789abcdef"[at % 16]).collect()
}

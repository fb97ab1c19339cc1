//! nginx. It speaks HTTP/2 to origins only for gRPC; other requests that come by HTTP/2 go on by
//! HTTP/1 to the same files.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::Result;

use super::write;
use crate::bench::proxies::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF, PROXIED};
use crate::bench::proxies::paths::Layer;
use crate::bench::proxies::proxy::{Cores, Site};

/// Where Debian puts modules.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// # Errors
///
/// Fails when its configuration cannot be written.
pub(in crate::bench::proxies) fn command(layer: Layer, site: &Site<'_>) -> Result<Command> {
    let root = site.dir.join("nginx-peer");
    fs::create_dir_all(&root)?;
    let workers = if site.cores == Cores::One { "1" } else { "auto" };
    let connections = site.descriptors.connections() * 2;
    let body = match layer {
        Layer::Http => http(&root.display().to_string()),
        Layer::Tcp => stream(),
    };
    let text = format!(
        "load_module {STREAM_MODULE};\n\
         daemon off; worker_processes {workers}; user root;\n\
         pid {root}/pid; error_log stderr error;\n\
         events {{ worker_connections {connections}; }}\n{body}",
        root = root.display(),
    );
    let file = write(site, "nginx-peer.conf", &text)?;
    let mut command = site.arena.netns.command("nginx");
    command.args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

fn http(root: &str) -> String {
    let server = |port: u16, protocol: &str, pass: &str| {
        format!(
            "server {{ listen 127.0.0.1:{}{protocol} backlog=16384; location / {{ {pass} }} }}\n",
            port + PROXIED
        )
    };
    let pass = "proxy_pass http://files; proxy_http_version 1.1; \
                proxy_set_header Connection \"\"; proxy_max_temp_file_size 0; proxy_buffers 16 16k;";
    let grpc = "grpc_pass grpc://grpc;";
    format!(
        "http {{ access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;\n\
         client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
         uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
         upstream files {{ server 127.0.0.1:{HTTP1}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         upstream grpc {{ server 127.0.0.1:{GRPC}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         {}{}{}}}\n",
        server(HTTP1, "", pass),
        server(HTTP2, " http2", pass),
        server(GRPC, " http2", grpc),
    )
}

fn stream() -> String {
    let mut text = "stream {\n proxy_timeout 600s; tcp_nodelay on;\n".to_owned();
    for port in [HTTP1, HTTP2, GRPC, ECHO, IPERF] {
        let from = port + PROXIED;
        let _always_fits = writeln!(
            text,
            " server {{ listen 127.0.0.1:{from} backlog=16384; proxy_pass 127.0.0.1:{port}; }}"
        );
    }
    text + "}\n"
}

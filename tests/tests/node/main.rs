//! `weir node` beside an API server that behaves and misbehaves as a cluster's, with pods made of
//! real cgroups, network namespaces and processes, and with traffic through them.

mod conformance;
mod directory;
mod going;
mod hundred;
mod live;
mod optin;
mod outages;
mod refused;
mod restarts;
mod routes;
mod secure;
mod services;
mod sidecars;
mod sooner;
mod telling;

use serde_json::{Value, json};
use weir_tests::kube::cluster::SHOP;
use weir_tests::kube::object::{Owner, annotate, pod, uid};

const INJECT: &str = "weir.dev/inject";
const SKIP_INBOUND: &str = "config.weir.dev/skip-inbound-ports";
const SKIP_OUTBOUND: &str = "config.weir.dev/skip-outbound-ports";
const OPAQUE: &str = "config.weir.dev/opaque-ports";
const FAIL: &str = "config.weir.dev/fail";
const CLIENT_IP: &str = "config.weir.dev/preserve-client-ip";

/// No list of weir's names it.
const PORT: u16 = 9000;
/// Another one.
const OTHER: u16 = 9001;

/// An object of the shop's namespace.
fn object(kind: &str, version: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({
        "kind": kind, "apiVersion": version,
        "metadata": {"name": name, "namespace": SHOP, "uid": uid()},
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    object
}

/// A pod that opts in.
fn opted(name: &str, owner: Owner) -> Value {
    let mut pod = pod(SHOP, name, owner);
    annotate(&mut pod, INJECT, Some("enabled"));
    pod
}

//! Whether Kubernetes knows every field of an object: a round trip through the types that
//! k8s-openapi has made of its OpenAPI schemas. What comes back must be what went in: a field that
//! is not in the type is missing, one of another type is refused, and one that is required and was
//! not there appears.
//!
//! Values of strings are not judged (`type: RollingUpdates` passes).

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The Prometheus operator's PodMonitor, as far as the chart uses it: its types are in no crate that is
/// kept up to date. From api.md of prometheus-operator, `PodMonitorSpec`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMonitor {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: PodMonitorSpec,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMonitorSpec {
    selector: LabelSelector,
    namespace_selector: NamespaceSelector,
    pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NamespaceSelector {
    match_names: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMetricsEndpoint {
    port: String,
    path: String,
    interval: String,
    scrape_timeout: String,
    honor_labels: bool,
    relabelings: Vec<RelabelConfig>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RelabelConfig {
    source_labels: Vec<String>,
    target_label: String,
}

/// What is wrong with an object; nothing where all is well.
pub(super) fn problems(object: &Value) -> Vec<String> {
    let name = |key: &str| object[key].as_str().unwrap_or_default();
    match (name("apiVersion"), name("kind")) {
        ("v1", "ConfigMap") => round_trip::<ConfigMap>(object),
        ("v1", "Pod") => round_trip::<Pod>(object),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => round_trip::<DaemonSet>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => round_trip::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            round_trip::<ClusterRoleBinding>(object)
        }
        ("monitoring.coreos.com/v1", "PodMonitor") => round_trip::<PodMonitor>(object),
        (version, kind) => vec![format!("{version} {kind} is not known here")],
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    let again = T::deserialize(object).and_then(serde_json::to_value);
    match again {
        Ok(again) => differences("", object, &again),
        Err(error) => vec![error.to_string()],
    }
}

fn differences(path: &str, before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let unknown = before.keys().filter(|key| !after.contains_key(*key));
            let required = after.keys().filter(|key| !before.contains_key(*key));
            let both = before.iter().filter_map(|(key, value)| Some((key, value, after.get(key)?)));
            unknown
                .map(|key| format!("{path}.{key} is no field"))
                .chain(required.map(|key| format!("{path}.{key} is required")))
                .chain(both.flat_map(|(key, before, after)| {
                    differences(&format!("{path}.{key}"), before, after)
                }))
                .collect()
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            let pairs = before.iter().zip(after).enumerate();
            let each = pairs.flat_map(|(at, (before, after))| {
                differences(&format!("{path}[{at}]"), before, after)
            });
            each.collect()
        }
        _ if before == after => Vec::new(),
        _ => vec![format!("{path} is {before}, and {after} to Kubernetes")],
    }
}

//! Pods and namespaces as a cluster's API has them, in the shape that `kubectl get -o json
//! --show-managed-fields` shows, with names and UIDs put in.

use serde_json::{Value, json};

use super::store::{Key, Kind};

/// The only node that tests watch.
pub const NODE: &str = "worker-1";

/// What has made a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A Deployment, by its ReplicaSet.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
    /// A Job.
    Job,
    /// No owner.
    None,
}

/// The quality of service, which decides where the kubelet puts the pod's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// All containers have limits that are their requests.
    Guaranteed,
    /// Some have requests or limits.
    Burstable,
    /// None has.
    BestEffort,
}

// === impl Owner ===

impl Owner {
    const fn fixture(self) -> &'static str {
        match self {
            Self::Deployment => include_str!("../../fixtures/kube/deployment-pod.json"),
            Self::StatefulSet => include_str!("../../fixtures/kube/statefulset-pod.json"),
            Self::DaemonSet => include_str!("../../fixtures/kube/daemonset-pod.json"),
            Self::Job => include_str!("../../fixtures/kube/job-pod.json"),
            Self::None => include_str!("../../fixtures/kube/plain-pod.json"),
        }
    }
}

// === impl Qos ===

impl Qos {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    const fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A pod that runs on [`NODE`], with a UID of its own.
///
/// # Panics
///
/// Panics when a fixture is no JSON.
#[must_use]
pub fn pod(namespace: &str, name: &str, owner: Owner) -> Value {
    let mut pod: Value = serde_json::from_str(owner.fixture()).expect("a fixture is JSON");
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["uid"] = json!(uid());
    pod["spec"]["nodeName"] = json!(NODE);
    pod
}

/// A namespace.
///
/// # Panics
///
/// Panics when the fixture is no JSON.
#[must_use]
pub fn namespace(name: &str) -> Value {
    let text = include_str!("../../fixtures/kube/namespace.json");
    let mut namespace: Value = serde_json::from_str(text).expect("a fixture is JSON");
    namespace["metadata"]["name"] = json!(name);
    namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
    namespace["metadata"]["uid"] = json!(uid());
    namespace
}

/// Gives a pod another quality of service.
pub fn set_qos(pod: &mut Value, qos: Qos) {
    pod["status"]["qosClass"] = json!(qos.name());
}

/// The quality of service of a pod.
#[must_use]
pub fn qos(pod: &Value) -> Qos {
    let name = &pod["status"]["qosClass"];
    Qos::ALL.into_iter().find(|qos| name == qos.name()).unwrap_or(Qos::BestEffort)
}

/// Puts a pod into the network of its node, as `hostNetwork: true` does.
pub fn set_host_network(pod: &mut Value) {
    pod["spec"]["hostNetwork"] = json!(true);
    pod["status"]["podIP"] = pod["status"]["hostIP"].clone();
    pod["status"]["podIPs"] = json!([{"ip": pod["status"]["hostIP"]}]);
}

/// Lets a pod end: `Succeeded` or `Failed`.
pub fn set_ended(pod: &mut Value, phase: &str) {
    let code = i32::from(phase != "Succeeded");
    pod["status"]["phase"] = json!(phase);
    for container in pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
        container["ready"] = json!(false);
        container["started"] = json!(false);
        let reason = if code == 0 { "Completed" } else { "Error" };
        container["state"] = json!({"terminated": {"exitCode": code, "reason": reason,
            "startedAt": "2026-11-20T09:12:35Z", "finishedAt": "2026-11-20T09:14:02Z"}});
    }
    for condition in pod["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
            condition["status"] = json!("False");
            condition["reason"] = json!("PodCompleted");
        }
    }
}

/// Sets an annotation, or takes it away.
pub fn annotate(object: &mut Value, name: &str, value: Option<&str>) {
    let annotations = &mut object["metadata"]["annotations"];
    match (value, annotations.as_object_mut()) {
        (Some(value), _) => annotations[name] = json!(value),
        (None, Some(annotations)) => drop(annotations.remove(name)),
        (None, None) => {}
    }
}

/// The key of an object.
///
/// # Panics
///
/// Panics when it is of no kind that is served.
#[must_use]
pub fn key(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.name());
    (kind.expect("a kind that is served"), text("namespace"), text("name"))
}

/// A random UUID (RFC 9562, version 4).
#[must_use]
pub fn uid() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62) | (0x4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &hex[range]);
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_look_like_uids() {
        let uid = uid();
        let lengths: Vec<_> = uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{uid}");
        assert!(uid.as_bytes()[14] == b'4' && b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
    }

    #[test]
    fn fixtures_are_whole() {
        for (owner, kind) in [
            (Owner::Deployment, json!("ReplicaSet")),
            (Owner::StatefulSet, json!("StatefulSet")),
            (Owner::DaemonSet, json!("DaemonSet")),
            (Owner::Job, json!("Job")),
            (Owner::None, Value::Null),
        ] {
            let mut pod = pod("shop", "cart", owner);
            assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], kind);
            assert_eq!(pod["status"]["phase"], "Running");
            assert!(pod["metadata"]["managedFields"].is_array(), "{owner:?}");
            assert!(pod["status"]["containerStatuses"][0]["containerID"].is_string(), "{owner:?}");
            set_qos(&mut pod, Qos::Guaranteed);
            assert_eq!(qos(&pod), Qos::Guaranteed);
            annotate(&mut pod, "a", Some("b"));
            assert_eq!(pod["metadata"]["annotations"]["a"], "b");
            annotate(&mut pod, "a", None);
            assert_eq!(pod["metadata"]["annotations"]["a"], Value::Null);
        }
        assert_eq!(key(&namespace("shop")), (Kind::Namespace, String::new(), "shop".to_owned()));
    }
}

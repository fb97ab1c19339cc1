//! A pod as far as weir is concerned.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod as KubePod, PodSpec};
use weir_manifest::{SIDECAR, SIDECAR_MODE};

use crate::pod::Pod;

/// Annotation of a static pod with the UID that its cgroup is named by: the API server's mirror has
/// another one (kubelet's `pkg/kubelet/types/pod_update.go`).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation with the cgroup of a pod that has no UID: for `--pods-dir`.
const CGROUP: &str = "weir.dev/cgroup";
/// Label of a Deployment's pods, with what it appends to its ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod that a source knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pod: Pod,
    pub(super) place: Place,
    /// It is in the node's own network.
    pub(super) host_network: bool,
    /// The container that captures it from inside, if it has one.
    pub(super) sidecar: Option<String>,
    /// Its sandbox should be there.
    pub(super) running: bool,
    /// It has been deleted, and ends.
    pub(super) ending: bool,
    /// It has ended, for good.
    pub(super) over: bool,
    pub(super) annotations: BTreeMap<String, String>,
    /// Those of its namespace.
    pub(super) of_namespace: BTreeMap<String, String>,
}

/// How its cgroup is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By the UID that the kubelet has named it by.
    Uid(String),
    /// It has been said.
    Path(PathBuf),
}

// === impl Seen ===

impl Seen {
    /// `None` for what lacks a name or a UID, which no pod of an API server does.
    pub(super) fn new(pod: &KubePod, of_namespace: BTreeMap<String, String>) -> Option<Self> {
        let metadata = &pod.metadata;
        let annotations = metadata.annotations.clone().unwrap_or_default();
        let name = metadata.name.clone()?;
        let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let place = match (annotations.get(CONFIG_HASH), &metadata.uid, annotations.get(CGROUP)) {
            (Some(hash), ..) => Place::Uid(hash.clone()),
            (None, Some(uid), _) => Place::Uid(uid.clone()),
            (None, None, Some(path)) => Place::Path(path.into()),
            (None, None, None) => return None,
        };
        let uid = match (&metadata.uid, &place) {
            (Some(uid), _) | (None, Place::Uid(uid)) => uid.clone(),
            (None, Place::Path(path)) => path.display().to_string(),
        };
        let (workload_kind, workload_name) = owner(pod, &name);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Some(Self {
            pod: Pod { uid, namespace, name, workload_kind, workload_name },
            place,
            host_network: pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
            sidecar: pod.spec.as_ref().and_then(sidecar).map(|it| it.name.clone()),
            // A manifest without a status is of a pod that runs.
            running: matches!(phase, Some("Running") | None),
            ending: metadata.deletion_timestamp.is_some(),
            over: matches!(phase, Some("Succeeded" | "Failed")),
            annotations,
            of_namespace,
        })
    }

    /// The name of its workload: unique on the node, and within the bounds of workloads' names.
    pub(super) fn workload(&self) -> String {
        const MAX: usize = 63;
        const DIGITS: usize = 8;
        // A namespace has no dot in it (RFC 1123 label).
        let name = format!("{}.{}", self.pod.namespace, self.pod.name);
        let fits = name.len() <= MAX;
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .take(if fits { MAX } else { MAX - DIGITS - 1 })
            .collect();
        if fits {
            return name;
        }
        let digits = self.pod.uid.chars().filter(char::is_ascii_alphanumeric);
        let digits: String = digits.take(DIGITS).collect();
        format!("{name}-{digits}")
    }
}

/// What of a pod's spec is looked at.
pub(super) fn slim(spec: &PodSpec) -> PodSpec {
    let sidecar = sidecar(spec).map(|container| Container {
        name: container.name.clone(),
        image: container.image.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        ..Container::default()
    });
    PodSpec {
        host_network: spec.host_network,
        init_containers: sidecar.map(|container| vec![container]),
        ..PodSpec::default()
    }
}

// === helpers ===

/// The container that runs `weir run --sidecar`, native sidecar or not: as `weir inject` writes it, and
/// as people do, with another name, or with a shell around it.
fn sidecar(spec: &PodSpec) -> Option<&Container> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.into_iter().find(|container| {
        let lines = container.command.iter().chain(&container.args).flatten();
        let words: Vec<&str> = lines.flat_map(|line| line.split_whitespace()).collect();
        let is_weir = |path: &str| path.rsplit('/').next() == Some(SIDECAR);
        let image = container.image.as_deref().unwrap_or_default();
        let image = image.split('@').next().unwrap_or_default();
        let (place, name) = image.rsplit_once('/').unwrap_or(("", image));
        let image = format!("{place}/{}", name.split(':').next().unwrap_or_default());
        words.contains(&SIDECAR_MODE)
            && (container.name == SIDECAR || is_weir(&image) || words.iter().any(|it| is_weir(it)))
    })
}

/// What the pod belongs to in the end. Only what its name and labels tell: asking for the owner's
/// owner would need more rights.
fn owner(pod: &KubePod, name: &str) -> (String, String) {
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return ("Pod".to_owned(), name.to_owned());
    };
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
    let deployment =
        hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => ("Deployment".to_owned(), deployment.to_owned()),
        ("Job", _) => match scheduled(&owner.name) {
            Some(cron_job) => ("CronJob".to_owned(), cron_job.to_owned()),
            None => ("Job".to_owned(), owner.name.clone()),
        },
        (kind, _) => (kind.to_owned(), owner.name.clone()),
    }
}

/// The CronJob that has named a Job: it appends the scheduled time in minutes since 1970.
fn scheduled(job: &str) -> Option<&str> {
    let (cron_job, time) = job.rsplit_once('-')?;
    ((8..=10).contains(&time.len()) && time.bytes().all(|b| b.is_ascii_digit())).then_some(cron_job)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(metadata: serde_json::Value, rest: serde_json::Value) -> Option<Seen> {
        let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata });
        pod.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        Seen::new(&serde_json::from_value(pod).unwrap(), BTreeMap::new())
    }

    fn of(kind: &str, name: &str, labels: serde_json::Value) -> (String, String) {
        let owner = json!([{ "apiVersion": "x/v1", "kind": kind, "name": name, "uid": "o",
            "controller": true }]);
        let metadata = json!({ "name": "p", "namespace": "n", "uid": "u", "labels": labels,
            "ownerReferences": owner });
        let pod = seen(metadata, json!({})).unwrap().pod;
        (pod.workload_kind, pod.workload_name)
    }

    #[test]
    fn the_workload_is_what_a_person_has_made() {
        let is = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
        let hash = json!({ TEMPLATE_HASH: "5d9c7b8f6d" });
        assert_eq!(of("ReplicaSet", "web-a-5d9c7b8f6d", hash), is("Deployment", "web-a"));
        assert_eq!(of("ReplicaSet", "web-a", json!({})), is("ReplicaSet", "web-a"));
        assert_eq!(of("StatefulSet", "db", json!({})), is("StatefulSet", "db"));
        assert_eq!(of("Job", "report-28765440", json!({})), is("CronJob", "report"));
        assert_eq!(of("Job", "migrate-2", json!({})), is("Job", "migrate-2"));
        let alone = seen(json!({ "name": "p", "uid": "u" }), json!({})).unwrap().pod;
        assert_eq!((alone.workload_kind, alone.workload_name), is("Pod", "p"));
        assert_eq!(alone.namespace, "default");
    }

    #[test]
    fn the_cgroup_is_named_by_the_uid_or_a_static_pods_hash() {
        let place = |metadata| seen(metadata, json!({})).map(|seen| seen.place);
        let uid = |uid: &str| Some(Place::Uid(uid.to_owned()));
        assert_eq!(place(json!({ "name": "p", "uid": "u" })), uid("u"));
        let mirror = json!({ "name": "p", "uid": "u", "annotations": { CONFIG_HASH: "h" } });
        assert_eq!(place(mirror), uid("h"));
        let path = json!({ "name": "p", "annotations": { CGROUP: "/c/p" } });
        assert_eq!(place(path), Some(Place::Path("/c/p".into())));
        assert_eq!(place(json!({ "name": "p" })), None);
    }

    #[test]
    fn phases_say_whether_it_runs() {
        let phase = |phase: &str| {
            let seen =
                seen(json!({ "name": "p", "uid": "u" }), json!({ "status": { "phase": phase } }));
            let seen = seen.unwrap();
            (seen.running, seen.over)
        };
        assert_eq!(phase("Pending"), (false, false));
        assert_eq!(phase("Running"), (true, false));
        assert_eq!(phase("Succeeded"), (false, true));
        assert_eq!(phase("Failed"), (false, true));
        assert!(seen(json!({ "name": "p", "uid": "u" }), json!({})).unwrap().running);
    }

    #[test]
    fn a_pod_that_captures_itself_is_told_by_its_sidecar() {
        let sidecar = |spec: serde_json::Value| {
            let whole = seen(json!({ "name": "p", "uid": "u" }), json!({ "spec": spec.clone() }));
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let slim = json!({ "spec": slim(&spec) });
            let (whole, slim) = (whole.unwrap(), seen(json!({ "name": "p", "uid": "u" }), slim));
            assert_eq!(whole, slim.unwrap(), "what is not kept is not looked at");
            whole.sidecar
        };
        let app = json!({ "name": "app", "image": "shop:1", "args": ["run", "--sidecar"] });
        assert_eq!(sidecar(json!({ "containers": [app] })), None);
        // As `weir inject --sidecar` makes it, with both keys of annotations or none.
        let text =
            "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n";
        let injected = weir_manifest::inject_sidecar(text.as_bytes(), &Default::default());
        let pod: serde_json::Value = serde_saphyr::from_str(&injected.unwrap().text).unwrap();
        assert_eq!(sidecar(pod["spec"].clone()).as_deref(), Some("weir"));
        for (container, is) in [
            (json!({ "name": "weir", "args": ["run", "--sidecar"] }), true),
            (
                json!({ "name": "proxy", "image": "r:5000/x/weir:1", "args": ["run", "--sidecar"] }),
                true,
            ),
            (json!({ "name": "proxy", "image": "weir@sha256:ab", "args": ["--sidecar"] }), true),
            (
                json!({ "name": "p", "command": ["/usr/local/bin/weir"], "args": ["run", "--sidecar"] }),
                true,
            ),
            (json!({ "name": "p", "command": ["sh", "-c", "exec weir run --sidecar"] }), true),
            (json!({ "name": "weir", "args": ["run", "--standby"] }), false),
            (json!({ "name": "weird", "image": "weird:1", "args": ["run", "--sidecar"] }), false),
        ] {
            let name = container["name"].as_str().map(str::to_owned).filter(|_| is);
            let spec = json!({ "containers": [app, container.clone()] });
            assert_eq!(sidecar(spec), name, "{container}");
            let spec = json!({ "initContainers": [container.clone()], "containers": [app] });
            assert_eq!(sidecar(spec), name, "{container}");
        }
    }

    #[test]
    fn long_names_are_shortened_and_stay_apart() {
        let name = |name: &str, uid: &str| {
            let seen = seen(json!({ "name": name, "namespace": "shop", "uid": uid }), json!({}));
            seen.unwrap().workload()
        };
        assert_eq!(name("web-0", "u"), "shop.web-0");
        let long = "x".repeat(80);
        let (one, other) = (name(&long, "0ff2a1b8-3c4d"), name(&long, "1ff2a1b8-3c4d"));
        assert_eq!(one.len(), 63);
        assert!(one.ends_with("x-0ff2a1b8"), "{one}");
        assert_ne!(one, other);
        assert_eq!(name(&"y".repeat(58), "u").len(), 63);
    }
}

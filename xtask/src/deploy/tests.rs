//! The chart and the plain manifests, against Kubernetes' own types and against weir.

use std::fs;

use serde_json::Value;
use weir::privileges::NEEDS;

use super::*;

const EVERY_OPTION: &str = include_str!("every-option.yaml");

fn yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn rendered(values: &Value) -> Vec<Value> {
    let rendered = helm::render(&chart(&crate::root()), values, NAMESPACE).unwrap();
    helm::objects(rendered).iter().flat_map(|text| yaml(text)).collect()
}

fn refused(values: Value) -> String {
    let error = helm::render(&chart(&crate::root()), &values, NAMESPACE).unwrap_err();
    format!("{error:#}")
}

fn every_option() -> Value {
    yaml(EVERY_OPTION).remove(0)
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn container(objects: &[Value]) -> &Value {
    &of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// The paths of all fields, but for those in maps whose keys are free.
fn fields(path: &str, value: &Value) -> Vec<String> {
    const FREE: [&str; 8] = [
        "annotations",
        "data",
        "labels",
        "limits",
        "matchLabels",
        "nodeSelector",
        "requests",
        "values",
    ];
    match value {
        Value::Object(map) => {
            let below = map.iter().flat_map(|(key, value)| {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                let inner =
                    if FREE.contains(&key.as_str()) { vec![] } else { fields(&path, value) };
                [path].into_iter().chain(inner)
            });
            below.collect()
        }
        Value::Array(items) => {
            let each = items.iter().enumerate();
            each.flat_map(|(at, item)| fields(&format!("{path}/{at}"), item)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_plain_manifests_are_what_the_chart_renders() {
    let (path, text) = (manifests(&crate::root()), plain(&crate::root()).unwrap());
    assert!(fs::read_to_string(&path).unwrap_or_default() == text, "{}", stale(&path));
}

#[test]
fn kubernetes_knows_every_field() {
    let plain = fs::read_to_string(manifests(&crate::root())).unwrap();
    for objects in [yaml(&plain), rendered(&json!({})), rendered(&every_option())] {
        for object in &objects {
            assert_eq!(schema::problems(object), [""; 0], "{object:#}");
        }
    }
    assert_eq!(yaml(&plain).len(), 4, "account, role, binding and set");
    assert_eq!(rendered(&every_option()).len(), 7, "and settings, monitor and dashboard");
}

/// Of what this file tests with: each field misspelt, and each required one left out.
#[test]
fn a_misspelt_field_is_found_wherever_it_is() {
    let mut tried = 0;
    for object in rendered(&every_option()).iter().chain(&rendered(&json!({}))) {
        for path in fields("", object) {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let mut changed = object.clone();
            let parent = changed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            let value = parent.remove(&key.replace("~1", "/").replace("~0", "~")).unwrap();
            parent.insert(format!("{key}s"), value);
            assert!(!schema::problems(&changed).is_empty(), "{path} misspelt passes");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    let mut without = of_kind(&rendered(&json!({})), "DaemonSet").clone();
    without["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(schema::problems(&without), [".spec.selector is required"]);
    let mut other_type = of_kind(&rendered(&json!({})), "DaemonSet").clone();
    other_type["spec"]["template"]["spec"]["hostPID"] = json!("yes");
    assert!(!schema::problems(&other_type).is_empty());
}

#[test]
fn every_value_of_the_chart_is_tried() {
    fn keys(path: &str, value: &Value, out: &mut Vec<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            keys(&path, value, out);
            out.push(path);
        }
    }
    let text = fs::read_to_string(chart(&crate::root()).join("values.yaml")).unwrap();
    let default = yaml(&text).remove(0);
    let (mut all, mut tried) = (Vec::new(), Vec::new());
    keys("", &default, &mut all);
    keys("", &every_option(), &mut tried);
    // Keys of maps that are the operator's own.
    let fixed = |path: &&String| {
        !path.contains("nodeSelector.") && !path.contains("labels.") && !path.contains("requests.")
    };
    for path in all.iter().filter(fixed) {
        assert!(tried.contains(path), "{path} is not tried");
    }
}

#[test]
fn values_that_nobody_reads_are_refused() {
    for (values, named) in [
        (json!({ "imagePullPolicy": "Always" }), "imagePullPolicy"),
        (json!({ "image": { "tags": "1" } }), "tags"),
        (json!({ "admin": { "port": "http" } }), "port"),
        (json!({ "log": { "format": "xml" } }), "format"),
        (json!({ "drainDeadlineSeconds": -1 }), "drainDeadlineSeconds"),
    ] {
        let error = refused(values);
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn the_chart_has_weirs_version() {
    let text = fs::read_to_string(chart(&crate::root()).join("Chart.yaml")).unwrap();
    let chart = yaml(&text).remove(0);
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn weir_may_do_in_the_cluster_what_it_needs_and_nothing_else() {
    let objects = rendered(&json!({}));
    let rules = of_kind(&objects, "ClusterRole")["rules"].as_array().unwrap().clone();
    let expected = [
        ("", "pods", vec!["get", "list", "watch"]),
        ("", "namespaces", vec!["get", "list", "watch"]),
        ("", "services", vec!["get", "list", "watch"]),
        ("discovery.k8s.io", "endpointslices", vec!["get", "list", "watch"]),
        ("gateway.networking.k8s.io", "httproutes grpcroutes", vec!["get", "list", "watch"]),
        ("gateway.networking.k8s.io", "httproutes/status grpcroutes/status", vec!["patch"]),
        ("events.k8s.io", "events", vec!["create", "patch"]),
    ];
    assert_eq!(rules.len(), expected.len(), "{rules:?}");
    for (rule, (group, resource, verbs)) in rules.iter().zip(expected) {
        assert_eq!(rule.as_object().unwrap().len(), 3, "{rule}");
        assert_eq!(strings(&rule["apiGroups"]), [group]);
        assert_eq!(strings(&rule["resources"]).join(" "), resource);
        assert_eq!(strings(&rule["verbs"]), verbs);
    }
    let binding = of_kind(&objects, "ClusterRoleBinding");
    let account = &of_kind(&objects, "ServiceAccount")["metadata"];
    assert_eq!(binding["roleRef"]["name"], of_kind(&objects, "ClusterRole")["metadata"]["name"]);
    assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
    assert_eq!(binding["subjects"][0]["name"], account["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["namespace"]);
    let pod = &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["name"]);
}

#[test]
fn the_container_has_the_capabilities_that_weir_keeps() {
    let objects = rendered(&json!({}));
    let security = &container(&objects)["securityContext"];
    let capabilities = &security["capabilities"];
    let needs = NEEDS.map(|need| need.capability.to_string().replace("CAP_", ""));
    assert_eq!(strings(&capabilities["add"]), needs);
    assert_eq!(strings(&capabilities["drop"]), ["ALL"]);
    assert_eq!(security["privileged"], false);
    let chart = fs::read_to_string(chart(&crate::root()).join("templates/daemonset.yaml")).unwrap();
    let lines: Vec<&str> = chart.lines().map(str::trim).collect();
    for need in needs {
        let at = lines.iter().position(|line| *line == format!("- {need}")).unwrap();
        assert!(lines[at - 1].starts_with("# "), "{need} has no reason");
    }
}

#[test]
fn an_update_takes_over_before_the_old_weir_goes() {
    let objects = rendered(&json!({}));
    let set = of_kind(&objects, "DaemonSet");
    let update = &set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!((&update["maxSurge"], &update["maxUnavailable"]), (&json!(1), &json!(0)));
    let pod = &set["spec"]["template"]["spec"];
    // With the node's network the two would want the same port.
    assert_eq!((&pod["hostPID"], &pod["hostNetwork"]), (&json!(true), &Value::Null));
    let container = container(&objects);
    let arguments = strings(&container["args"]);
    assert_eq!(arguments[..2], ["node", "--upgrade"]);
    assert!(arguments.contains(&"--drain-deadline=30s"));
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30);
    let port = format!(":{}", container["ports"][0]["containerPort"]);
    assert!(arguments.iter().any(|a| a.starts_with("--admin=") && a.ends_with(&port)));
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    let path = |probe: &str| container[probe]["httpGet"]["path"].clone();
    let paths = ["startupProbe", "livenessProbe", "readinessProbe"].map(path);
    assert_eq!(paths, ["/live", "/live", "/ready"]);
}

/// It runs where the DaemonSet ran, with no more than that had.
#[test]
fn the_pod_that_detaches_has_what_the_daemon_set_has() {
    let path = crate::root().join("deploy/detach.yaml");
    let pod = yaml(&fs::read_to_string(path).unwrap()).remove(0);
    assert_eq!(schema::problems(&pod), [] as [String; 0]);
    let objects = rendered(&json!({}));
    let (spec, daemon) =
        (&pod["spec"], &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"]);
    let (one, other) = (&spec["containers"][0], container(&objects));
    assert_eq!(one["image"], other["image"]);
    assert_eq!(
        (&spec["hostPID"], &spec["tolerations"]),
        (&daemon["hostPID"], &daemon["tolerations"])
    );
    assert_eq!(strings(&one["args"]), ["detach", "--all"]);
    for (list, of, by) in [("volumes", spec, daemon), ("volumeMounts", one, other)] {
        let known = by[list].as_array().unwrap();
        assert!(of[list].as_array().unwrap().iter().all(|item| known.contains(item)), "{list}");
    }
    let capabilities = |it: &Value| it["securityContext"]["capabilities"]["add"].clone();
    let (less, more) = (capabilities(one), capabilities(other));
    assert!(strings(&less).iter().all(|name| strings(&more).contains(name)), "{less}");
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations[weir_manifest::INJECT], weir_manifest::DISABLED);
}

#[test]
fn what_is_mounted_is_declared_and_the_other_way_round() {
    for values in [json!({}), every_option()] {
        let objects = rendered(&values);
        let names = |list: &Value| {
            let names = list.as_array().unwrap().iter().map(|item| item["name"].to_string());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let pod = &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let mounted = names(&container(&objects)["volumeMounts"]);
        assert_eq!(mounted, names(&pod["volumes"]));
        assert!(mounted.contains("\"cgroup\"") && mounted.contains("\"bpf\""));
    }
}

#[test]
fn options_arrive() {
    let objects = rendered(&every_option());
    let weir = container(&objects);
    let arguments = strings(&weir["args"]);
    for flag in [
        "--linkerd-annotations",
        "--instance=shop",
        "--admin=[::]:9191",
        "--drain-deadline=90s",
        "--log-level=debug",
        "--config=/etc/weir/weir.toml",
        "--learn=bypass",
    ] {
        assert!(arguments.contains(&flag), "{flag} is not in {arguments:?}");
    }
    assert_eq!(weir["securityContext"]["privileged"], true);
    assert_eq!(weir["securityContext"]["capabilities"], Value::Null);
    let image = weir["image"].as_str().unwrap();
    assert!(image.starts_with("registry.example.com/tools/weir@sha256:"), "{image}");
    let maps: Vec<_> = objects.iter().filter(|object| object["kind"] == "ConfigMap").collect();
    let settings = maps.iter().find_map(|map| map["data"]["weir.toml"].as_str()).unwrap();
    assert_eq!(settings, "[detect]\ntimeout = \"2s\"\n");
    let dashboard = maps.iter().find_map(|map| map["data"]["weir.json"].as_str()).unwrap();
    let file = fs::read_to_string(crate::root().join("deploy/grafana/weir.json")).unwrap();
    assert_eq!(dashboard.trim(), file.trim());
}

#[test]
fn the_notes_name_what_is_missing() {
    let notes = |values: Value| {
        helm::render(&chart(&crate::root()), &values, NAMESPACE).unwrap()["NOTES.txt"].clone()
    };
    assert!(notes(json!({})).contains("rollout status daemonset/weir"), "{}", notes(json!({})));
    assert!(!notes(json!({})).contains("no maxSurge"));
    let on_delete = json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": null } });
    assert!(notes(on_delete).contains("no maxSurge"));
    assert!(notes(json!({ "rbac": { "create": false } })).contains("rbac.create is false"));
}

//! What annotations ask for. Pure.

use std::{collections::BTreeMap, fmt, path::Path};

use weir_manifest::{BY_SIDECAR, DISABLED, ENABLED, INJECT, PREFIX};

use super::seen::Seen;
use crate::config::{Setting, WorkloadSettings};

/// Linkerd's annotation that asks for its proxy.
const LINKERD_INJECT: &str = "linkerd.io/inject";
/// What Linkerd's settings begin with.
const LINKERD_PREFIX: &str = "config.linkerd.io/";

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    /// Nothing was asked for.
    Nothing,
    /// It is to be captured, with these settings but for the cgroup.
    Capture(Box<WorkloadSettings>),
    /// It has a weir of its own; how that is known.
    CapturesItself(String),
    /// It was to be captured, which cannot be in the node's own network.
    HostNetwork,
    /// It was to be captured, and an annotation is wrong: the pod is left alone.
    Bad(AnnotationError),
}

/// An annotation that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnnotationError {
    /// `pod` or `namespace`.
    on: &'static str,
    key: String,
    problem: String,
}

/// What a pod's annotations, and its namespace's where it has none, ask for.
pub(super) fn wish(seen: &Seen, defaults: &WorkloadSettings, linkerd: bool) -> Wish {
    if seen.over {
        return Wish::Nothing;
    }
    let annotations = Annotations { seen, linkerd };
    // A second weir would keep the sidecar from starting, and with it the pod: whatever the
    // annotations ask for.
    if let Some(container) = &seen.sidecar {
        return Wish::CapturesItself(format!("its container {container:?} runs weir --sidecar"));
    }
    if seen.annotations.get(INJECT).is_some_and(|value| value == BY_SIDECAR) {
        return Wish::CapturesItself(format!("its annotation {INJECT} is {BY_SIDECAR}"));
    }
    match annotations.asked() {
        Ok(false) => Wish::Nothing,
        Err(error) => Wish::Bad(error),
        Ok(true) if seen.host_network => Wish::HostNetwork,
        Ok(true) => match annotations.settings(defaults) {
            Ok(settings) => Wish::Capture(Box::new(settings)),
            Err(error) => Wish::Bad(error),
        },
    }
}

/// The annotations of a pod over those of its namespace.
struct Annotations<'a> {
    seen: &'a Seen,
    linkerd: bool,
}

/// One annotation, and where it is.
#[derive(Clone, Copy)]
struct Found<'a> {
    on: &'static str,
    key: &'a str,
    value: &'a str,
}

// === impl Annotations ===

impl<'a> Annotations<'a> {
    fn places(&self) -> [(&'static str, &'a BTreeMap<String, String>); 2] {
        [("pod", &self.seen.annotations), ("namespace", &self.seen.of_namespace)]
    }

    /// The pod's own wins over its namespace's, and at the same place weir's over Linkerd's.
    fn find(&self, key: &str, linkerd: Option<&str>) -> Option<Found<'a>> {
        let linkerd = linkerd.filter(|_| self.linkerd);
        let keys = [Some(key), linkerd].into_iter().flatten();
        let here = |(on, place): (&'static str, &'a BTreeMap<String, String>)| {
            keys.clone().find_map(|key| {
                let (key, value) = place.get_key_value(key)?;
                Some(Found { on, key, value })
            })
        };
        self.places().into_iter().find_map(here)
    }

    fn asked(&self) -> Result<bool, AnnotationError> {
        let Some(found) = self.find(INJECT, Some(LINKERD_INJECT)) else { return Ok(false) };
        match found.value {
            ENABLED => Ok(true),
            DISABLED => Ok(false),
            // Linkerd's mode for ingress controllers: captured as any other.
            "ingress" if found.key == LINKERD_INJECT => Ok(true),
            BY_SIDECAR if found.key == INJECT => Err(found.error(format!(
                "{BY_SIDECAR:?} is for a pod that has a sidecar; write {ENABLED} or {DISABLED}"
            ))),
            other => Err(found.error(format!("{other:?}; write {ENABLED} or {DISABLED}"))),
        }
    }

    fn settings(&self, defaults: &WorkloadSettings) -> Result<WorkloadSettings, AnnotationError> {
        self.all_known()?;
        let mut settings = defaults.clone();
        settings.workload.name = self.seen.workload();
        for (setting, key) in annotations() {
            let linkerd = setting.linkerd.then(|| format!("{LINKERD_PREFIX}{}", setting.name));
            if let Some(found) = self.find(&key, linkerd.as_deref()) {
                let applied = setting.apply(&mut settings, found.value);
                applied.map_err(|problem| found.error(problem))?;
            }
        }
        Ok(settings)
    }

    /// A setting that is misspelt would be a setting that is not there.
    fn all_known(&self) -> Result<(), AnnotationError> {
        for (on, place) in self.places() {
            let ours = place.iter().filter(|(key, _)| key.starts_with(PREFIX));
            for (key, value) in ours {
                if !annotations().any(|(_, known)| known == *key) {
                    let names: Vec<_> = annotations().map(|(setting, _)| setting.name).collect();
                    let problem = format!("unknown setting; known: {}", names.join(", "));
                    return Err(Found { on, key, value }.error(problem));
                }
            }
        }
        Ok(())
    }
}

/// Every setting that pods have an annotation for, with its key.
fn annotations() -> impl Iterator<Item = (&'static Setting, String)> {
    Setting::all().filter_map(|setting| Some((setting, setting.annotation()?)))
}

/// What is captured where: `settings` for the pod at this cgroup.
pub(super) fn at(settings: &WorkloadSettings, cgroup: &Path) -> WorkloadSettings {
    let mut settings = settings.clone();
    settings.workload.cgroup = Some(cgroup.to_owned());
    settings.workload.netns = None;
    settings
}

// === impl Found ===

impl Found<'_> {
    fn error(&self, problem: String) -> AnnotationError {
        AnnotationError { on: self.on, key: self.key.to_owned(), problem }
    }
}

// === impl AnnotationError ===

impl fmt::Display for AnnotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {} of the {}: {}", self.key, self.on, self.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Fail},
        node::seen::Place,
        pod::Pod,
    };

    const SKIP_INBOUND_PORTS: &str = "config.weir.dev/skip-inbound-ports";
    const SKIP_OUTBOUND_PORTS: &str = "config.weir.dev/skip-outbound-ports";
    const OPAQUE_PORTS: &str = "config.weir.dev/opaque-ports";
    const FAIL: &str = "config.weir.dev/fail";
    const PRESERVE_CLIENT_IP: &str = "config.weir.dev/preserve-client-ip";

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn seen(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Seen {
        let word = |word: &str| word.to_owned();
        Seen {
            pod: Pod {
                uid: word("u"),
                namespace: word("shop"),
                name: word("web"),
                workload_kind: word("Pod"),
                workload_name: word("web"),
            },
            place: Place::Uid(word("u")),
            host_network: false,
            sidecar: None,
            running: true,
            ending: false,
            over: false,
            annotations: map(pod),
            of_namespace: map(namespace),
        }
    }

    fn defaults() -> WorkloadSettings {
        let mut defaults = WorkloadSettings::default();
        defaults.resolve();
        defaults
    }

    fn settings(
        pod: &[(&str, &str)],
        namespace: &[(&str, &str)],
        linkerd: bool,
    ) -> WorkloadSettings {
        match wish(&seen(pod, namespace), &defaults(), linkerd) {
            Wish::Capture(settings) => *settings,
            other => panic!("{other:?}"),
        }
    }

    fn problem(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> String {
        match wish(&seen(pod, namespace), &defaults(), true) {
            Wish::Bad(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    const ON: (&str, &str) = (INJECT, ENABLED);
    const OFF: (&str, &str) = (INJECT, DISABLED);

    #[test]
    fn the_pods_own_word_counts_before_its_namespaces() {
        let captured = |pod: &[_], namespace: &[_]| {
            matches!(wish(&seen(pod, namespace), &defaults(), false), Wish::Capture(_))
        };
        assert!(!captured(&[], &[]));
        assert!(captured(&[ON], &[]));
        assert!(captured(&[], &[ON]));
        assert!(captured(&[ON], &[OFF]));
        assert!(!captured(&[OFF], &[ON]));
        let mut over = seen(&[ON], &[]);
        over.over = true;
        assert_eq!(wish(&over, &defaults(), false), Wish::Nothing);
    }

    #[test]
    fn linkerds_annotations_count_only_where_that_was_asked_for() {
        let pod = &[
            (LINKERD_INJECT, ENABLED),
            ("config.linkerd.io/skip-outbound-ports", "4406"),
            ("config.linkerd.io/proxy-log-level", "debug"),
        ];
        assert_eq!(wish(&seen(pod, &[]), &defaults(), false), Wish::Nothing);
        let theirs = settings(pod, &[], true);
        assert_eq!(theirs.outbound.skip_ports.to_string(), "4406");
        let both = settings(&[pod[0], pod[1], (SKIP_OUTBOUND_PORTS, "25")], &[], true);
        assert_eq!(both.outbound.skip_ports.to_string(), "25");
        assert_eq!(wish(&seen(&[pod[0], OFF], &[]), &defaults(), true), Wish::Nothing);
        let ingress = &[(LINKERD_INJECT, "ingress")];
        assert!(matches!(wish(&seen(ingress, &[]), &defaults(), true), Wish::Capture(_)));
    }

    /// Each annotation means what its key in the file means.
    #[test]
    fn annotations_and_the_file_mean_the_same() {
        for (setting, key) in annotations() {
            let text = setting.sample();
            let config: Config = toml::from_str(&setting.file(&text)).unwrap();
            let mut expected = config.own;
            expected.workload.name = "shop.web".to_owned();
            assert_eq!(settings(&[ON, (&key, &text)], &[], false), expected, "{key}");
        }
    }

    #[test]
    fn every_setting_reaches_its_place() {
        let it = settings(
            &[
                ON,
                (SKIP_INBOUND_PORTS, "9000-9002"),
                (SKIP_OUTBOUND_PORTS, "4406"),
                (OPAQUE_PORTS, "+7000"),
                (FAIL, "closed"),
                (PRESERVE_CLIENT_IP, "true"),
            ],
            &[(SKIP_OUTBOUND_PORTS, "1"), (FAIL, "open")],
            false,
        );
        assert_eq!(it.workload.name, "shop.web");
        assert_eq!(it.inbound.skip_ports.to_string(), "9000-9002");
        assert_eq!(it.outbound.skip_ports.to_string(), "4406");
        for list in [&it.inbound.opaque_ports, &it.outbound.opaque_ports] {
            assert_eq!(list.to_string(), "25,587,3306,4444,5432,6379,7000,9300,11211");
        }
        assert_eq!(it.workload.fail, Fail::Closed);
        assert!(it.inbound.preserve_client_ip);
        assert_eq!(
            settings(&[ON, (OPAQUE_PORTS, "")], &[], false).outbound.opaque_ports.set.len(),
            0
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let bad = problem(&[ON, (SKIP_OUTBOUND_PORTS, "25,x1")], &[]);
        assert!(
            bad.starts_with("annotation config.weir.dev/skip-outbound-ports of the pod:"),
            "{bad}"
        );
        assert!(bad.contains("column 4"), "{bad}");
        assert!(problem(&[], &[ON, (FAIL, "maybe")]).contains("fail of the namespace: \"maybe\""));
        assert!(problem(&[(INJECT, "yes")], &[]).contains("write enabled or disabled"));
        assert!(problem(&[ON, (PRESERVE_CLIENT_IP, "1")], &[]).contains("\"true\" or \"false\""));
        let misspelt = problem(&[ON, ("config.weir.dev/skip-ports", "1")], &[]);
        assert!(misspelt.contains("unknown setting; known: skip-inbound-ports,"), "{misspelt}");
    }

    /// By its container or by its word, and one that asks for something else.
    #[test]
    fn a_pod_with_a_sidecar_is_left_alone() {
        let by_word = (INJECT, BY_SIDECAR);
        for (pod, namespace) in [
            (vec![by_word], vec![ON]),
            (vec![by_word, (FAIL, "maybe")], vec![OFF]),
            (vec![by_word], vec![]),
        ] {
            let wish = wish(&seen(&pod, &namespace), &defaults(), false);
            let Wish::CapturesItself(why) = wish else { panic!("{wish:?}") };
            assert_eq!(why, "its annotation weir.dev/inject is sidecar");
        }
        for (pod, namespace) in [(vec![], vec![ON]), (vec![ON], vec![]), (vec![], vec![])] {
            let mut seen = seen(&pod, &namespace);
            seen.sidecar = Some("proxy".to_owned());
            let wish = wish(&seen, &defaults(), false);
            let Wish::CapturesItself(why) = wish else { panic!("{wish:?}") };
            assert_eq!(why, "its container \"proxy\" runs weir --sidecar");
        }
        let mut over = seen(&[by_word], &[]);
        over.over = true;
        assert_eq!(wish(&over, &defaults(), false), Wish::Nothing);
        let bad = problem(&[], &[by_word]);
        assert!(bad.contains("inject of the namespace: \"sidecar\" is for a pod"), "{bad}");
    }

    #[test]
    fn the_nodes_own_network_is_left_alone() {
        let mut host = seen(&[ON], &[]);
        host.host_network = true;
        assert_eq!(wish(&host, &defaults(), false), Wish::HostNetwork);
        host.annotations = map(&[OFF]);
        assert_eq!(wish(&host, &defaults(), false), Wish::Nothing);
    }
}

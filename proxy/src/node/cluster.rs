//! The pods that an API server knows of a node, and their namespaces' annotations.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{Pods, seen::Seen};
use crate::admin::node::NodeState;

/// Longer than the 290 s after which the watcher asks the server to end a watch: a server that is
/// silent for longer is not there any more.
const SILENCE: Duration = Duration::from_secs(300);

/// The HTTP status for a version that the server has forgotten.
const GONE: u16 = 410;

/// The API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig is missing or wrong.
    #[error("cannot use kubeconfig {}: {source}; name another with --kubeconfig", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Nothing says where it is.
    #[error(
        "no API server is known: {0}; run in a pod with a service account, name a kubeconfig with --kubeconfig, or do without an API server with --pods-dir"
    )]
    Unknown(Box<kube::config::InferConfigError>),
    /// The client cannot be made of the configuration.
    #[error("cannot make a client for the API server: {0}")]
    Client(Box<kube::Error>),
}

/// A client as the kubeconfig, or where the process runs, says.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClusterError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let refused = |source| ClusterError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(refused)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(refused)?
        }
        // The service account first: a kubeconfig of the machine's would be of somebody else.
        None => match Config::incluster() {
            Ok(config) => config,
            Err(_) => {
                Config::infer().await.map_err(|error| ClusterError::Unknown(Box::new(error)))?
            }
        },
    };
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}

/// Follows until nobody wants to know any more. Lists again and backs off as kube's runtime does.
pub(super) async fn follow(
    client: Client,
    node: &str,
    sender: watch::Sender<Pods>,
    state: &NodeState,
) {
    let (pods, pods_writer) = reflector::store::<Pod>();
    let (namespaces, namespaces_writer) = reflector::store::<Namespace>();
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let of_pods = lasting(Api::<Pod>::all(client.clone()), of_node)
        .default_backoff()
        .modify(slim)
        .reflect(pods_writer);
    let of_namespaces = lasting(Api::<Namespace>::all(client), watcher::Config::default())
        .default_backoff()
        .modify(|namespace| namespace.metadata.managed_fields = None)
        .reflect(namespaces_writer);
    let mut changes = std::pin::pin!(futures_util::stream::select(
        outcomes("pods", of_pods),
        outcomes("namespaces", of_namespaces)
    ));
    let mut problems = BTreeMap::new();
    while let Some((what, outcome)) = changes.next().await {
        match outcome {
            Ok(()) => drop(problems.remove(what)),
            Err(error) => {
                tracing::warn!(%error, "cannot follow {what}; trying again");
                problems.insert(what, format!("cannot follow {what}: {error}"));
            }
        }
        let problem = problems.values().cloned().collect::<Vec<_>>().join("; ");
        state.set_problem(Some(problem).filter(|problem| !problem.is_empty()));
        if let Some(all) = all(&pods, &namespaces)
            && sender.borrow().as_deref() != Some(&all)
            && sender.send(Some(Arc::new(all))).is_err()
        {
            return;
        }
    }
}

// === helpers ===

/// kube's watcher, which lists again after 410 Gone as an event, but asks for ever for a version that
/// is refused with that as an HTTP status: then another one takes its place.
fn lasting<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).boxed();
    futures_util::stream::unfold((begin(), begin), |(mut changes, begin)| async move {
        let change = changes.next().await?;
        if let Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) = &change
            && status.code == GONE
        {
            changes = begin();
        }
        Some((change, (changes, begin)))
    })
}

/// Whether what is watched can be, at each change.
fn outcomes<K, S>(
    what: &'static str,
    changes: S,
) -> impl Stream<Item = (&'static str, Result<(), String>)>
where
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
{
    changes.map_ok(drop).map_err(|error| full(&error)).map(move |outcome| (what, outcome))
}

/// What is not looked at need not be kept.
fn slim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        *spec = k8s_openapi::api::core::v1::PodSpec {
            host_network: spec.host_network,
            ..Default::default()
        };
    }
    if let Some(status) = &mut pod.status {
        *status = k8s_openapi::api::core::v1::PodStatus {
            phase: status.phase.clone(),
            ..Default::default()
        };
    }
}

/// `None` before both have been listed.
fn all(pods: &Store<Pod>, namespaces: &Store<Namespace>) -> Option<Vec<Seen>> {
    if !is_ready(pods) || !is_ready(namespaces) {
        return None;
    }
    let of = |pod: &Pod| {
        let name = ObjectRef::new(pod.metadata.namespace.as_deref().unwrap_or("default"));
        let namespace = namespaces.get(&name);
        namespace.and_then(|namespace| namespace.metadata.annotations.clone()).unwrap_or_default()
    };
    let mut all: Vec<_> = pods.state().iter().filter_map(|pod| Seen::new(pod, of(pod))).collect();
    all.sort_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
    Some(all)
}

/// Whether the first list is in.
fn is_ready<K>(store: &Store<K>) -> bool
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone + Default,
{
    use futures_util::FutureExt;
    store.wait_until_ready().now_or_never().is_some_and(|ready| ready.is_ok())
}

/// An error with its causes, which kube's own text leaves out.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

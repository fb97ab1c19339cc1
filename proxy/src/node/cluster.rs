//! The pods that an API server knows of a node, and their namespaces' annotations.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
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

use super::{
    Pods,
    seen::{self, Seen},
};
use crate::admin::node::NodeState;

/// Longer than the 290 s after which the watcher asks the server to end a watch: a server that is
/// silent for longer is not there any more.
const SILENCE: Duration = Duration::from_secs(300);

/// The HTTP status for a version that the server has forgotten.
const GONE: u16 = 410;

/// The API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The kubeconfig is missing or wrong.
    #[error("cannot use kubeconfig {}: {source}; pass another with --kubeconfig", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Nothing says where it is.
    #[error(
        "no API server is configured: {0}; run in a pod with a service account, pass --kubeconfig, \
         or use --pods-dir instead of an API server"
    )]
    Unknown(Box<kube::config::InferConfigError>),
    /// The client cannot be made of the configuration.
    #[error("cannot create a client for the API server: {0}")]
    Client(Box<kube::Error>),
}

/// An API server.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    /// Its address, as configured.
    pub(super) url: String,
}

/// What keeps weir from following, by what is followed.
#[derive(Debug)]
struct Problems {
    url: String,
    now: BTreeMap<&'static str, String>,
}

/// A server as the kubeconfig, or where the process runs, says.
pub(super) async fn server(kubeconfig: Option<&Path>) -> Result<Server, ClusterError> {
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
        // The service account first: a kubeconfig of the machine's would belong to another user.
        None => match Config::incluster() {
            Ok(config) => config,
            Err(_) => {
                Config::infer().await.map_err(|error| ClusterError::Unknown(Box::new(error)))?
            }
        },
    };
    config.read_timeout = Some(SILENCE);
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))?;
    Ok(Server { client, url })
}

/// Follows until the receiver is dropped. Lists again and backs off as kube's runtime does.
pub(super) async fn follow(
    Server { client, url }: Server,
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
    let mut problems = Problems { url, now: BTreeMap::new() };
    while let Some((what, outcome)) = changes.next().await {
        problems.settle(what, outcome);
        state.set_problem(problems.text());
        if let Some(all) = all(&pods, &namespaces)
            && sender.borrow().as_deref() != Some(&all)
            && sender.send(Some(Arc::new(all))).is_err()
        {
            return;
        }
    }
}

// === impl Problems ===

impl Problems {
    /// Says what is new: a problem once for as long as it lasts, of pods and namespaces both.
    fn settle(&mut self, what: &'static str, outcome: Result<(), String>) {
        let server = &self.url;
        match outcome {
            Ok(()) => {
                if self.now.remove(what).is_some() && self.now.is_empty() {
                    tracing::info!(server, "watching the API server again");
                }
            }
            Err(error) => {
                if self.now.values().all(|known| *known != error) {
                    tracing::warn!(server, %error, "cannot watch {what}; retrying");
                }
                self.now.insert(what, error);
            }
        }
    }

    /// Each with what cannot be followed for it.
    fn text(&self) -> Option<String> {
        let mut by_error: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (what, error) in &self.now {
            by_error.entry(error).or_default().push(what);
        }
        let texts: Vec<_> = by_error
            .into_iter()
            .map(|(error, what)| {
                format!("cannot watch {} at {}: {error}", what.join(" and "), self.url)
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

// === helpers ===

/// kube's watcher, which lists again after 410 Gone as an event, but asks for ever for a version that
/// is refused with that as an HTTP status: then another one takes its place.
pub(super) fn lasting<K>(
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

/// Whether what is watched can be, at each change. That a list is begun says nothing yet.
fn outcomes<K, S>(
    what: &'static str,
    changes: S,
) -> impl Stream<Item = (&'static str, Result<(), String>)>
where
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
{
    let outcome = move |change: Result<watcher::Event<K>, watcher::Error>| match change {
        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
        Ok(_) => Some((what, Ok(()))),
        Err(error) => Some((what, Err(full(&error)))),
    };
    changes.filter_map(move |change| std::future::ready(outcome(change)))
}

/// What is not looked at need not be kept.
fn slim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        *spec = seen::slim(spec);
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
pub(super) fn full(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_the_server_is_one_with_its_address() {
        let url = "https://10.96.0.1".to_owned();
        let mut problems = Problems { url, now: BTreeMap::new() };
        assert_eq!(problems.text(), None);
        problems.settle("pods", Err("refused".to_owned()));
        problems.settle("namespaces", Err("refused".to_owned()));
        let text = "cannot watch namespaces and pods at https://10.96.0.1: refused";
        assert_eq!(problems.text().as_deref(), Some(text));
        problems.settle("pods", Err("Unauthorized".to_owned()));
        assert_eq!(
            problems.text().as_deref(),
            Some(
                "cannot watch pods at https://10.96.0.1: Unauthorized; cannot watch namespaces at \
                 https://10.96.0.1: refused"
            )
        );
        problems.settle("pods", Ok(()));
        problems.settle("namespaces", Ok(()));
        assert_eq!(problems.text(), None);
    }
}

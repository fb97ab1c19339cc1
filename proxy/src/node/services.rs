//! The services that an API server knows, their endpoints and routes: one watch of each kind, which follows
//! into the model and keeps no objects but what the status of routes is written from.

use std::{collections::HashSet, future::Future, sync::Arc};

use futures_util::{Stream, StreamExt};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    cluster::{Server, full, lasting},
    events::Reports,
    route_status::{Statuses, write},
};
use crate::route::RouteKind;
use crate::service::{
    Delta, Kind, Origin, Problem, Services,
    kubernetes::{
        GrpcRouteObject, HttpRouteObject, NO_PROXY, RouteSeen, ServiceObject, SliceObject,
        full_name, service, slice,
    },
};

/// The HTTP status for a kind that the server does not have.
const NOT_FOUND: u16 = 404;

/// So many changes of a first list are made at a time: the index is copied for each.
const AT_A_TIME: usize = 1000;

/// What an object changes.
type Convert<K> = Box<dyn Fn(&K) -> Result<Option<Delta>, Problem> + Send>;

/// A kind that is followed.
struct Following<K> {
    services: Arc<Services>,
    kind: Kind,
    convert: Convert<K>,
    /// What the status of a route is written from.
    seen: fn(&K) -> Option<RouteSeen>,
    statuses: Arc<Statuses>,
    /// Of a list that has begun.
    listed: HashSet<Arc<str>>,
    waiting: Vec<Delta>,
    waiting_seen: Vec<RouteSeen>,
}

/// Follows for ever. While the API server is away everything known stays.
pub(super) fn follow(
    server: &Server,
    services: &Arc<Services>,
    reports: Reports,
    linkerd: bool,
) -> impl Future<Output = ()> + use<> {
    let statuses = Arc::new(Statuses::default());
    let all = watcher::Config::default;
    let proxied = || all().labels(&format!("!{NO_PROXY}"));
    let into = (services, &statuses);
    let following_services = Following::new(into, Kind::Services, move |object: &ServiceObject| {
        service(object, linkerd).map(|(name, spec)| Some(Delta::Service(name, spec)))
    });
    let following_slices = Following::new(into, Kind::Slices, |object: &SliceObject| {
        Ok(slice(object)?.map(Delta::Slice))
    });
    let mut following_http =
        Following::new(into, Kind::Routes(RouteKind::Http), move |object: &HttpRouteObject| {
            Ok(Some(object.delta(linkerd)))
        });
    following_http.seen = |object| Some(object.seen());
    let mut following_grpc =
        Following::new(into, Kind::Routes(RouteKind::Grpc), move |object: &GrpcRouteObject| {
            Ok(Some(object.delta(linkerd)))
        });
    following_grpc.seen = |object| Some(object.seen());
    let writing = write(server.clone(), Arc::clone(services), Arc::clone(&statuses), reports);
    let of_services = lasting(Api::<ServiceObject>::all(server.client.clone()), proxied());
    let of_slices = lasting(Api::<SliceObject>::all(server.client.clone()), proxied());
    let of_http = lasting(Api::<HttpRouteObject>::all(server.client.clone()), all());
    let of_grpc = lasting(Api::<GrpcRouteObject>::all(server.client.clone()), all());
    async move {
        tokio::join!(
            following_services.run(of_services.default_backoff()),
            following_slices.run(of_slices.default_backoff()),
            following_http.run(of_http.default_backoff()),
            following_grpc.run(of_grpc.default_backoff()),
            writing,
        );
    }
}

// === impl Following ===

impl<K: kube::Resource> Following<K> {
    fn new(
        (services, statuses): (&Arc<Services>, &Arc<Statuses>),
        kind: Kind,
        convert: impl Fn(&K) -> Result<Option<Delta>, Problem> + Send + 'static,
    ) -> Self {
        Self {
            services: Arc::clone(services),
            kind,
            convert: Box::new(convert),
            seen: |_| None,
            statuses: Arc::clone(statuses),
            listed: HashSet::new(),
            waiting: Vec::new(),
            waiting_seen: Vec::new(),
        }
    }

    async fn run(mut self, changes: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>) {
        let mut changes = std::pin::pin!(changes);
        let mut problem = None;
        while let Some(change) = changes.next().await {
            match change {
                Ok(event) => {
                    let is_news =
                        !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                    self.event(event);
                    if is_news {
                        problem = None;
                        self.services.heard(Origin::Cluster, Ok(()));
                    }
                }
                // Where the Gateway API is not installed there are no routes. It is looked for again.
                Err(error) if self.is_absent(&error) => {
                    self.services.retain(Origin::Cluster, self.kind, &HashSet::new());
                    self.statuses.listed(self.kind, &HashSet::new());
                }
                Err(error) => {
                    let error = full(&error);
                    if problem.as_ref() != Some(&error) {
                        let what = self.kind.name();
                        tracing::warn!(%error, "cannot watch {what}; what is known stays in effect");
                    }
                    if !matches!(self.kind, Kind::Routes(_)) {
                        self.services.heard(Origin::Cluster, Err(error.clone()));
                    }
                    problem = Some(error);
                }
            }
        }
    }

    fn is_absent(&self, error: &watcher::Error) -> bool {
        use watcher::Error::{InitialListFailed, WatchStartFailed};
        let (InitialListFailed(error) | WatchStartFailed(error)) = error else { return false };
        let is_unknown = matches!(error, kube::Error::Api(status) if status.code == NOT_FOUND);
        is_unknown && matches!(self.kind, Kind::Routes(_))
    }

    fn event(&mut self, event: watcher::Event<K>) {
        match event {
            watcher::Event::Init => {
                self.listed.clear();
                self.waiting.clear();
                self.waiting_seen.clear();
            }
            watcher::Event::InitApply(object) => {
                // Whatever it says: what was known of it stays where it is wrong.
                self.listed.insert(full_name(object.meta()).into());
                let delta = self.converted(&object);
                self.waiting.extend(delta);
                if self.waiting.len() >= AT_A_TIME {
                    self.apply();
                }
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.services.retain(Origin::Cluster, self.kind, &listed);
                self.apply();
                self.services.settle();
                self.statuses.listed(self.kind, &listed);
            }
            watcher::Event::Apply(object) => {
                let delta = self.converted(&object);
                self.waiting.extend(delta);
                self.apply();
            }
            watcher::Event::Delete(object) => {
                let name: Arc<str> = full_name(object.meta()).into();
                self.waiting.push(self.kind.gone(Arc::clone(&name)));
                self.apply();
                self.statuses.gone(self.kind, name);
            }
        }
    }

    fn converted(&mut self, object: &K) -> Option<Delta> {
        self.waiting_seen.extend((self.seen)(object));
        let converted = (self.convert)(object);
        if let Ok(Some(Delta::RefusedRoute(id, fault))) = &converted {
            tracing::warn!("{id}: {fault}; what was in force of it before stays");
        }
        converted.unwrap_or_else(|problem| {
            tracing::warn!(%problem, "a {} is not understood", self.kind.name());
            None
        })
    }

    fn apply(&mut self) {
        let applied = self.services.apply(Origin::Cluster, self.waiting.drain(..));
        for problem in applied.err().into_iter().flatten() {
            tracing::warn!(%problem, "a {} is refused", self.kind.name());
        }
        // What is said of a route is about the version that is in the model.
        self.statuses.seen(self.waiting_seen.drain(..));
    }
}

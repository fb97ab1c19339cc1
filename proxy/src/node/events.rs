//! What the owner of a pod or a route is told: Kubernetes Events (events.k8s.io/v1) where there is an API
//! server, and weir's log in any case.

use std::{collections::HashMap, future::Future};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::cluster::Server;
use crate::pod::Pod;

/// Who reports (`reportingController`).
const CONTROLLER: &str = "weir.dev/node";
/// Longest note that the API takes, in bytes.
const MAX_NOTE: usize = 1024;
/// Notes that are remembered, to count those that come again.
const RECORDERS: usize = 256;
/// More that wait for the API server are only in the log.
const WAITING: usize = 1024;

/// Why a pod is not captured, or a route is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    BadAnnotation,
    HostNetwork,
    CaptureFailed,
    RouteRefused,
    BackendNotFound,
}

/// Where reports go.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    queue: Option<mpsc::Sender<(Event, ObjectReference)>>,
}

// === impl Reason ===

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::BadAnnotation => "WeirBadAnnotation",
            Self::HostNetwork => "WeirHostNetwork",
            Self::CaptureFailed => "WeirCaptureFailed",
            Self::RouteRefused => "WeirRouteRefused",
            Self::BackendNotFound => "WeirBackendNotFound",
        }
    }
}

// === impl Reports ===

impl Reports {
    /// To the log only.
    pub(super) const fn to_log() -> Self {
        Self { queue: None }
    }

    /// To the API server too, by the task that is returned: it may be slow, or away.
    pub(super) fn to_cluster(
        server: Server,
        node: &str,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(node.to_owned()) };
        // A recorder counts an event of the same reason as the one before, with that one's note: so
        // each note has a recorder of its own.
        let mut recorders: HashMap<Option<String>, Recorder> = HashMap::new();
        let publish = async move {
            while let Some((event, regarding)) = waiting.recv().await {
                if recorders.len() >= RECORDERS {
                    recorders.clear();
                }
                let new = || Recorder::new(server.client.clone(), reporter.clone());
                let recorder = recorders.entry(event.note.clone()).or_insert_with(new);
                if let Err(error) = recorder.publish(&event, &regarding).await {
                    let name = regarding.name.unwrap_or_default();
                    let (server, reason) = (&server.url, event.reason);
                    tracing::warn!(server, %error, name, reason, "cannot publish an event");
                }
            }
        };
        (Self { queue: Some(queue) }, publish)
    }

    /// Says why a pod is not captured.
    pub(super) fn refused(&self, pod: &Pod, reason: Reason, why: &str) {
        let name = reason.name();
        tracing::warn!(
            namespace = pod.namespace,
            pod = pod.name,
            reason = name,
            "not captured: {why}"
        );
        let note = format!("weir does not capture this pod: {why}");
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        self.publish(reason, "Capturing", &note, regarding);
    }

    /// Says what of a route is not in force.
    pub(super) fn route(&self, route: ObjectReference, reason: Reason, why: &str) {
        let (namespace, name) = (route.namespace.as_deref(), route.name.as_deref());
        tracing::warn!(namespace, route = name, reason = reason.name(), "{why}");
        self.publish(reason, "Routing", why, route);
    }

    fn publish(&self, reason: Reason, action: &str, note: &str, regarding: ObjectReference) {
        let Some(queue) = &self.queue else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.name().to_owned(),
            note: Some(shortened(note)),
            action: action.to_owned(),
            secondary: None,
        };
        let name = regarding.name.clone();
        if queue.try_send((event, regarding)).is_err() {
            tracing::warn!(name, reason = reason.name(), "event dropped: queue full");
        }
    }
}

// === helpers ===

fn shortened(note: &str) -> String {
    const DOTS: &str = "…";
    if note.len() <= MAX_NOTE {
        return note.to_owned();
    }
    format!("{}{DOTS}", &note[..note.floor_char_boundary(MAX_NOTE - DOTS.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"ä".repeat(1000));
        assert!(cut.len() <= MAX_NOTE && cut.ends_with("ä…"), "{}", cut.len());
    }
}

//! The objects and their history, with the rules of `resourceVersion`: one counter for all objects,
//! a version is forgotten when history is compacted, pages of one list are of one version.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::events::merge;
use super::object::key;
use super::query::{Query, Selector};
use super::status::Refusal;

/// What the server serves lists and watches of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `/api/v1/pods`
    Pod,
    /// `/api/v1/namespaces`
    Namespace,
    /// `/api/v1/services`
    Service,
    /// `/apis/discovery.k8s.io/v1/endpointslices`
    EndpointSlice,
    /// `/apis/gateway.networking.k8s.io/v1/httproutes`
    HttpRoute,
    /// `/apis/gateway.networking.k8s.io/v1/grpcroutes`
    GrpcRoute,
}

/// Kind, namespace (empty for a namespace itself) and name.
pub type Key = (Kind, String, String);

/// Objects by key, and what became of them.
#[derive(Debug)]
pub struct Store {
    version: u64,
    /// Changes up to this version are forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    version: u64,
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

/// What a watch tells of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub what: &'static str,
    /// The object as it is now, or was at last; its version is that of the change.
    pub object: Value,
}

/// One answer to a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The objects, by namespace and name.
    pub items: Vec<Value>,
    /// The version of the whole list.
    pub version: u64,
    /// Where the next page begins; empty on the last one.
    pub next: String,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pod,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::GrpcRoute,
    ];

    /// As it is called in objects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }

    /// As it is called in paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
        }
    }

    /// Group and version.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Pod | Self::Namespace | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io/v1",
        }
    }
}

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        // A cluster that has been running for a while: no version is 0 or 1.
        Self { version: 1000, compacted: 0, objects: BTreeMap::new(), changes: Vec::new() }
    }
}

impl Store {
    /// The newest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Versions before this one are forgotten.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.compacted
    }

    /// Forgets all history up to now.
    pub fn compact(&mut self) {
        // A watcher of the newest version misses nothing, but lists of older ones are gone.
        self.compacted = self.version;
        self.changes.clear();
    }

    /// An object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// Adds an object, or puts it in the place of the one with its name: as a change of that one if
    /// it has the same UID, else that one is deleted before.
    ///
    /// # Panics
    ///
    /// Panics when it has no kind that is served, or no name: the test is wrong.
    pub fn put(&mut self, mut object: Value) {
        let key = key(&object);
        assert!(!key.2.is_empty(), "an object without a name: {object:#}");
        let before = self.objects.get(&key).cloned();
        let same = |old: &Value| old["metadata"]["uid"] == object["metadata"]["uid"];
        if before.as_ref().is_some_and(|old| !same(old)) {
            self.remove(&key);
        }
        let before = self.objects.get(&key).cloned();
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        self.changes.push(Change { version: self.version, key, before, after: Some(object) });
    }

    /// Changes the status of an object by a merge patch, and nothing else of it.
    ///
    /// # Errors
    ///
    /// Fails with 404 when there is no such object, with 409 when it has another version than the patch.
    pub fn patch_status(&mut self, key: &Key, patch: &Value) -> Result<Value, Refusal> {
        let mut object = self.objects.get(key).cloned().ok_or_else(|| {
            let message = format!("{} \"{}\" not found", key.0.plural(), key.2);
            Refusal::new(StatusCode::NOT_FOUND, message)
        })?;
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            let message =
                "the object has been modified; please apply your changes to the latest version";
            return Err(Refusal {
                code: StatusCode::CONFLICT,
                reason: "Conflict",
                message: message.to_owned(),
            });
        }
        merge(&mut object["status"], &patch["status"]);
        self.put(object);
        Ok(self.objects[key].clone())
    }

    /// Deletes an object; `false` if there is none.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some(before) = self.objects.remove(key) else { return false };
        self.version += 1;
        let (version, key) = (self.version, key.clone());
        self.changes.push(Change { version, key, before: Some(before), after: None });
        true
    }

    /// What has changed after a version, for one who watches with a selector. An object that does
    /// not match any more is deleted for him.
    #[must_use]
    pub fn changes(&self, kind: Kind, since: u64, selector: &Selector) -> Vec<Told> {
        let news = self.changes.iter().filter(|it| it.version > since && it.key.0 == kind);
        news.filter_map(|change| change.told(selector)).collect()
    }

    /// All objects of a kind at a version.
    ///
    /// # Errors
    ///
    /// Fails when that version is forgotten.
    pub fn snapshot(&self, kind: Kind, version: u64) -> Result<BTreeMap<Key, Value>, Refusal> {
        if version < self.compacted {
            return Err(Refusal::new(
                StatusCode::GONE,
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter.",
            ));
        }
        let mut objects = self.objects.clone();
        for change in self.changes.iter().rev().take_while(|it| it.version > version) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), before.clone()),
                None => objects.remove(&change.key),
            };
        }
        objects.retain(|key, _| key.0 == kind);
        Ok(objects)
    }

    /// One page of a list, `most` objects long at most.
    ///
    /// # Errors
    ///
    /// Fails when the parameters are wrong, the continue token is too old, or the version asked for
    /// is not there yet.
    pub fn list(&self, kind: Kind, query: &Query, most: Option<usize>) -> Result<Page, Refusal> {
        let selector = query.selector()?;
        if query.number("resourceVersion")?.is_some_and(|version| version > self.version) {
            let message = format!("Timeout: Too large resource version, current: {}", self.version);
            return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, message));
        }
        let (version, after) = match query.text("continue") {
            "" => (self.version, None),
            token => parse_token(token).map(|(version, after)| (version, Some(after)))?,
        };
        let limit = query.number("limit")?.filter(|limit| *limit > 0);
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let limit = limit.min(most.unwrap_or(usize::MAX));
        let objects = self.snapshot(kind, version)?;
        let mut rest = objects.iter().filter(|((_, namespace, name), object)| {
            selector.takes(object)
                && after.as_ref().is_none_or(|after| (namespace, name) > (&after.0, &after.1))
        });
        let mut items = Vec::new();
        let mut last = None;
        for (key, object) in rest.by_ref().take(limit) {
            items.push(object.clone());
            last = Some(key);
        }
        let next = last.filter(|_| rest.next().is_some());
        let next = next.map(|(_, namespace, name)| format!("{version}~{namespace}/{name}"));
        Ok(Page { items, version, next: next.unwrap_or_default() })
    }
}

// === impl Change ===

impl Change {
    fn told(&self, selector: &Selector) -> Option<Told> {
        let wanted = |object: &&Value| selector.takes(object);
        let (was, is) = (self.before.as_ref().filter(wanted), self.after.as_ref().filter(wanted));
        let (what, object) = match (was, is) {
            (None, Some(now)) => ("ADDED", now),
            (Some(_), Some(now)) => ("MODIFIED", now),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return None,
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(Told { what, object })
    }
}

fn parse_token(token: &str) -> Result<(u64, (String, String)), Refusal> {
    let parsed = token.split_once('~').and_then(|(version, place)| {
        let (namespace, name) = place.split_once('/')?;
        Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
    });
    parsed.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "continue key is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"namespace": "n", "name": name, "uid": name},
            "spec": {"nodeName": node}})
    }

    fn of(name: &str) -> Key {
        (Kind::Pod, "n".to_owned(), name.to_owned())
    }

    fn names(page: &Page) -> Vec<&str> {
        page.items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
    }

    #[test]
    fn pages_are_of_one_version() {
        let mut store = Store::default();
        ["a", "b", "c", "d", "e"].into_iter().for_each(|name| store.put(pod(name, "n1")));
        let first = store.list(Kind::Pod, &Query::parse("limit=2"), None).unwrap();
        assert_eq!((names(&first), first.version), (vec!["a", "b"], 1005));
        // What happens between two pages is told by the watch from the list's version.
        store.remove(&of("c"));
        store.put(pod("f", "n1"));
        let next = Query::parse(&format!("limit=500&continue={}", first.next));
        let second = store.list(Kind::Pod, &next, Some(2)).unwrap();
        assert_eq!((names(&second), second.version), (vec!["c", "d"], 1005));
        let last = Query::parse(&format!("limit=2&continue={}", second.next));
        let last = store.list(Kind::Pod, &last, None).unwrap();
        assert_eq!((names(&last), last.next.as_str()), (vec!["e"], ""));
        let told = store.changes(Kind::Pod, 1005, &Selector::default());
        let told: Vec<_> = told.iter().map(|told| told.what).collect();
        assert_eq!(told, ["DELETED", "ADDED"]);
        store.compact();
        let gone = store.list(Kind::Pod, &next, None).unwrap_err();
        assert_eq!((gone.code, gone.reason), (StatusCode::GONE, "Expired"));
    }

    #[test]
    fn a_selector_sees_objects_come_and_go() {
        let mut store = Store::default();
        let here = Query::parse("fieldSelector=spec.nodeName%3Dn1").selector().unwrap();
        store.put(pod("a", ""));
        store.put(pod("a", "n1"));
        store.put(pod("a", "n1"));
        store.put(pod("b", "n2"));
        store.put(pod("a", "n2"));
        let told = store.changes(Kind::Pod, 0, &here);
        let versions: Vec<_> = told
            .iter()
            .map(|told| (told.what, told.object["metadata"]["resourceVersion"].as_str().unwrap()))
            .collect();
        assert_eq!(versions, [("ADDED", "1002"), ("MODIFIED", "1003"), ("DELETED", "1005")]);
    }

    #[test]
    fn another_uid_is_another_object() {
        let mut store = Store::default();
        store.put(pod("a", "n1"));
        let mut other = pod("a", "n1");
        other["metadata"]["uid"] = json!("again");
        store.put(other);
        let told = store.changes(Kind::Pod, 1001, &Selector::default());
        assert_eq!(told.iter().map(|told| told.what).collect::<Vec<_>>(), ["DELETED", "ADDED"]);
        assert!(!store.remove(&of("b")));
    }

    #[test]
    fn a_version_that_is_not_there_yet_is_refused() {
        let store = Store::default();
        let refusal = store.list(Kind::Pod, &Query::parse("resourceVersion=2000"), None);
        assert_eq!(refusal.unwrap_err().code, StatusCode::GATEWAY_TIMEOUT);
        assert!(store.list(Kind::Pod, &Query::parse("resourceVersion=0"), None).is_ok());
    }
}

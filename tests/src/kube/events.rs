//! `events.k8s.io/v1` as a cluster takes them: created and patched, with the rules that its
//! validation has (`pkg/apis/core/validation`, `ValidateEventCreate`).

use http::StatusCode;
use serde_json::{Value, json};

use super::status::Refusal;

/// How long a note may be, bytes.
const NOTE_LIMIT: usize = 1024;
/// How long a reason, an action and a reporting instance may be, bytes.
const WORD_LIMIT: usize = 128;

/// What no patch may change (`ValidateEventUpdate`); there is little left but the series.
const FIXED: [&str; 7] =
    ["note", "reason", "type", "action", "regarding", "reportingController", "reportingInstance"];

/// The events that were sent.
#[derive(Debug, Default)]
pub struct Events(Vec<Value>);

// === impl Events ===

impl Events {
    /// All of them, as they are after the last patch, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Value> {
        self.0.clone()
    }

    /// Takes a new one.
    ///
    /// # Errors
    ///
    /// Fails as a cluster would: 400 for another namespace or kind, 409 for a name that is taken, 422
    /// for fields that are missing or too long.
    pub fn create(&mut self, namespace: &str, mut event: Value) -> Result<Value, Refusal> {
        let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
        if event["kind"] != "Event" || event["apiVersion"] != "events.k8s.io/v1" {
            return Err(bad("the object provided is no events.k8s.io/v1 Event"));
        }
        let metadata = &event["metadata"];
        if metadata["namespace"].as_str().is_some_and(|it| it != namespace) {
            return Err(bad("the namespace of the provided object does not match the request's"));
        }
        let number = self.0.len();
        let name = match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => format!("{prefix}{number:05}"),
            (None, None) => return Err(bad("name or generateName is required")),
        };
        if self.find(namespace, &name).is_some() {
            let message = format!("events.events.k8s.io \"{name}\" already exists");
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
        event["metadata"]["name"] = json!(name);
        event["metadata"]["namespace"] = json!(namespace);
        event["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
        event["metadata"]["resourceVersion"] = json!((number + 1).to_string());
        check(&event)?;
        self.0.push(event.clone());
        Ok(event)
    }

    /// Changes one by a merge patch (RFC 7396), to which a strategic one comes for events.
    ///
    /// # Errors
    ///
    /// Fails with 404 when there is no such event, with 422 when it would be wrong afterwards.
    pub fn patch(&mut self, namespace: &str, name: &str, patch: &Value) -> Result<Value, Refusal> {
        let place = self.find(namespace, name).ok_or_else(|| {
            let message = format!("events.events.k8s.io \"{name}\" not found");
            Refusal::new(StatusCode::NOT_FOUND, message)
        })?;
        let mut event = self.0[place].clone();
        merge(&mut event, patch);
        check(&event)?;
        let changed = |field: &&&str| event[**field] != self.0[place][**field];
        if let Some(field) = FIXED.iter().find(changed) {
            let message = format!("Event is invalid: {field}: Invalid value: field is immutable");
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        self.0[place] = event.clone();
        Ok(event)
    }

    fn find(&self, namespace: &str, name: &str) -> Option<usize> {
        self.0.iter().position(|event| {
            event["metadata"]["name"] == name && event["metadata"]["namespace"] == namespace
        })
    }
}

fn check(event: &Value) -> Result<(), Refusal> {
    let mut wrong = Vec::new();
    for field in ["reportingController", "reportingInstance", "action", "reason", "eventTime"] {
        match event[field].as_str() {
            None | Some("") => wrong.push(format!("{field}: Required value")),
            Some(text) if text.len() > WORD_LIMIT => {
                wrong.push(format!("{field}: Invalid value: can have at most {WORD_LIMIT} bytes"));
            }
            Some(_) => {}
        }
    }
    if !["Normal", "Warning"].iter().any(|known| event["type"] == *known) {
        wrong.push("type: Invalid value: has invalid value".to_owned());
    }
    if event["note"].as_str().is_some_and(|note| note.len() > NOTE_LIMIT) {
        wrong.push(format!("note: Invalid value: can have at most {NOTE_LIMIT} bytes"));
    }
    if event["regarding"]["namespace"] != event["metadata"]["namespace"] {
        wrong
            .push("involvedObject.namespace: Invalid value: does not match event.namespace".into());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!("Event is invalid: [{}]", wrong.join(", "));
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))
}

/// A merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"generateName": "weir-", "namespace": "shop"},
            "eventTime": "2026-11-21T17:00:00.000000Z",
            "reportingController": "weir.dev/node", "reportingInstance": "weir-abcde",
            "action": "Capture", "reason": "WeirBadAnnotation", "type": "Warning", "note": "why",
            "regarding": {"kind": "Pod", "namespace": "shop", "name": "cart", "uid": "1"},
        })
    }

    #[test]
    fn events_are_created_and_patched() {
        let mut events = Events::default();
        let name = events.create("shop", event()).unwrap()["metadata"]["name"].clone();
        let name = name.as_str().unwrap();
        let series = json!({"series": {"count": 2, "lastObservedTime": "…"}, "related": null});
        let patched = events.patch("shop", name, &series).unwrap();
        assert_eq!((&patched["series"]["count"], &patched["note"]), (&json!(2), &json!("why")));
        let other = events.patch("shop", name, &json!({"note": "another"})).unwrap_err();
        assert_eq!(other.code, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(events.all(), [patched]);
        assert_eq!(events.patch("shop", "no", &series).unwrap_err().code, StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_a_cluster_refuses_is_refused() {
        let long = "x".repeat(NOTE_LIMIT + 1);
        for (pointer, value, code) in [
            ("/reportingInstance", json!(""), 422),
            ("/action", Value::Null, 422),
            ("/eventTime", Value::Null, 422),
            ("/type", json!("Error"), 422),
            ("/note", json!(long), 422),
            ("/regarding/namespace", json!("other"), 422),
            ("/metadata/namespace", json!("other"), 400),
            ("/metadata/generateName", Value::Null, 400),
            ("/apiVersion", json!("v1"), 400),
        ] {
            let mut event = event();
            *event.pointer_mut(pointer).unwrap() = value;
            let refusal = Events::default().create("shop", event).unwrap_err();
            assert_eq!(refusal.code.as_u16(), code, "{pointer}: {}", refusal.message);
        }
    }
}

//! What stands behind the `?` of a list or a watch: its parameters and its selectors.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;

use super::status::Refusal;

/// The parameters of a request, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

/// Which objects are wanted: every requirement must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    /// A JSON pointer to a field, the value, and whether it must be that or must not.
    Field(String, String, bool),
    Label(String, String, bool),
    LabelExists(String, bool),
}

/// What the API server can select pods by (`pkg/apis/core/v1`, `ToSelectableFields`); namespaces
/// have the first and the last but one.
const FIELDS: [(&str, &str); 7] = [
    ("metadata.name", "/metadata/name"),
    ("metadata.namespace", "/metadata/namespace"),
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("status.phase", "/status/phase"),
    ("status.podIP", "/status/podIP"),
];

// === impl Query ===

impl Query {
    /// Takes apart what stands behind the `?`; empty parts are left out, as clients write `?&a=b`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// A parameter; empty where it is not given, which means the same to an API server.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A parameter that is a boolean.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A parameter that is a number, if it is given.
    ///
    /// # Errors
    ///
    /// Fails when it is something else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let text = self.text(name);
        let wrong = |_| {
            let message = format!("strconv.ParseUint: parsing {text:?}: invalid syntax, in {name}");
            Refusal::new(StatusCode::BAD_REQUEST, message)
        };
        (!text.is_empty()).then(|| text.parse().map_err(wrong)).transpose()
    }

    /// The same with one more field that is selected by.
    #[must_use]
    pub fn and_field(&self, name: &str, value: &str) -> Self {
        let mut more = self.clone();
        let fields = more.0.entry("fieldSelector".to_owned()).or_default();
        if !fields.is_empty() {
            fields.push(',');
        }
        fields.push_str(&format!("{name}={value}"));
        more
    }

    /// What is selected, by fields and labels.
    ///
    /// # Errors
    ///
    /// Fails for fields that a cluster does not select by, and for operators that are not used
    /// here.
    pub fn selector(&self) -> Result<Selector, Refusal> {
        let mut all = Vec::new();
        for part in self.text("fieldSelector").split(',').filter(|part| !part.is_empty()) {
            let (field, value, equal) = operands(part).ok_or_else(|| unknown(part))?;
            let known = FIELDS.iter().find(|(name, _)| *name == field);
            let (_, pointer) = known.ok_or_else(|| {
                let message = format!("field label not supported: {field}");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            })?;
            all.push(Requirement::Field((*pointer).to_owned(), value.to_owned(), equal));
        }
        for part in self.text("labelSelector").split(',').filter(|part| !part.is_empty()) {
            if part.contains([' ', '(', ')']) {
                return Err(unknown(part));
            }
            all.push(match (operands(part), part.strip_prefix('!')) {
                (Some((label, value, equal)), _) => {
                    Requirement::Label(label.to_owned(), value.to_owned(), equal)
                }
                (None, Some(label)) => Requirement::LabelExists(label.to_owned(), false),
                (None, None) => Requirement::LabelExists(part.to_owned(), true),
            });
        }
        Ok(Selector(all))
    }
}

// === impl Selector ===

impl Selector {
    /// Whether an object is wanted.
    #[must_use]
    pub fn takes(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Field(pointer, value, equal) => {
                let is = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                (is == value) == *equal
            }
            Requirement::Label(label, value, equal) => {
                (object["metadata"]["labels"][label].as_str() == Some(value)) == *equal
            }
            Requirement::LabelExists(label, wanted) => {
                object["metadata"]["labels"][label].is_string() == *wanted
            }
        })
    }
}

fn operands(part: &str) -> Option<(&str, &str, bool)> {
    let unequal = part.split_once("!=").map(|(name, value)| (name, value, false));
    let equal = || part.split_once("==").or_else(|| part.split_once('='));
    unequal.or_else(|| equal().map(|(name, value)| (name, value, true)))
}

fn unknown(part: &str) -> Refusal {
    let message = format!("unable to parse requirement: {part:?} is not served here");
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

/// As `application/x-www-form-urlencoded` has it.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
                let hex = std::str::from_utf8(&digits).ok();
                hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("&fieldSelector=spec.nodeName%3Dn1&limit=500&a+b=%C3%A4");
        assert_eq!(query.text("fieldSelector"), "spec.nodeName=n1");
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert_eq!(query.number("timeoutSeconds").unwrap(), None);
        assert_eq!(query.text("a b"), "ä");
        assert!(Query::parse("limit=many").number("limit").is_err());
        assert!(Query::parse("watch=true").flag("watch") && !query.flag("watch"));
    }

    #[test]
    fn selectors_choose() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "shop"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (text, takes) in [
            ("", true),
            ("fieldSelector=spec.nodeName%3Dn1", true),
            ("fieldSelector=spec.nodeName%3D%3Dn1", true),
            ("fieldSelector=spec.nodeName%3Dn2", false),
            ("fieldSelector=spec.nodeName%3Dn1,status.phase!%3DRunning", false),
            ("fieldSelector=spec.nodeName%3D", false),
            ("labelSelector=app%3Dshop", true),
            ("labelSelector=app!%3Dshop", false),
            ("labelSelector=app", true),
            ("labelSelector=!app", false),
            ("labelSelector=other", false),
        ] {
            let selector = Query::parse(text).selector().unwrap();
            assert_eq!(selector.takes(&pod), takes, "{text}");
        }
        for text in ["fieldSelector=spec.dnsPolicy%3DNone", "labelSelector=app+in+(a)"] {
            let refusal = Query::parse(text).selector().unwrap_err();
            assert_eq!(refusal.code, StatusCode::BAD_REQUEST, "{text}");
        }
    }
}

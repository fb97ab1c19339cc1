//! The JSON records that weir writes with `--record`, one object a line.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One record.
#[derive(Clone, Debug)]
pub struct Record(Value);

/// The records of a run, in the order they were written.
#[derive(Clone, Debug, Default)]
pub struct Records(Vec<Record>);

// === impl Record ===

impl Record {
    /// A field as text; numbers are turned into text, a missing field is empty.
    #[must_use]
    pub fn text(&self, field: &str) -> String {
        match &self.0[field] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// A field as a number; 0 when it is missing.
    #[must_use]
    pub fn number(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_default()
    }

    /// Whether the record is of the kind.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.0["kind"] == kind
    }

    /// What the same traffic gives again: without ids, times, the client's port, and the number of its process. Of a time that
    /// may be missing it is kept whether there is one.
    ///
    /// # Panics
    ///
    /// Panics when the record is no object.
    #[must_use]
    pub fn comparable(&self) -> Value {
        let mut fields = self.0.as_object().expect("a record is an object").clone();
        for field in ["id", "connection", "time", "client", "duration_us", "kernel", "engine"] {
            fields.remove(field);
        }
        if let Some(Value::Object(process)) = fields.get_mut("process") {
            process.remove("pid");
        }
        for field in ["latency_us", "detect_us"] {
            if let Some(value) = fields.get_mut(field) {
                *value = Value::Bool(true);
            }
        }
        Value::Object(fields)
    }

    fn goes_to(&self, port: u16) -> bool {
        self.text("destination").ends_with(&format!(":{port}"))
    }
}

// === impl Records ===

impl Records {
    /// Reads a file of records.
    ///
    /// # Errors
    ///
    /// Fails when the file is missing or a line is not JSON.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)
            .with_context(|| format!("cannot read the records {}", path.display()))?;
        // The last line may be on its way.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
        let whole = std::str::from_utf8(&bytes[..end])?;
        whole
            .lines()
            .map(|line| {
                let value = serde_json::from_str(line);
                value.map(Record).with_context(|| format!("not a JSON record: {line}"))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Connection records to a destination port.
    #[must_use]
    pub fn connections(&self, port: u16) -> Vec<&Record> {
        self.0.iter().filter(|record| record.is("connection") && record.goes_to(port)).collect()
    }

    /// All of them, as JSON.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|record| &record.0)
    }

    /// All request records.
    #[must_use]
    pub fn requests(&self) -> Vec<&Record> {
        self.0.iter().filter(|record| record.is("request")).collect()
    }

    /// Request records to a destination port.
    #[must_use]
    pub fn requests_to(&self, port: u16) -> Vec<&Record> {
        self.0.iter().filter(|record| record.is("request") && record.goes_to(port)).collect()
    }

    /// The one connection to a port; panics with all records when there is another number of them.
    #[must_use]
    #[track_caller]
    pub fn only_connection(&self, port: u16) -> &Record {
        let found = self.connections(port);
        assert_eq!(found.len(), 1, "one connection to port {port} expected in {:#?}", self.0);
        found[0]
    }

    /// Every connection to the port was treated so, and there was at least one.
    #[track_caller]
    pub fn assert_treated(&self, port: u16, treatment: &str) {
        let found = self.connections(port);
        assert!(!found.is_empty(), "no connection to port {port} in {:#?}", self.0);
        for record in found {
            assert_eq!(record.text("treatment"), treatment, "{record:#?}");
        }
    }

    /// A server that speaks first was seen as such: raw TCP, because of what the server did.
    #[track_caller]
    pub fn assert_server_first(&self, port: u16) {
        self.assert_treated(port, "tcp");
        for record in self.connections(port) {
            // A second connection may profit from what the first one taught.
            let source = record.text("source");
            assert!(source == "detected" || source == "learned", "{record:#?}");
        }
    }
}

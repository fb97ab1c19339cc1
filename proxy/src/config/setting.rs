//! What a setting is: one row of the table, from which the flags, the annotations, the arguments of
//! a sidecar, the checks and the documentation are made.

use std::sync::LazyLock;

use clap::{ValueEnum, builder::PossibleValue};
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};
use weir_manifest::PREFIX;

use super::{
    Config, ConfigError, Ratio,
    table::{OUTPUT_SETTINGS, SETTINGS},
    url_problem,
};
use crate::{
    ports::{CidrList, PortList},
    units::{parse_duration, parse_size},
};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its keys in the file, in dotted notation. A flag sets all of them.
    pub keys: &'static [&'static str],
    /// Its type.
    pub kind: Kind,
    /// The name of its flag and of its annotation, without what they begin with; empty for neither.
    pub name: &'static str,
    /// What help calls the flag's value.
    pub value: &'static str,
    /// Of a [`Kind::Bool`]: the name of the flag that turns it off, and its help.
    pub off: Option<(&'static str, &'static str)>,
    /// The verbs that have the flag.
    pub group: Group,
    /// The heading above the flag in help.
    pub heading: &'static str,
    /// The default in words, where it is not that of the file.
    pub default: Option<&'static str>,
    /// Whether pods have an annotation for it.
    pub annotation: bool,
    /// Whether Linkerd's annotation of the same name means the same.
    pub linkerd: bool,
    /// Whether `weir inject` has the flag, and passes it on to a sidecar.
    pub sidecar: bool,
    /// When a new value takes effect.
    pub change: Change,
    /// One sentence, with units.
    pub help: &'static str,
}

/// The type of a value, and its range.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// An address with a port.
    Address,
    /// An `http` URL.
    Url,
    /// A list of ports; `+` adds to the one before.
    Ports,
    /// A list of prefixes.
    Cidrs,
    /// Yes or no.
    Bool,
    /// A number.
    Count {
        /// The smallest.
        from: usize,
        /// The largest.
        to: usize,
    },
    /// A number of bytes.
    Size {
        /// The smallest.
        from: usize,
        /// The largest.
        to: usize,
    },
    /// A number from 0 to 1.
    Ratio,
    /// A time; zero is none.
    Duration,
    /// A time, or zero.
    DurationOrZero,
    /// One of these names.
    Choice(fn() -> Vec<PossibleValue>),
}

/// The verbs that have a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// None.
    Nowhere,
    /// `exec`, `run`, `node` and `workload add`: what each workload has for itself.
    Workload,
    /// `run` and `workload add`: which processes.
    Place,
    /// `run`: the workload's name.
    Name,
    /// `run` and `node`: the instance.
    Instance,
    /// `exec`, `run` and `node`.
    Capture,
}

/// When a new value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At once, for new connections: SIGHUP, or another annotation.
    InPlace,
    /// When the workload is captured again: another annotation does that by itself.
    Recapture,
    /// When weir is started again, or replaced with `--upgrade`.
    Restart,
}

/// The possible values of a type.
pub(super) fn choices<T: ValueEnum>() -> Vec<PossibleValue> {
    T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect()
}

// === impl Setting ===

impl Setting {
    /// One that is only in the file, and takes effect after a restart.
    pub(super) const NEW: Self = Self {
        keys: &[],
        kind: Kind::Text,
        name: "",
        value: "",
        off: None,
        group: Group::Nowhere,
        heading: "",
        default: None,
        annotation: false,
        linkerd: false,
        sidecar: false,
        change: Change::Restart,
        help: "",
    };

    /// All settings, in the order in which they are shown.
    pub fn all() -> impl DoubleEndedIterator<Item = &'static Self> + Clone {
        SETTINGS.iter().chain(&OUTPUT_SETTINGS)
    }

    /// The key of its annotation, if there is one.
    #[must_use]
    pub fn annotation(&self) -> Option<String> {
        self.annotation.then(|| format!("{PREFIX}{}", self.name))
    }

    /// The default, in words; `None` for nothing.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        if let Some(words) = self.default {
            return Some(words.to_owned());
        }
        match (self.kind, self.file_default()?) {
            (Kind::Bool, _) => None,
            (Kind::Size { .. }, Value::Integer(bytes)) => Some(size_text(*bytes)),
            (_, Value::String(text)) => (!text.is_empty()).then(|| text.clone()),
            (_, value) => Some(value.to_string()),
        }
    }

    /// The default in the file, where an absent key has one.
    pub(super) fn file_default(&self) -> Option<&'static Value> {
        static DEFAULTS: LazyLock<Table> = LazyLock::new(|| Config::default().to_table());
        get(&DEFAULTS, self.keys[0])
    }

    /// The value that a text on the command line or in an annotation stands for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let string = || Value::String(text.to_owned());
        match self.kind {
            Kind::Text => Ok(string()),
            Kind::Path if text.is_empty() => Err("a path is required".to_owned()),
            Kind::Path => Ok(string()),
            Kind::Address => checked(super::address::parse(text), string()),
            Kind::Url => url_problem(text).map_or_else(|| Ok(string()), Err),
            Kind::Ports => checked(PortList::parse(text), string()),
            Kind::Cidrs => checked(CidrList::parse(text), string()),
            Kind::Duration | Kind::DurationOrZero => checked(parse_duration(text), string()),
            Kind::Count { .. } => {
                let number = text.parse::<u32>().map_err(|error| error.to_string())?;
                Ok(Value::Integer(number.into()))
            }
            Kind::Size { .. } => checked(parse_size(text), string()),
            Kind::Ratio => match text.parse::<f64>() {
                Ok(number) if Ratio::new(number).is_some() => Ok(Value::Float(number)),
                _ => Err(format!("{text:?}; write a number from 0 to 1")),
            },
            Kind::Bool => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                other => Err(format!("{other:?}; write \"true\" or \"false\"")),
            },
            Kind::Choice(values) => {
                let values = values();
                if values.iter().any(|value| value.matches(text, false)) {
                    return Ok(string());
                }
                let known: Vec<_> = values.iter().filter(|it| !it.is_hide_set()).collect();
                let known: Vec<_> = known.iter().map(|value| value.get_name()).collect();
                Err(format!("{text:?}; write {}", known.join(" or ")))
            }
        }
    }

    /// Puts a value in place of the one that `target` has: of a configuration, or of the settings of
    /// a workload.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn apply<T: Serialize + DeserializeOwned>(
        &self,
        target: &mut T,
        text: &str,
    ) -> Result<(), String> {
        let mut table = to_table(target);
        let value = self.parse(text)?;
        for key in self.keys {
            let mut value = value.clone();
            if let (Kind::Ports, Some(before)) = (self.kind, get(&table, key)) {
                let list = |value: &Value| PortList::parse(value.as_str().unwrap_or_default());
                let (before, given) = (list(before), list(&value));
                if let (Ok(before), Ok(given)) = (before, given) {
                    value = Value::String(given.resolve(&before.set).to_string());
                }
            }
            put(&mut table, key, Some(value));
        }
        *target = table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        Ok(())
    }

    /// A text that [`Self::parse`] takes, and that is not the default.
    #[cfg(test)]
    pub(crate) fn sample(&self) -> String {
        match self.kind {
            Kind::Text => "debug".to_owned(),
            Kind::Path => "/run/sample".to_owned(),
            Kind::Address => "192.0.2.1:4191".to_owned(),
            Kind::Url => "http://192.0.2.1:4318".to_owned(),
            Kind::Ports => "1,7-9".to_owned(),
            Kind::Cidrs => "10.0.0.0/8".to_owned(),
            Kind::Bool => {
                let default = get(&Config::default().to_table(), self.keys[0]).cloned();
                (default != Some(Value::Boolean(true))).to_string()
            }
            Kind::Count { from, .. } => (from + 3).to_string(),
            Kind::Size { from, .. } => format!("{}", from + 7),
            Kind::Ratio => "0.25".to_owned(),
            Kind::Duration | Kind::DurationOrZero => "90s".to_owned(),
            Kind::Choice(values) => {
                let default = self.default_text();
                let other = |it: &PossibleValue| {
                    !it.is_hide_set() && Some(it.get_name()) != default.as_deref()
                };
                values().into_iter().find(other).expect("more than one").get_name().to_owned()
            }
        }
    }

    /// A file that sets each of its keys to a text.
    #[cfg(test)]
    pub(crate) fn file(&self, text: &str) -> String {
        let line = |key: &&str| {
            let (section, key) = key.split_once('.').expect("a key has a section");
            match self.kind {
                Kind::Bool | Kind::Count { .. } | Kind::Ratio => {
                    format!("[{section}]\n{key} = {text}\n")
                }
                _ => format!("[{section}]\n{key} = {text:?}\n"),
            }
        };
        self.keys.iter().map(line).collect()
    }

    /// Checks the values that `config` has against the range.
    pub(super) fn validate(&self, config: &Table) -> Result<(), ConfigError> {
        for key in self.keys {
            let Some(value) = get(config, key) else { continue };
            let problem = match (self.kind, value) {
                (Kind::Count { from, to } | Kind::Size { from, to }, number) => {
                    let fits = number_of(number).is_some_and(|it| (from..=to).contains(&it));
                    (!fits).then(|| {
                        format!("{number} is out of range; write a number from {from} to {to}")
                    })
                }
                (Kind::Duration, Value::String(text)) => parse_duration(text)
                    .is_ok_and(|time| time.is_zero())
                    .then(|| "must be at least 1ms".to_owned()),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(ConfigError::Value { key, problem });
            }
        }
        Ok(())
    }
}

// === helpers ===

/// `now`, with the values of `wanted` for settings that change in place.
pub(super) fn with_changes_in_place<T: Serialize + DeserializeOwned>(now: &T, wanted: &T) -> T {
    let (mut table, wanted) = (to_table(now), to_table(wanted));
    for setting in Setting::all().filter(|setting| setting.change == Change::InPlace) {
        for key in setting.keys {
            put(&mut table, key, get(&wanted, key).cloned());
        }
    }
    table.try_into().expect("both have a TOML form, in which each value stands for itself")
}

/// A value as a table.
pub(super) fn to_table<T: Serialize>(value: &T) -> Table {
    Table::try_from(value).expect("every field has a TOML form")
}

/// The value of a dotted key.
fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, key) = key.split_once('.')?;
    table.get(section)?.get(key)
}

/// Puts a value at a dotted key whose section is there.
fn put(table: &mut Table, key: &str, value: Option<Value>) {
    let Some((section, key)) = key.split_once('.') else { return };
    let Some(Value::Table(section)) = table.get_mut(section) else { return };
    match value {
        Some(value) => drop(section.insert(key.to_owned(), value)),
        None => drop(section.remove(key)),
    }
}

/// A number as [`units::size`](crate::units::size) writes it.
fn number_of(value: &Value) -> Option<usize> {
    match value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        Value::String(text) => parse_size(text).ok(),
        _ => None,
    }
}

fn checked<T, E: ToString>(result: Result<T, E>, value: Value) -> Result<Value, String> {
    result.map(|_| value).map_err(|error| error.to_string())
}

/// A size in the largest unit in which it is whole.
fn size_text(bytes: i64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.into_iter().find(|(unit, _)| bytes > 0 && bytes % unit == 0);
    fits.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests;

//! The HTTP engines, and the names by which flags and files choose them.

use clap::{ValueEnum, builder::PossibleValue};
use serde::{Deserialize, Serialize};

/// What carries HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpEngine {
    /// Forwards bytes unchanged; a parser follows the messages alongside.
    Passthrough,
    /// Terminates both connections: parses each message and writes it again.
    Terminate,
    /// Leaves connections as they are; a parser follows copies that the kernel makes. Connections
    /// that this cannot be done for are passed through.
    Tap,
}

/// The name of an engine, as given; [`Config`](super::Config) prints the current one. Equal to every other name of the same engine.
#[derive(Clone, Copy, Debug, Default, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// Forward bytes unchanged; a parser follows the messages alongside
    #[default]
    Passthrough,
    /// Parse each message and write it again; terminate HTTP/2 on both sides
    Terminate,
    /// Let outbound connections go direct, and follow copies of their bytes that the kernel makes
    Tap,
    /// Deprecated name of `passthrough`.
    #[value(hide = true)]
    Observe,
    /// Deprecated name of `terminate`.
    #[value(hide = true)]
    Route,
}

// === impl EngineName ===

impl EngineName {
    /// The engine that it names.
    #[must_use]
    pub const fn engine(self) -> HttpEngine {
        match self {
            Self::Passthrough | Self::Observe => HttpEngine::Passthrough,
            Self::Terminate | Self::Route => HttpEngine::Terminate,
            Self::Tap => HttpEngine::Tap,
        }
    }

    /// This name and the one to use instead, if it is deprecated.
    #[must_use]
    pub fn deprecated(self) -> Option<(String, String)> {
        let (given, current) = (self.name(), self.current().name());
        (given != current).then_some((given, current))
    }

    /// The same engine by its current name.
    pub(super) const fn current(self) -> Self {
        match self.engine() {
            HttpEngine::Passthrough => Self::Passthrough,
            HttpEngine::Terminate => Self::Terminate,
            HttpEngine::Tap => Self::Tap,
        }
    }

    fn name(self) -> String {
        let name =
            self.to_possible_value().as_ref().map(PossibleValue::get_name).map(str::to_owned);
        name.expect("no name is skipped")
    }
}

impl PartialEq for EngineName {
    fn eq(&self, other: &Self) -> bool {
        self.engine() == other.engine()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn deprecated_names_choose_the_same_engines_and_print_as_the_current_ones() {
        for (deprecated, current) in [("observe", "passthrough"), ("route", "terminate")] {
            let old = EngineName::from_str(deprecated, false).unwrap();
            let new = EngineName::from_str(current, false).unwrap();
            assert_eq!((old, old.engine()), (new, new.engine()));
            assert_eq!(old.deprecated(), Some((deprecated.into(), current.into())));
            assert_eq!(new.deprecated(), None);
            let read = |name| toml::Value::String(name).try_into::<EngineName>().unwrap();
            assert_eq!(read(deprecated.to_owned()).deprecated(), old.deprecated());
            let mut config = Config::default();
            config.traffic.http.engine = old;
            let printed = config.to_toml();
            assert!(printed.contains(&format!("engine = \"{current}\"")), "{printed}");
        }
        assert_eq!(EngineName::default().engine(), HttpEngine::Passthrough);
    }
}

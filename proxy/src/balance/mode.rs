//! Whether weir chooses endpoints, and for what.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whether weir chooses endpoints, and for what.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Connections go to the address that the application asked for.
    Off,
    /// An endpoint is chosen for each connection.
    #[default]
    Connections,
    /// An endpoint is chosen for each HTTP request, and for each connection that is not HTTP.
    Requests,
    /// For each request of HTTP/2, and for each connection of everything else.
    Auto,
}

// === impl Mode ===

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Connections, Self::Requests, Self::Auto];

    /// As in settings, annotations and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            format!("{text:?} is no balance; write off, connections, requests or auto")
        })
    }
}

//! Whether weir chooses endpoints at all.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whether weir chooses endpoints.
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
}

// === impl Mode ===

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Connections => "connections",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "connections" => Ok(Self::Connections),
            _ => Err(format!("{text:?} is no balance; write off or connections")),
        }
    }
}

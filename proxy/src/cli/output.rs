//! How verbs write their result.

use std::io::{self, Write};

use serde::Serialize;

use crate::json;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Human-readable.
    #[default]
    Table,
    /// Machine-readable.
    Json,
}

/// The flag that every verb with a result has.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// Format of the result on stdout
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
}

// === impl Format ===

impl Format {
    /// The result as text that ends with a line feed (or is empty).
    ///
    /// # Errors
    /// If the result has no JSON form.
    pub fn render<T: Serialize>(
        self,
        result: &T,
        table: impl FnOnce(&T) -> String,
    ) -> serde_json::Result<String> {
        match self {
            Self::Json => json::to_string_pretty(result).map(|json| json + "\n"),
            Self::Table => Ok(table(result)),
        }
    }
}

// === impl OutputArgs ===

impl OutputArgs {
    /// Writes a result: as JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// Those of stdout; a broken pipe among them ends weir with success.
    pub fn print<T: Serialize>(
        self,
        result: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = self.output.render(result, table)?;
        Ok(write_stdout(text.as_bytes())?)
    }
}

pub(super) fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes progress to stderr. Errors are ignored: nothing depends on it.
pub fn narrate(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

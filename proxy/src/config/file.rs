//! Reading the configuration file, and saying where it is wrong.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Config;

/// Larger files are no configuration: all lists of ports fit, one by one, and 65,536 prefixes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Why a configuration was refused. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read config {}: {source}; check the path and that it is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not understood.
    #[error("config {}, line {line}, column {column}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted in characters from 1.
        column: usize,
        /// The cause, and what would be right.
        problem: String,
    },
    /// A value is out of its range.
    #[error("{key}: {problem}")]
    Value {
        /// The key in dotted notation.
        key: &'static str,
        /// The cause, and what would be right.
        problem: String,
    },
    /// A value in a file is out of its range.
    #[error("config {}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<ConfigError>,
    },
}

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut config = parse(&text, path)?;
    config.resolve();
    config
        .validate()
        .map_err(|error| ConfigError::InFile { path: path.to_owned(), source: Box::new(error) })?;
    Ok(config)
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other("the file is larger than 8 MiB"));
    }
    fs::read_to_string(path)
}

fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem: error.message().replace('\n', "; "),
        }
    })
}

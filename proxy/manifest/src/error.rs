//! Why a manifest was refused, and where.

use std::fmt;

/// A place in a text, as editors count: both from 1, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Why a manifest was refused. Nothing of it is changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The input is at fault.
    #[error("{at}: {problem}")]
    Input {
        /// Where.
        at: Position,
        /// Cause and next step.
        problem: String,
    },
    /// The edited text does not mean what it was meant to: a fault of weir's own.
    #[error(
        "the edited text would not be the input with weir's annotations ({0}); this is a bug in weir, please report it with the input"
    )]
    Internal(String),
}

// === impl ManifestError ===

impl ManifestError {
    pub(super) fn input(at: Position, problem: impl Into<String>) -> Self {
        Self::Input { at, problem: problem.into() }
    }
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

//! weir's two HTTP engines, as tests choose them.

use std::fmt;

/// How weir carries HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Bytes pass as they came, and weir observes them: the default.
    Passthrough,
    /// weir ends both connections and speaks itself.
    Terminate,
}

// === impl Engine ===

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Passthrough, Self::Terminate];

    /// The flags that choose it.
    #[must_use]
    pub const fn flags(self) -> [&'static str; 2] {
        match self {
            Self::Passthrough => ["--http-engine", "passthrough"],
            Self::Terminate => ["--http-engine", "terminate"],
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flags()[1])
    }
}

//! weir's HTTP engines, as tests choose them.

use std::fmt;

/// How weir carries HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Bytes pass as they came, and weir observes them: the default.
    Passthrough,
    /// weir ends both connections and speaks itself.
    Terminate,
    /// Connections go direct, and the kernel copies what they carry.
    Tap,
}

// === impl Engine ===

impl Engine {
    /// Those that observe: the same traffic gives the same records.
    pub const OBSERVING: [Self; 3] = [Self::Passthrough, Self::Terminate, Self::Tap];
    /// Both that proxy.
    pub const ALL: [Self; 2] = [Self::Passthrough, Self::Terminate];

    /// The flags that choose it.
    #[must_use]
    pub const fn flags(self) -> [&'static str; 2] {
        match self {
            Self::Passthrough => ["--http-engine", "passthrough"],
            Self::Terminate => ["--http-engine", "terminate"],
            Self::Tap => ["--http-engine", "tap"],
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flags()[1])
    }
}

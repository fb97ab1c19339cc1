//! Record files that are renamed when they are large enough: `FILE` becomes `FILE.1`, that `FILE.2`, and
//! the oldest goes. (logrotate(8) with SIGHUP does the same by time.)

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// When a file is renamed, and how many stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes after which a file is renamed; a line more may be in it.
    pub max_size: u64,
    /// Renamed files that stay.
    pub keep: usize,
}

// === impl Rotation ===

impl Rotation {
    /// Whether a file of this size is to be renamed.
    pub(super) const fn is_due(self, size: u64) -> bool {
        size >= self.max_size
    }

    /// Makes room under the file's name.
    ///
    /// # Errors
    /// What rename(2) says of the file itself. Older ones are moved as far as possible.
    pub(super) fn rename(self, path: &Path) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match fs::rename(numbered(path, number), numbered(path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), number, "cannot rename a record file");
                }
                _ => {}
            }
        }
        fs::rename(path, numbered(path, 1))
    }
}

// === helpers ===

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

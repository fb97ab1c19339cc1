//! The place where a test happens: a client's and a server's network namespace, a cable between
//! them, and a directory. Neither has a default route, so nothing leaves the machine.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::netns::Netns;

/// Address of the client's side. Every lab has the same addresses: nothing connects two labs.
pub const CLIENT_V4: &str = "10.77.0.1";
/// Address of the client's side, IPv6.
pub const CLIENT_V6: &str = "fd77::1";
/// Address of the server's side.
pub const SERVER_V4: &str = "10.77.0.2";
/// Address of the server's side, IPv6.
pub const SERVER_V6: &str = "fd77::2";

/// Two namespaces with a cable between them, and a directory for logs and data.
///
/// Declare it before the processes that live in it: it must be dropped last.
#[derive(Debug)]
pub struct Lab {
    /// Where weir and the clients run.
    pub client: Netns,
    /// Where the servers run.
    pub server: Netns,
    dir: TempDir,
}

// === impl Lab ===

impl Lab {
    /// Makes the namespaces, the cable and the directory.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn new() -> Result<Self> {
        let (client, server) = (Netns::new("client")?, Netns::new("server")?);
        client.cable(["10.77.0.1/24", "fd77::1/64"], &server, ["10.77.0.2/24", "fd77::2/64"])?;
        let dir = tempfile::Builder::new().prefix("weir-test-").tempdir()?;
        open_to_all(dir.path())?;
        Ok(Self { client, server, dir })
    }

    /// The directory; removed with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a subdirectory that other users may look into, as servers with their own user must.
    ///
    /// # Errors
    ///
    /// Fails when the file system does.
    pub fn subdir(&self, name: &str) -> Result<std::path::PathBuf> {
        let path = self.dir().join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        open_to_all(&path)?;
        Ok(path)
    }
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

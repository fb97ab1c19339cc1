//! A network namespace as ip-netns(8) enters it: with a `/sys` that shows its devices, and the files
//! of `/etc/netns/NAME` in place of those in `/etc`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statvfs::{FsFlags, statvfs},
};

/// Where ip-netns(8) keeps namespaces.
const NAMED: &str = "/run/netns";
/// And files for them, a directory each.
const FILES: &str = "/etc/netns";

/// A namespace that is there, opened.
#[derive(Debug)]
pub struct NamedNetns {
    file: File,
    path: PathBuf,
    /// Its name, where it is one of ip-netns(8).
    name: Option<String>,
}

/// A namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such namespace.
    #[error(
        "no network namespace {given:?}: cannot open {}: {source}; write a name that `ip netns list` \
         shows, or a path such as /proc/PID/ns/net",
        path.display()
    )]
    NotFound {
        /// As given.
        given: String,
        /// Where it was looked for.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("cannot enter network namespace {}: {step}: {source}; run as root", path.display())]
    Refused {
        /// The namespace.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: nix::Error,
    },
}

// === impl NamedNetns ===

impl NamedNetns {
    /// Opens the namespace of a name in `/run/netns`, or of a path.
    ///
    /// # Errors
    /// [`NetnsError::NotFound`].
    pub fn open(given: &str) -> Result<Self, NetnsError> {
        let path =
            if given.contains('/') { PathBuf::from(given) } else { Path::new(NAMED).join(given) };
        let is_named = [NAMED, "/var/run/netns"].map(Path::new).contains(&parent(&path));
        let name = path.file_name().filter(|_| is_named);
        let name = name.map(|name| name.to_string_lossy().into_owned());
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path, name }),
            Err(source) => Err(NetnsError::NotFound { given: given.to_owned(), path, source }),
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread and what it starts into the namespace, as `netns_switch` of
    /// iproute2's lib/namespace.c does: also into a mount namespace of its own.
    ///
    /// # Errors
    /// [`NetnsError::Refused`].
    pub fn enter(&self) -> Result<(), NetnsError> {
        let failed =
            |step| move |source| NetnsError::Refused { path: self.path.clone(), step, source };
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(failed("setns(2)"))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("unshare(2)"))?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .map_err(failed("make mounts private"))?;
        let mut flags = MsFlags::empty();
        if umount2("/sys", MntFlags::MNT_DETACH).is_err() {
            // A read-only instance cannot be covered by one that can be written.
            let is_read_only =
                |it: nix::sys::statvfs::Statvfs| it.flags().contains(FsFlags::ST_RDONLY);
            if statvfs("/sys").is_ok_and(is_read_only) {
                flags = MsFlags::MS_RDONLY;
            }
        }
        mount(Some("sysfs"), "/sys", Some("sysfs"), flags, none).map_err(failed("mount /sys"))?;
        self.bind_files();
        Ok(())
    }

    /// A file without one in `/etc` to be put over stays out, as with ip-netns(8).
    fn bind_files(&self) {
        let Some(name) = &self.name else { return };
        let Ok(entries) = fs::read_dir(Path::new(FILES).join(name)) else { return };
        let none = None::<&str>;
        for entry in entries.filter_map(Result::ok) {
            let over = Path::new("/etc").join(entry.file_name());
            let bound = mount(Some(&entry.path()), &over, none, MsFlags::MS_BIND, none);
            if let Err(error) = bound {
                tracing::warn!(file = %entry.path().display(), %error, "cannot put a file over /etc");
            }
        }
    }
}

// === helpers ===

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_for_where_ip_netns_keeps_them() {
        let error = NamedNetns::open("no-such-name").unwrap_err().to_string();
        for words in ["\"no-such-name\"", "/run/netns/no-such-name", "ip netns list"] {
            assert!(error.contains(words), "{error}");
        }
        let own = NamedNetns::open("/proc/self/ns/net").unwrap();
        assert_eq!((own.path(), &own.name), (Path::new("/proc/self/ns/net"), &None));
    }
}

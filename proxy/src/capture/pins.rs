//! Where the kernel side is kept by name, so that it outlives the process: a directory of a bpffs
//! per instance of weir, locked by the one that serves it.
//!
//! ```text
//! /sys/fs/bpf/weir/INSTANCE/          locked with flock(2)
//!     control -> SOCKET                   the control socket of the weir that serves it
//!     SCHEMA/maps/NAME                maps of programs with the same layout
//!     SCHEMA/state/WORKLOAD           what a workload is, for a later weir
//!     SCHEMA/WORKLOAD/HOOK            links: programs attached to the workload
//! ```
//!
//! The schema is a digest of the sources that fix the layout: no two layouts share maps, and
//! no number has to be counted up by hand. An instance without a name lives in a bpffs of its
//! own that is mounted nowhere: the kernel drops it with the process, however that ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use weir_common::WorkloadId;

use super::{CaptureError, pinned_links::remove_instance};
use crate::host::mounts;

/// The directory of all instances in a bpffs.
const DIRECTORY: &str = "weir";
/// The maps' directory in a schema's.
const MAPS: &str = "maps";
/// The directory of the workloads' descriptions there.
const STATE: &str = "state";
/// The link to the control socket.
const CONTROL: &str = "control";
/// What names the layout of maps and structures instead of its digest; for tests of an upgrade.
const SCHEMA_VARIABLE: &str = "WEIR_BPF_SCHEMA";
/// These sources together fix the layout.
const LAYOUT: [&str; 9] = [
    include_str!("../../../proxy-common/src/connection.rs"),
    include_str!("../../../proxy-common/src/destination.rs"),
    include_str!("../../../proxy-common/src/lib.rs"),
    include_str!("../../../proxy-common/src/listening.rs"),
    include_str!("../../../proxy-common/src/option.rs"),
    include_str!("../../../proxy-common/src/ports.rs"),
    include_str!("../../../proxy-common/src/properties.rs"),
    include_str!("../../../proxy-common/src/workload.rs"),
    include_str!("../../../proxy-ebpf/src/maps.rs"),
];

/// The pins of one instance.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    schema: String,
    /// The instance's directory was not there before, and it was not reported yet.
    made: AtomicBool,
    /// Shared by all processes that use this schema's maps; a weir of another schema removes them
    /// once no process has it.
    _in_use: Option<File>,
    /// Keeps the private bpffs, where there is one.
    _private: Option<OwnedFd>,
    /// A bpffs that no other process sees, for maps that every process has for itself.
    own: Option<OwnedFd>,
}

/// The right to serve an instance; ends with the process, or when dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

// === impl Pins ===

impl Pins {
    /// The pins of a named instance; makes its directory, and mounts a bpffs where there is none.
    ///
    /// # Errors
    /// Where there is no bpffs and none can be mounted, or the directory cannot be made.
    pub fn named(instance: &str) -> Result<Self, CaptureError> {
        let root = instances(true)?.join(instance);
        let made = AtomicBool::new(!root.exists());
        make_dir(&root)?;
        let own = mounts::detached(c"bpf").ok();
        let mut pins = Self { root, schema: schema(), made, _in_use: None, _private: None, own };
        make_dir(&pins.maps())?;
        make_dir(&pins.state())?;
        let in_use = File::open(pins.own_schema()).and_then(|directory| {
            directory.lock_shared()?;
            Ok(directory)
        });
        pins._in_use = Some(in_use.map_err(|source| pins.error("lock", source))?);
        Ok(pins)
    }

    /// Pins that no other process sees and that vanish with the process.
    ///
    /// # Errors
    /// Where a bpffs cannot be made: without `CAP_SYS_ADMIN`.
    pub fn private() -> Result<Self, CaptureError> {
        let mount = mounts::detached(c"bpf").map_err(|source| CaptureError::Pins {
            action: "create a private bpffs",
            path: "/".into(),
            source,
            hint: "; run as root or grant CAP_SYS_ADMIN",
        })?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        let pins = Self {
            root,
            schema: schema(),
            made: AtomicBool::new(false),
            _in_use: None,
            _private: Some(mount),
            own: None,
        };
        make_dir(&pins.maps())?;
        make_dir(&pins.state())?;
        Ok(pins)
    }

    /// True for pins that vanish with the process.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self._private.is_some()
    }

    /// Locks the instance; `None` while another process holds it.
    ///
    /// # Errors
    /// Where the directory cannot be opened or locked.
    pub fn lock(&self) -> Result<Option<Lock>, CaptureError> {
        lock_directory(&self.root).map_err(|source| self.error("lock", source))
    }

    /// Says where the process that serves the instance is spoken to.
    ///
    /// # Errors
    /// Where the link cannot be made.
    pub fn announce(&self, control: &Path) -> Result<(), CaptureError> {
        let absolute = std::path::absolute(control).unwrap_or_else(|_| control.to_owned());
        let link = self.root.join(CONTROL);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(absolute, &link).map_err(|source| self.error("link", source))?;
        // From now on a new process may take the instance over.
        self.made.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The instance's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the layout that this weir uses.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a map is pinned that this process has for itself ([`weir_common::maps::OF_PROCESS`]); `None` where there
    /// is no such place. All objects that the process loads find it there, and no other process does.
    pub(super) fn own_map(&self, name: &str) -> Option<PathBuf> {
        if self.is_private() {
            return Some(self.map(name));
        }
        let own = self.own.as_ref()?;
        Some(PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd())).join(name))
    }

    /// Where a workload's links are pinned.
    pub(super) fn links(&self, workload: WorkloadId) -> PathBuf {
        self.root.join(&self.schema).join(workload.to_string())
    }

    /// The directories of other schemas: what an earlier or a later weir has left.
    pub(super) fn other_schemas(&self) -> Vec<PathBuf> {
        directories(&self.root)
            .into_iter()
            .filter(|path| path.file_name().is_none_or(|name| name != self.schema.as_str()))
            .collect()
    }

    /// This schema's directory.
    pub(super) fn own_schema(&self) -> PathBuf {
        self.root.join(&self.schema)
    }

    /// Where workloads are described.
    pub(super) fn state(&self) -> PathBuf {
        state(&self.own_schema())
    }

    fn maps(&self) -> PathBuf {
        self.own_schema().join(MAPS)
    }

    fn error(&self, action: &'static str, source: io::Error) -> CaptureError {
        let hint = advice(&source);
        CaptureError::Pins { action, path: self.root.clone(), source, hint }
    }
}

/// Leaves nothing behind of an instance that was new and whose start has failed.
impl Drop for Pins {
    fn drop(&mut self) {
        let is_empty = |directory: &Path| {
            fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
        };
        if self.made.load(Ordering::Relaxed) && is_empty(&self.state()) {
            remove_instance(&self.root);
        }
    }
}

// === helpers ===

/// The link to the control socket of the weir that serves an instance.
pub(super) fn control(root: &Path) -> PathBuf {
    root.join(CONTROL)
}

/// Where a schema's workloads are described.
pub(super) fn state(schema: &Path) -> PathBuf {
    schema.join(STATE)
}

/// The directory of all instances; `None` where nothing was ever pinned.
///
/// # Errors
/// Where mountinfo cannot be read.
pub(super) fn existing_instances() -> Result<Vec<PathBuf>, CaptureError> {
    match instances(false) {
        Ok(parent) => Ok(directories(&parent)),
        Err(CaptureError::NoBpffs) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The directory of one instance, whether it exists or not.
///
/// # Errors
/// As [`existing_instances`].
pub(super) fn instance_directory(instance: &str) -> Result<Option<PathBuf>, CaptureError> {
    match instances(false) {
        Ok(parent) => Ok(Some(parent.join(instance))),
        Err(CaptureError::NoBpffs) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The control socket of the process that serves an instance, as it has announced it.
///
/// # Errors
/// As [`existing_instances`].
pub fn control_socket(instance: &str) -> Result<Option<PathBuf>, CaptureError> {
    let directory = instance_directory(instance)?;
    Ok(directory.and_then(|directory| fs::read_link(directory.join(CONTROL)).ok()))
}

/// Locks a directory; `None` while another process holds it.
///
/// # Errors
/// What open(2) or flock(2) say.
pub fn lock_directory(path: &Path) -> io::Result<Option<Lock>> {
    let directory = File::open(path)?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(Lock { _directory: directory })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that holds the lock of a directory, as far as `/proc/locks` tells (proc_locks(5)).
#[must_use]
pub(super) fn lock_holder(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(path).ok()?.ino().to_string();
    let device = nix::sys::stat::stat(path).ok()?.st_dev;
    let device = format!("{:02x}:{:02x}", libc::major(device), libc::minor(device));
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        // 1: FLOCK ADVISORY WRITE 1234 00:1f:5678 0 EOF
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else { return None };
        (file.rsplit_once(':')? == (device.as_str(), inode.as_str())).then(|| pid.parse().ok())?
    })
}

/// Whether a bpffs is mounted, as a whole.
///
/// # Errors
/// Where the table of mounts cannot be read.
pub fn has_bpffs() -> Result<bool, CaptureError> {
    Ok(mounts::first("bpf")?.is_some())
}

fn instances(mount: bool) -> Result<PathBuf, CaptureError> {
    let found = mounts::first("bpf")?;
    let bpffs = match found {
        Some(path) => path,
        None if mount => mount_bpffs()?,
        None => return Err(CaptureError::NoBpffs),
    };
    let parent = bpffs.join(DIRECTORY);
    if mount {
        make_dir(&parent)?;
    }
    Ok(parent)
}

/// Mounts one where every other tool mounts it.
fn mount_bpffs() -> Result<PathBuf, CaptureError> {
    let usual = Path::new("/sys/fs/bpf");
    let none: Option<&str> = None;
    nix::mount::mount(Some("bpf"), usual, Some("bpf"), nix::mount::MsFlags::empty(), none)
        .map_err(|_| CaptureError::NoBpffs)?;
    tracing::info!(path = %usual.display(), "no bpffs was mounted; mounted one");
    Ok(usual.into())
}

pub(super) fn make_dir(path: &Path) -> Result<(), CaptureError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        let hint = advice(&source);
        CaptureError::Pins { action: "create", path: path.into(), source, hint }
    })
}

/// The next step after something in a bpffs could not be made or locked.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root",
        Some(libc::EROFS) => {
            "; the bpffs is mounted read-only: mount it writable (`mount -o remount,rw`, in a \
             container without `readOnly`)"
        }
        Some(libc::EEXIST | libc::ENOTDIR) => {
            "; the name is in use: remove it (`weir detach`), or choose another --instance"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "; raise the limit of open files (`ulimit -n`, LimitNOFILE=)"
        }
        _ => "",
    }
}

/// FNV-1a.
pub(super) fn digest(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A digest of the sources that fix the layout.
fn schema() -> String {
    if let Ok(name) = std::env::var(SCHEMA_VARIABLE) {
        return name;
    }
    let digest = digest(LAYOUT.iter().flat_map(|text| text.bytes()));
    format!("schema-{digest:016x}")
}

/// The directories in a directory, by name; none where it is not there.
pub(super) fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

//! The guest's root file system: the files of the packages that the tests need, copied from this
//! machine, in an ext4 image that stays as long as the packages do.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::closure::{FORMAT, Installed};
use super::output_of;
use crate::packages::{DEMO, TESTS};

/// What a system consists of before anything is installed.
const BASE: [&str; 17] = [
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "debianutils",
    "findutils",
    "grep",
    "hostname",
    "libc-bin",
    "login",
    "mount",
    "procps",
    "sed",
    "tar",
    "util-linux",
];

/// Only needed to build; large.
const NOT_IN_GUEST: [&str; 1] = ["g++"];

/// Files that belong to no package but to the set-up of those there are.
const MADE_BY_SETUP: [&str; 12] = [
    "/etc/alternatives",
    "/etc/group",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/ld.so.cache",
    "/etc/mysql",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pam.d",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
];

/// Places whose files only people read.
const UNREAD: [&str; 6] = [
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/bug/",
];

/// Where symbolic links to `/etc/alternatives` are.
const LINKED: [&str; 2] = ["/usr/bin", "/usr/sbin"];

/// Room for what the tests write. The file has holes: it takes no more than what is in it.
const ROOM: u64 = 3 << 30;

/// How the folders that become images are called.
const STAGE: &str = "stage-";

/// Changes when this file makes images in another way.
const LAYOUT: &str = "1";

/// The image; made if there is none for the packages as they are installed now.
///
/// # Errors
///
/// Fails when a package is missing, and when the image cannot be made.
pub(super) fn root(cache: &Path) -> Result<PathBuf> {
    let query = output_of(Command::new("dpkg-query").args(["-W", "-f", FORMAT]))?;
    let wanted = [&BASE[..], DEMO, TESTS].concat();
    let wanted: Vec<&str> =
        wanted.into_iter().filter(|package| !NOT_IN_GUEST.contains(package)).collect();
    let packages = Installed::parse(&query).closure(&wanted)?;
    let mut digest = Sha256::new_with_prefix(LAYOUT);
    for (name, version) in &packages {
        digest.update(format!("{name} {version}\n"));
    }
    let digest: String =
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let image = cache.join(format!("root-{digest}.ext4"));
    if image.exists() {
        return Ok(image);
    }
    for old in glob(cache, "root-")? {
        fs::remove_file(old)?;
    }
    println!("root file system with {} packages", packages.len());
    let names: Vec<&str> = packages.iter().map(|(name, _)| *name).collect();
    let stage = Stage::new(cache, "root")?;
    stage.copy(&files(&names)?)?;
    stage.dress()?;
    stage.image(&image, ROOM)?;
    Ok(image)
}

/// A folder whose content becomes an image; removed on drop.
pub(super) struct Stage {
    dir: tempfile::TempDir,
}

// === impl Stage ===

impl Stage {
    pub(super) fn new(cache: &Path, name: &str) -> Result<Self> {
        let prefix = format!("{STAGE}{name}-");
        Ok(Self { dir: tempfile::Builder::new().prefix(&prefix).tempdir_in(cache)? })
    }

    /// Removes what a run left that was killed; no other run may use the cache.
    pub(super) fn sweep(cache: &Path) -> Result<()> {
        for entry in fs::read_dir(cache)? {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(STAGE.as_bytes()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Copies files, folders and links with owner and mode; `paths` are absolute, folders without
    /// what is in them.
    fn copy(&self, paths: &BTreeSet<PathBuf>) -> Result<()> {
        let list: Vec<u8> =
            paths.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat()).collect();
        let mut cpio = Command::new("cpio")
            .args(["--pass-through", "--null", "--make-directories", "--quiet"])
            .arg("--preserve-modification-time")
            .arg(self.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot run cpio")?;
        let mut stdin = cpio.stdin.take().context("stdin was asked for")?;
        stdin.write_all(&list)?;
        drop(stdin);
        let status = cpio.wait()?;
        ensure!(status.success(), "cpio ended with {status}");
        Ok(())
    }

    /// What no package and no file of this machine has.
    fn dress(&self) -> Result<()> {
        let at = |path: &str| self.path().join(path);
        for top in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let (here, there) = (Path::new("/").join(top), at(top));
            if let (Ok(target), false) = (fs::read_link(&here), there.exists()) {
                std::os::unix::fs::symlink(target, there)?;
            }
        }
        for dir in ["dev", "proc", "sys", "run", "tmp", "root", "payload", "var/tmp", "var/log"] {
            fs::create_dir_all(at(dir))?;
        }
        for open in ["tmp", "var/tmp"] {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(at(open), fs::Permissions::from_mode(0o1777))?;
        }
        // No user has a password; sshd wants the entries.
        let users = fs::read_to_string(at("etc/passwd")).context("no users in the image")?;
        let entry = |line: &str| format!("{}:*:19000:0:99999:7:::\n", field(line));
        fs::write(at("etc/shadow"), users.lines().map(entry).collect::<String>())?;
        fs::write(at("etc/hostname"), "weir-vm\n")?;
        Ok(())
    }

    /// Makes the image, under another name until it is complete.
    pub(super) fn image(&self, image: &Path, room: u64) -> Result<()> {
        let new = image.with_extension("new");
        let file = fs::File::create(&new)?;
        file.set_len(size(self.path())? * 5 / 4 + room)?;
        output_of(
            Command::new("/sbin/mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"])
                .args(["-E", "lazy_itable_init=1", "-d"])
                .arg(self.path())
                .arg(&new),
        )?;
        fs::rename(&new, image).with_context(|| format!("cannot make {}", image.display()))
    }
}

// === helpers ===

/// Everything that belongs to the packages.
fn files(packages: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let listed = output_of(Command::new("dpkg-query").arg("-L").args(packages))?;
    let mut found = BTreeSet::new();
    for line in listed.lines().filter(|line| line.starts_with('/') && *line != "/.") {
        if UNREAD.iter().any(|place| line.starts_with(place)) {
            continue;
        }
        let path = resolved(Path::new(line));
        if path.symlink_metadata().is_err() {
            continue; // diverted, or a configuration file that was removed
        }
        // Python is slow without what it has compiled, and dpkg does not know of it.
        let compiled = path.join("__pycache__");
        if path.is_dir() && compiled.is_dir() {
            add(&compiled, &mut found)?;
        }
        found.insert(path);
    }
    for path in MADE_BY_SETUP.map(Path::new).into_iter().filter(|path| path.exists()) {
        add(path, &mut found)?;
    }
    for dir in LINKED {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if fs::read_link(&path).is_ok_and(|to| to.starts_with("/etc/alternatives")) {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

/// dpkg knows `/bin/sh` where `/bin` has become a link to `/usr/bin`.
fn resolved(path: &Path) -> PathBuf {
    let parts = path.parent().and_then(|dir| dir.canonicalize().ok()).zip(path.file_name());
    parts.map_or_else(|| path.to_path_buf(), |(dir, name)| dir.join(name))
}

fn add(path: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    found.insert(path.to_path_buf());
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            add(&entry?.path(), found)?;
        }
    }
    Ok(())
}

/// Bytes of all files below a folder, each as large as its blocks.
fn size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let below = if meta.is_dir() { size(&entry.path())? } else { meta.len() };
        sum += below.next_multiple_of(4096);
    }
    Ok(sum)
}

/// Files of a folder whose names begin so.
pub(super) fn glob(dir: &Path, begin: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let named = |path: &PathBuf| {
        path.is_file()
            && path.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with(begin))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(named).collect())
}

fn field(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

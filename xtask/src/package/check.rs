//! Does a package install, and does what it brings work? In a fresh Debian root, which systemd boots at the
//! end.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::cgroup::Cgroup;

/// What every package has, with the mode.
const FILES: [(&str, &str); 12] = [
    ("./etc/weir/weir.toml", "-rw-r--r--"),
    ("./usr/bin/weir", "-rwxr-xr-x"),
    ("./usr/lib/systemd/system/weir.service", "-rw-r--r--"),
    ("./usr/share/bash-completion/completions/weir", "-rw-r--r--"),
    ("./usr/share/doc/weir/INSTALL.md", "-rw-r--r--"),
    ("./usr/share/doc/weir/THIRD-PARTY-NOTICES.gz", "-rw-r--r--"),
    ("./usr/share/doc/weir/changelog.gz", "-rw-r--r--"),
    ("./usr/share/doc/weir/copyright", "-rw-r--r--"),
    ("./usr/share/fish/vendor_completions.d/weir.fish", "-rw-r--r--"),
    ("./usr/share/man/man1/weir-run.1.gz", "-rw-r--r--"),
    ("./usr/share/man/man1/weir.1.gz", "-rw-r--r--"),
    ("./usr/share/zsh/vendor-completions/_weir", "-rw-r--r--"),
];
/// The release whose root the package is installed into.
const SUITE: &str = "bookworm";
/// What the tour needs there.
const INCLUDE: &str =
    "ca-certificates,curl,dbus,iproute2,man-db,procps,python3,systemd,systemd-sysv";
/// What is done in the booted root.
const BOOT: &str = include_str!("boot.sh");
/// The service that weir captures there, and the one that runs [`BOOT`].
const SERVICES: [(&str, &str); 2] = [
    (
        "shop.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /srv 8000\n",
    ),
    (
        "boot.service",
        "[Unit]\nAfter=multi-user.target dbus.service\n[Service]\nType=oneshot\n\
         ExecStart=/bin/sh /root/boot.sh\n[Install]\nWantedBy=multi-user.target\n",
    ),
];
/// The largest exposure that `systemd-analyze security` may find, in tenths: weir keeps capabilities that
/// count.
const EXPOSURE: u32 = 45;

/// A root that was made for the package.
struct Root {
    path: PathBuf,
    /// What is mounted below it, in order.
    mounts: Vec<PathBuf>,
}

/// Checks a package. `largest` is the most MiB that a static binary may have.
///
/// # Errors
///
/// Fails at the first thing that is wrong, and says what.
pub(super) fn run(repository: &Path, package: &Path, largest: Option<u64>) -> Result<()> {
    contents(package, largest)?;
    unit(repository)?;
    let size = fs::metadata(package)?.len();
    println!("{}: {} KiB", package.display(), size / 1024);
    tour(repository, package)
}

/// Files, modes and owners, and the size of a binary that runs everywhere: at most `largest` MiB.
fn contents(package: &Path, largest: Option<u64>) -> Result<()> {
    let package = package.to_str().context("a path that is not UTF-8")?;
    let listing = output("dpkg-deb", &["--contents", package])?;
    let mut seen = BTreeSet::new();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let (mode, owner, size) = (words.next(), words.next(), words.next());
        let path = words.nth(2).with_context(|| format!("dpkg-deb: {line}"))?;
        ensure!(owner == Some("root/root"), "{path} belongs to {owner:?}");
        if let Some((_, wanted)) = FILES.iter().find(|(file, _)| *file == path) {
            ensure!(mode == Some(wanted), "{path} has the mode {mode:?}");
            seen.insert(path);
        }
        if path == "./usr/bin/weir" {
            let size: u64 = size.unwrap_or_default().parse()?;
            println!("/usr/bin/weir: {} MiB", size >> 20);
            if let Some(largest) = largest {
                ensure!(size <= largest << 20, "larger than {largest} MiB");
            }
        }
    }
    let missing: Vec<_> = FILES.iter().filter(|(file, _)| !seen.contains(file)).collect();
    ensure!(missing.is_empty(), "not in the package: {missing:?}");
    let control = output("dpkg-deb", &["--info", package])?;
    ensure!(control.contains("Package: weir\n"), "{control}");
    let conffiles = output("dpkg-deb", &["--info", package, "conffiles"])?;
    ensure!(conffiles == "/etc/weir/weir.toml\n", "conffiles: {conffiles}");
    Ok(())
}

/// What systemd's tools say of the unit.
fn unit(repository: &Path) -> Result<()> {
    let unit = repository.join("deploy/debian/weir.service");
    let path = unit.to_str().context("a path that is not UTF-8")?;
    let threshold = EXPOSURE.to_string();
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold", &threshold, path];
    let report = output("systemd-analyze", &arguments)?;
    println!("{}", report.lines().last().unwrap_or_default());
    // The program is not installed on this machine, and man pages need not be.
    let done = Command::new("systemd-analyze").args(["verify", "--man=no", path]).output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let ours = said.lines().filter(|line| line.contains("weir.service"));
    let problems: Vec<_> =
        ours.filter(|line| !line.contains("/usr/bin/weir is not exec")).collect();
    ensure!(problems.is_empty(), "systemd-analyze verify: {}", problems.join("\n"));
    Ok(())
}

/// The script of the documentation, in a root of its own.
fn tour(repository: &Path, package: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "debootstrap and chroot need root");
    let folder = tempfile::Builder::new().prefix("weir-root-").tempdir()?;
    let path = folder.path().to_str().context("a path that is not UTF-8")?;
    println!("a fresh root of {SUITE} in {path}");
    let include = format!("--include={INCLUDE}");
    output("debootstrap", &["--variant=minbase", &include, SUITE, path])?;
    let root = Root::new(folder.path())?;
    fs::copy(package, root.path.join("weir.deb"))?;
    fs::copy(repository.join("docs/tour.sh"), root.path.join("tour.sh"))?;
    let mut tour = Command::new("unshare");
    // With a network of its own: nothing of this machine is captured.
    tour.args(["--net", "chroot", path, "/bin/sh", "/tour.sh", "/weir.deb"]);
    tour.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    let status = tour.status().context("cannot run unshare; install util-linux")?;
    drop(root);
    ensure!(status.success(), "docs/tour.sh ended with {status}");
    boot(folder.path())
}

/// The unit of the package under a systemd of its own, in a container without a network.
fn boot(root: &Path) -> Result<()> {
    fs::write(root.join("root/boot.sh"), BOOT)?;
    let units = root.join("etc/systemd/system");
    for (name, unit) in SERVICES {
        fs::write(units.join(name), unit)?;
    }
    let path = root.to_str().context("a path that is not UTF-8")?;
    output("systemctl", &["--root", path, "enable", "boot.service"])?;
    let mut container = Command::new("timeout");
    container.args(["--kill-after=10", "300", "systemd-nspawn", "--register=no", "--keep-unit"]);
    container.args([
        "--capability=all",
        "--private-network",
        "--console=pipe",
        "--boot",
        "-D",
        path,
    ]);
    // systemd attaches programs of its own to the cgroups that it makes: all of them go with this one.
    let group = Cgroup::new("package")?;
    let mut container = group.wrap(&container);
    // weir needs BPF, the cgroup2 that systemd manages there, and a bpffs.
    for name in ["UNIFIED_HIERARCHY", "API_VFS_WRITABLE"] {
        container.env(format!("SYSTEMD_NSPAWN_{name}"), "1");
    }
    container.env("SYSTEMD_SECCOMP", "0");
    let ended = container.output().context("cannot run systemd-nspawn")?;
    let log = fs::read_to_string(root.join("root/boot.log")).unwrap_or_else(|_| {
        let text =
            [&ended.stdout, &ended.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
        format!("systemd did not come up: {}", text.concat())
    });
    ensure!(log.lines().any(|line| line == "the unit works"), "the unit does not work:\n{log}");
    println!("the unit works under systemd");
    Ok(())
}

// === impl Root ===

impl Root {
    fn new(path: &Path) -> Result<Self> {
        let mut root = Self { path: path.to_owned(), mounts: Vec::new() };
        for from in ["/proc", "/sys", "/dev"] {
            let to = root.path.join(&from[1..]);
            let to_text = to.to_str().context("a path that is not UTF-8")?;
            output("mount", &["--rbind", from, to_text])?;
            root.mounts.push(to.clone());
            output("mount", &["--make-rslave", to_text])?;
        }
        // Pinned state of its own: that of other weirs on this machine is not to be seen.
        let pins = root.path.join("sys/fs/bpf");
        output("mount", &["-t", "bpf", "bpf", pins.to_str().context("a path that is not UTF-8")?])?;
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            // One that stays is in the way of the folder's removal, which says so.
            let _stays = Command::new("umount").args(["--recursive", "--lazy"]).arg(mount).status();
        }
    }
}

// === helpers ===

/// What a program prints, which must succeed.
fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
        bail!("{name} {}: {}", arguments.join(" "), said.concat());
    }
    Ok(String::from_utf8(done.stdout)?)
}

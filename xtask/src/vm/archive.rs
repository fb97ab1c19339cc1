//! Kernels from Debian's archive into a cache, through the machine's own apt with a configuration
//! of our own: other suites of the same mirrors, and nothing of the machine's state is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::kernels::{self, Release, Wanted};
use super::output_of;

/// Debian's keys, from the package debian-archive-keyring: those of other suites too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites that have kernels, oldest first, and whether they are of the security archive. Their lists
/// are small; those of whole releases are not needed.
const SUITES: [(&str, bool); 4] = [
    ("bullseye-security", true),
    ("bookworm-security", true),
    ("bookworm-backports", false),
    ("trixie-backports", false),
];

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The compressed kernel.
    pub(super) image: PathBuf,
    /// The folder with `modules.order` and `kernel/`.
    pub(super) modules: PathBuf,
}

/// Where Debian's archives are.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

/// The kernel from the cache; downloads it where it is not there, or where `update` asks for the
/// newest of the series.
///
/// # Errors
///
/// Fails when it is not in the cache and cannot be downloaded.
pub(super) fn kernel(cache: &Path, wanted: Wanted, update: bool) -> Result<Cached> {
    let dir = cache.join("kernels").join(wanted.to_string());
    if !update && let Some(cached) = cached(&dir)? {
        return Ok(cached);
    }
    let apt = Apt::new(cache)?;
    let downloaded = apt.lists(update).and_then(|()| apt.fetch(wanted, &dir));
    downloaded.with_context(|| {
        format!("no kernel {wanted} in {}, and it cannot be downloaded", dir.display())
    })?;
    cached(&dir)?.with_context(|| format!("the packages in {} hold no kernel", dir.display()))
}

/// apt with files of its own.
struct Apt {
    dir: PathBuf,
}

// === impl Apt ===

impl Apt {
    fn new(cache: &Path) -> Result<Self> {
        let dir = cache.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let mirrors = Mirrors::of_this_machine()?;
        fs::write(dir.join("sources.list"), mirrors.sources())?;
        fs::write(dir.join("status"), "")?;
        let path = dir.display();
        fs::write(
            dir.join("apt.conf"),
            format!(
                "Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
                 Dir::State::lists \"{path}/lists\";\nDir::State::status \"{path}/status\";\n\
                 Dir::Cache \"{path}/cache\";\nAcquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
                 APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\n"
            ),
        )?;
        Ok(Self { dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }

    /// The packages' lists, downloaded once a run and where there are none.
    fn lists(&self, update: bool) -> Result<()> {
        static ONCE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let mut entries = fs::read_dir(self.dir.join("lists"))?.filter_map(Result::ok);
        // Some machines keep them compressed.
        let there = entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
        if there && (!update || ONCE.load(std::sync::atomic::Ordering::Relaxed)) {
            return Ok(());
        }
        println!("lists of Debian's kernel packages");
        output_of(self.command("apt-get").args(["update", "-q"]))?;
        ONCE.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Downloads and unpacks a kernel's packages; what was there before is replaced at the end.
    fn fetch(&self, wanted: Wanted, dir: &Path) -> Result<()> {
        let names = output_of(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        let release = kernels::newest(names.lines(), wanted)
            .with_context(|| format!("no suite of {} has it", SUITES.map(|(s, _)| s).join(", ")))?;
        let Release { name, packages } = release;
        if fs::read_to_string(dir.join("release")).is_ok_and(|there| there == name) {
            return Ok(());
        }
        println!("downloading Linux {name}");
        let new = dir.with_extension("new");
        let _was_not_there = fs::remove_dir_all(&new);
        fs::create_dir_all(&new)?;
        output_of(self.command("apt-get").arg("download").args(&packages).current_dir(&new))?;
        for entry in fs::read_dir(&new)? {
            let package = entry?.path();
            output_of(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&new))?;
            fs::remove_file(package)?;
        }
        fs::write(new.join("release"), name)?;
        let _was_not_there = fs::remove_dir_all(dir);
        fs::rename(&new, dir).with_context(|| format!("cannot make {}", dir.display()))
    }
}

// === impl Mirrors ===

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let os = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let codename = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?;
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
        let targets = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))?;
        Self::among(&targets, codename)
    }

    /// From lines of address, release and component.
    fn among(targets: &str, codename: &str) -> Result<Self> {
        let of = |release: &str| {
            let mut lines = targets.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            lines.find_map(|fields| match fields[..] {
                [uri, of, "main"] if of == release => Some(uri.trim_end_matches('/').to_owned()),
                _ => None,
            })
        };
        let security = format!("{codename}-security");
        match (of(codename), of(&security)) {
            (Some(main), Some(security)) => Ok(Self { main, security }),
            _ => bail!(
                "apt's sources on this machine name no Debian mirror for {codename} and {security}; \
                 add them and run apt-get update"
            ),
        }
    }

    fn sources(&self) -> String {
        let line = |(suite, security): (&str, bool)| {
            let mirror = if security { &self.security } else { &self.main };
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        };
        SUITES.map(line).concat()
    }
}

// === helpers ===

/// The kernel in a folder that holds its unpacked packages.
fn cached(dir: &Path) -> Result<Option<Cached>> {
    let Ok(release) = fs::read_to_string(dir.join("release")) else { return Ok(None) };
    let first = |candidates: [PathBuf; 2]| candidates.into_iter().find(|path| path.exists());
    let modules = first(["lib/modules", "usr/lib/modules"].map(|at| dir.join(at).join(&release)));
    let image = first([
        dir.join("boot").join(format!("vmlinuz-{release}")),
        dir.join("usr/lib/modules").join(&release).join("vmlinuz"),
    ]);
    let (Some(image), Some(modules)) = (image, modules) else {
        bail!("{} has no kernel or no modules; remove it to download it again", dir.display());
    };
    ensure!(!release.is_empty(), "{} is empty", dir.join("release").display());
    Ok(Some(Cached { release, image, modules }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "http://elsewhere.test/ nodistro main\n\
        http://mirror.test/debian/ bookworm main\n\
        http://mirror.test/debian/ bookworm contrib\n\
        http://mirror.test/debian/ bookworm-updates main\n\
        http://security.test/ bookworm-security main\n";

    #[test]
    fn suites_come_from_the_machines_mirrors() {
        let mirrors = Mirrors::among(TARGETS, "bookworm").unwrap();
        let sources = mirrors.sources();
        assert_eq!(sources.lines().count(), SUITES.len());
        let ends = |line: &str| sources.lines().any(|other| other.ends_with(line));
        assert!(ends("] http://security.test bullseye-security main"), "{sources}");
        assert!(ends("] http://mirror.test/debian trixie-backports main"), "{sources}");
    }

    #[test]
    fn without_a_mirror_it_says_what_is_missing() {
        let error = Mirrors::among(TARGETS, "trixie").unwrap_err().to_string();
        assert!(error.contains("trixie-security"), "{error}");
    }
}

//! `cargo xtask ebpf`: builds the BPF object, and checks that the committed one belongs to the
//! sources. Everything else in the project needs stable Rust only.

mod wrapper;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub(crate) use self::wrapper::rustc;

/// What the object is made from.
const SOURCES: [&str; 5] = [
    "proxy-ebpf/Cargo.toml",
    "proxy-ebpf/Cargo.lock",
    "proxy-ebpf/src",
    "proxy-common/Cargo.toml",
    "proxy-common/src",
];
const OBJECT: &str = "proxy-ebpf/prebuilt/weir.bpf.o";
const RECORD: &str = "proxy-ebpf/prebuilt/weir.bpf.txt";
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_PACKAGES: [&str; 7] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22",
    "llvm-22-dev",
    "libzstd-dev",
    "libpolly-22-dev",
];

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the committed object does not match the sources
    #[arg(long)]
    check: bool,
    /// Install the BPF toolchain first (Debian 12, as root)
    #[arg(long, conflicts_with = "check")]
    install_toolchain: bool,
}

/// A compiler for the BPF target, with what it needs.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// `+nightly`, where the compilers are rustup's proxies.
    channel: Option<&'static str>,
    linker: PathBuf,
    objcopy: PathBuf,
}

/// What is written beside the object.
#[derive(PartialEq)]
struct Record {
    sources: String,
    object: String,
    toolchain: String,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.install_toolchain {
        install()?;
    }
    if args.check { check(root) } else { build_and_commit(root) }
}

/// Builds the object into `target/` where the toolchain is there, for tests of the sources as
/// they stand; `None` where it is not.
pub(crate) fn fresh_object(root: &Path) -> Result<Option<PathBuf>> {
    let Ok(toolchain) = Toolchain::find() else { return Ok(None) };
    toolchain.build(root).map(Some)
}

fn build_and_commit(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let built = toolchain.build(root)?;
    let bytes = fs::read(&built)?;
    let record = Record {
        sources: hash_sources(root)?,
        object: hex(&bytes),
        toolchain: toolchain.version()?,
    };
    fs::write(root.join(OBJECT), &bytes)?;
    fs::write(root.join(RECORD), record.to_text())?;
    println!("{OBJECT}: {} bytes, built with {}", bytes.len(), record.toolchain);
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    let record = Record::from_text(&fs::read_to_string(root.join(RECORD))?)?;
    let sources = hash_sources(root)?;
    ensure!(
        sources == record.sources,
        "the committed BPF object was built from other sources\n  sources now: {sources}\n  \
         recorded:    {}\nrun `cargo xtask ebpf` and commit proxy-ebpf/prebuilt/",
        record.sources
    );
    let committed = fs::read(root.join(OBJECT))?;
    ensure!(
        hex(&committed) == record.object,
        "{OBJECT} is not the object that {RECORD} describes; run `cargo xtask ebpf`"
    );
    println!("sources and object match the record");
    match Toolchain::find() {
        Err(reason) => println!("not rebuilt: {reason:#}"),
        Ok(toolchain) => {
            let version = toolchain.version()?;
            if version != record.toolchain {
                println!(
                    "not compared byte by byte: this machine has {version}, the object was built \
                     with {}",
                    record.toolchain
                );
                return Ok(());
            }
            ensure!(
                fs::read(toolchain.build(root)?)? == committed,
                "a rebuild with the recorded toolchain gives another object; run `cargo xtask ebpf`"
            );
            println!("rebuilt with {version}: byte for byte the same");
        }
    }
    Ok(())
}

// === impl Toolchain ===

impl Toolchain {
    fn find() -> Result<Self> {
        let linker = find_program(&["bpf-linker"]).context("no bpf-linker found")?;
        let debian = Path::new("/usr/lib/rustlib/src/rust/library/core");
        if debian.exists() && Path::new("/usr/bin/rustc").exists() {
            return Ok(Self {
                cargo: "/usr/bin/cargo".into(),
                rustc: "/usr/bin/rustc".into(),
                channel: None,
                linker,
                objcopy: find_program(&["llvm-objcopy-22", "llvm-objcopy"])
                    .context("no llvm-objcopy found")?,
            });
        }
        let sysroot = output(Command::new("rustc").args(["+nightly", "--print", "sysroot"]))
            .context(
                "neither Debian's rustc-web with rust-web-src nor a nightly toolchain found",
            )?;
        ensure!(
            Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists(),
            "the nightly toolchain has no rust-src"
        );
        Ok(Self {
            cargo: "cargo".into(),
            rustc: "rustc".into(),
            channel: Some("+nightly"),
            linker,
            objcopy: find_program(&["llvm-objcopy-22", "llvm-objcopy", "rust-objcopy"])
                .context("no llvm-objcopy found")?,
        })
    }

    fn version(&self) -> Result<String> {
        let rustc = output(Command::new(&self.rustc).args(self.channel).arg("--version"))?;
        let linker = output(Command::new(&self.linker).arg("--version"))?;
        Ok(format!("{rustc}; {linker}"))
    }

    /// Builds and strips; returns the object's path.
    fn build(&self, root: &Path) -> Result<PathBuf> {
        let target_dir = root.join("target/ebpf");
        let mut flags = vec![
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            "-Ctarget-cpu=v3".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        flags.extend(remaps(root));
        let mut command = Command::new(&self.cargo);
        command
            .args(self.channel)
            .args(["build", "--release", "--locked", "--quiet", "-Zbuild-std=core"])
            .args(["--target", TARGET])
            .current_dir(root.join("proxy-ebpf"))
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env("RUSTC_BOOTSTRAP", "1");
        for inherited in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(inherited);
        }
        let this = env::current_exe().context("cannot find this program")?;
        command.env("RUSTC_WRAPPER", this).env(wrapper::MARK, "1");
        if self.channel.is_none() {
            command.env("RUSTC", &self.rustc);
        }
        let status =
            command.status().with_context(|| format!("cannot run {}", self.cargo.display()))?;
        ensure!(status.success(), "the BPF programs do not build");
        let linked = target_dir.join(TARGET).join("release/weir-ebpf");
        let stripped = target_dir.join("weir.bpf.o");
        let status =
            Command::new(&self.objcopy).arg("--strip-debug").args([&linked, &stripped]).status()?;
        ensure!(status.success(), "{} failed", self.objcopy.display());
        Ok(stripped)
    }
}

// === impl Record ===

impl Record {
    fn to_text(&self) -> String {
        format!("sources {}\nobject {}\ntoolchain {}\n", self.sources, self.object, self.toolchain)
    }

    fn from_text(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .map(str::to_owned)
                .with_context(|| format!("{RECORD} has no line `{name}`"))
        };
        Ok(Self {
            sources: field("sources")?,
            object: field("object")?,
            toolchain: field("toolchain")?,
        })
    }
}

// === helpers ===

/// Keeps the machine's paths out of the object's line information.
fn remaps(root: &Path) -> Vec<String> {
    let mut prefixes = vec![(root.to_path_buf(), "weir".to_owned())];
    let registries = cargo_home().join("registry/src");
    for entry in fs::read_dir(registries).into_iter().flatten().flatten() {
        prefixes.push((entry.path(), "registry".to_owned()));
    }
    prefixes.push(("/usr/lib/rustlib/src/rust".into(), "rust".to_owned()));
    prefixes
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo"),
        PathBuf::from,
    )
}

fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain([cargo_home().join("bin")]).collect();
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|p| p.is_file())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A digest over the names and contents of all source files, in order of their names.
fn hash_sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let bytes = fs::read(&file)?;
        digest.update(format!("{name} {}\n", bytes.len()));
        digest.update(&bytes);
    }
    Ok(to_hex(&digest.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        ensure!(path.exists(), "{} is missing", path.display());
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Debian 12 with its security suite has all but bpf-linker, which comes from the crate registry.
fn install() -> Result<()> {
    if find_program(&["apt-get"]).is_none() || !nix::unistd::geteuid().is_root() {
        bail!(
            "cannot install the BPF toolchain: this needs root on Debian\ninstall {} and \
             `cargo install bpf-linker`, or a rustup nightly with rust-src",
            DEBIAN_PACKAGES.join(" ")
        );
    }
    let apt = |args: &[&str]| -> Result<()> {
        let status =
            Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "apt-get {} failed", args.join(" "));
        Ok(())
    };
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(DEBIAN_PACKAGES);
    apt(&args)?;
    if find_program(&["bpf-linker"]).is_some() {
        return Ok(());
    }
    let status = Command::new("cargo")
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--no-default-features",
            "--features",
            "llvm-22",
        ])
        .env("LLVM_PREFIX", "/usr/lib/llvm-22")
        .env("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22")
        .status()?;
    ensure!(status.success(), "cannot install bpf-linker");
    Ok(())
}

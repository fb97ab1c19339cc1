//! The small first file system of the guest: busybox, the modules, and a script that mounts the
//! root file system and goes on there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::archive::Cached;
use super::image::Stage;
use super::{modules, output_of};

const INIT: &str = include_str!("guest/init.sh");

/// Makes the archive for a kernel.
///
/// # Errors
///
/// Fails when a program for it is missing.
pub(super) fn make(cache: &Path, kernel: &Cached) -> Result<PathBuf> {
    let stage = Stage::new(cache, "initramfs")?;
    let at = |path: &str| stage.path().join(path);
    for dir in ["bin", "dev", "proc", "sys", "new", "modules"] {
        fs::create_dir(at(dir))?;
    }
    fs::copy("/bin/busybox", at("bin/busybox")).context("busybox-static is not installed")?;
    let (ordered, _built_in_or_unknown) = modules::in_order(&kernel.modules, &kernel.release)?;
    let mut order = String::new();
    for path in &ordered {
        let name = modules::name(path);
        unpack(&kernel.modules.join(path), &at("modules").join(name))?;
        order.push_str(&format!("{name}\n"));
    }
    fs::write(at("order"), order)?;
    fs::write(at("init"), INIT)?;
    executable(&at("init"))?;
    let archive = cache.join(format!("initramfs-{}", kernel.release));
    pack(stage.path(), &archive)?;
    Ok(archive)
}

/// Modules may be compressed, and busybox does not know each way.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    let program = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => {
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            return Ok(());
        }
    };
    let status = Command::new(program)
        .arg("-dc")
        .arg(from)
        .stdout(fs::File::create(to)?)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} cannot unpack {}", from.display());
    Ok(())
}

fn pack(dir: &Path, archive: &Path) -> Result<()> {
    let names = output_of(Command::new("find").arg(".").current_dir(dir))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("cannot run cpio")?;
    cpio.stdin.take().context("stdin was asked for")?.write_all(names.as_bytes())?;
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(())
}

/// Sets the mode of a program.
pub(super) fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

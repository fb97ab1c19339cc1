//! The files of the package, as they will lie below `/`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use walkdir::WalkDir;

use super::{NAME, Package, notices};

/// The configuration that comes with the package.
const CONFIG: &str = "etc/weir/weir.toml";
/// Where the documentation goes.
const DOC: &str = "usr/share/doc/weir";
/// What stands above the generated part of the configuration.
const CONFIG_HEAD: &str = "\
# Configuration of weir.service. Every key is here with its default, as a comment; docs/CONFIG.md has
# more. Before `systemctl enable --now weir`, say what is to be captured:
#
#   [workload]
#   cgroup = \"/sys/fs/cgroup/system.slice/shop.service\"
#
# `weir run --config /etc/weir/weir.toml --print-config` shows what is in force.

";

/// Writes all files below `root`, with what dpkg-deb wants in `DEBIAN/`.
pub(super) fn fill(package: &Package<'_>, root: &Path) -> Result<()> {
    let from = |path: &str| {
        fs::read_to_string(package.root.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let put = |path: &str, mode: u32, content: &[u8]| put(root, path, mode, content);
    put("usr/bin/weir", 0o755, &stripped(package.binary)?)?;
    let weir = root.join("usr/bin/weir");
    put(
        "usr/lib/systemd/system/weir.service",
        0o644,
        from("deploy/debian/weir.service")?.as_bytes(),
    )?;
    put(CONFIG, 0o644, config(&from("docs/CONFIG.md")?)?.as_bytes())?;
    let pages = tempfile::tempdir()?;
    let folder = pages.path().to_str().context("a path that is not UTF-8")?;
    verb(&weir, &["man", "--dir", folder])?;
    for page in fs::read_dir(pages.path())? {
        let page = page?;
        let name = page.file_name().to_string_lossy().into_owned();
        put(&format!("usr/share/man/man1/{name}.gz"), 0o644, &gzip(&fs::read(page.path())?)?)?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/weir"),
        ("zsh", "usr/share/zsh/vendor-completions/_weir"),
        ("fish", "usr/share/fish/vendor_completions.d/weir.fish"),
    ] {
        put(path, 0o644, &verb(&weir, &["completions", shell])?)?;
    }
    for page in ["INSTALL", "CLI", "CONFIG", "METRICS", "RECORDS", "TROUBLESHOOTING", "SECURITY"] {
        let text = from(&format!("docs/{page}.md"))?;
        put(&format!("{DOC}/{page}.md"), 0o644, text.as_bytes())?;
    }
    put(&format!("{DOC}/changelog.gz"), 0o644, &gzip(from("CHANGELOG.md")?.as_bytes())?)?;
    put(&format!("{DOC}/copyright"), 0o644, notices::copyright(&from("LICENSE")?).as_bytes())?;
    let notices = notices::third_party(package.root)?;
    put(&format!("{DOC}/THIRD-PARTY-NOTICES.gz"), 0o644, &gzip(notices.as_bytes())?)?;
    debian(package, root)
}

/// What dpkg-deb reads.
fn debian(package: &Package<'_>, root: &Path) -> Result<()> {
    let (mut size, mut sums) = (0, String::new());
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        size += entry.metadata()?.len();
        let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
        if path != CONFIG {
            let output = Command::new("md5sum").arg(&path).current_dir(root).output()?;
            ensure!(output.status.success(), "md5sum: {}", String::from_utf8_lossy(&output.stderr));
            sums += &String::from_utf8(output.stdout)?;
        }
    }
    let put =
        |name: &str, mode, content: &[u8]| put(root, &format!("DEBIAN/{name}"), mode, content);
    put("control", 0o644, package.control(size.div_ceil(1024)).as_bytes())?;
    put("conffiles", 0o644, format!("/{CONFIG}\n").as_bytes())?;
    put("md5sums", 0o644, sums.as_bytes())?;
    for script in ["postinst", "prerm", "postrm"] {
        let path = package.root.join("deploy/debian").join(script);
        put(script, 0o755, &fs::read(path)?)?;
    }
    Ok(())
}

fn put(root: &Path, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    // Whatever the umask: dpkg takes the modes of folders as they are.
    for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The binary without symbols and debug information.
fn stripped(binary: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(NAME);
    let done = Command::new("strip")
        .args(["--strip-all", "-o"])
        .args([&path, binary])
        .output()
        .context("cannot run strip; install binutils")?;
    ensure!(done.status.success(), "strip: {}", String::from_utf8_lossy(&done.stderr));
    Ok(fs::read(path)?)
}

/// The output of a verb of the packaged binary.
fn verb(weir: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(weir).args(arguments).output().context("cannot run the binary")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir {}: {stderr}", arguments.join(" "));
    Ok(output.stdout)
}

/// The generated part of the page of the configuration.
fn config(page: &str) -> Result<String> {
    let (_, rest) =
        page.split_once("<!-- table file -->\n```toml\n").context("docs/CONFIG.md has no file")?;
    let (file, _) = rest.split_once("```\n").context("docs/CONFIG.md: the file does not end")?;
    Ok(format!("{CONFIG_HEAD}{file}"))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_package_is_the_one_of_the_page() {
        let page = fs::read_to_string(crate::root().join("docs/CONFIG.md")).unwrap();
        let file = config(&page).unwrap();
        assert!(file.starts_with("# Configuration of weir.service."));
        assert!(file.contains("\n[workload]\n") && !file.contains("```"), "{file}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.toml");
        fs::write(&path, &file).unwrap();
        assert_eq!(weir::config::Config::load(&path).unwrap(), weir::config::Config::default());
        assert!(config("nothing").is_err());
    }

    /// The unit lets weir keep what it keeps by itself, and nothing else.
    #[test]
    fn the_unit_has_the_capabilities_that_weir_keeps() {
        let unit = fs::read_to_string(crate::root().join("deploy/debian/weir.service")).unwrap();
        let line =
            unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let needs: Vec<_> =
            weir::privileges::NEEDS.iter().map(|need| need.capability.to_string()).collect();
        assert_eq!(line.split(' ').collect::<Vec<_>>(), needs);
    }
}

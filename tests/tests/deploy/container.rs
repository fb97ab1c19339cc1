//! A container: the image's layers as the root, and the mounts, the capabilities and the read-only
//! `/proc/sys` that a runtime makes of the DaemonSet's manifest, in a mount and a cgroup namespace of
//! its own. The PID namespace is the node's, as the manifest has it.
//!
//! Everything is mounted inside the namespace and goes with its last process.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tar::Archive;
use tempfile::TempDir;
use weir_tests::cgroup::{self, Cgroup};
use weir_tests::netns::Netns;
use weir_tests::weir::target_dir;

/// As a runtime does before it starts the program: `$1` is the root, `$2` the bounding set, then pairs of
/// what is mounted and where, up to `--`.
const ENTER: &str = r#"
set -eu
root=$1 bounds=$2
shift 2
cd "$root"
mount --bind . .
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o nosuid,mode=755 tmpfs dev
touch dev/null
mount --bind /dev/null dev/null
while [ "$1" != -- ]; do
    mkdir -p ".$2"
    mount --rbind "$1" ".$2"
    shift 2
done
shift
mount --bind proc/sys proc/sys
mount -o remount,bind,ro,nosuid,nodev,noexec proc/sys
mount -o remount,bind,ro .
exec setpriv --bounding-set "$bounds" --inh-caps=-all -- chroot . "$@"
"#;

/// The image, unpacked, and what the manifest says of how it is run.
pub(crate) struct Image {
    root: TempDir,
    entrypoint: Vec<String>,
    pod: Value,
}

/// A container that can be started, more than once.
pub(crate) struct Container<'a> {
    image: &'a Image,
    cgroup: Cgroup,
    /// What is mounted at `/run/weir`.
    run: PathBuf,
}

// === impl Image ===

impl Image {
    /// Unpacks the archive; every blob must have the digest that it is called by.
    ///
    /// # Errors
    ///
    /// Fails when there is no archive or it is no image.
    pub(crate) fn unpack() -> Result<Self> {
        let layout = tempfile::tempdir()?;
        let archive = archive()?;
        Archive::new(std::fs::File::open(archive)?).unpack(layout.path())?;
        let index = std::fs::read(layout.path().join("index.json"))?;
        let index: Value = serde_json::from_slice(&index)?;
        let manifest = json(layout.path(), &index["manifests"][0])?;
        let config = json(layout.path(), &manifest["config"])?;
        let root = tempfile::Builder::new().prefix("weir-test-root-").tempdir()?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            let blob = blob(layout.path(), layer)?;
            Archive::new(GzDecoder::new(&blob[..])).unpack(root.path())?;
        }
        for mount_point in ["dev", "proc", "run", "sys"] {
            std::fs::create_dir(root.path().join(mount_point))?;
        }
        let entrypoint = serde_json::from_value(config["config"]["Entrypoint"].clone())?;
        Ok(Self { root, entrypoint, pod: pod()? })
    }

    /// A container with a cgroup of its own, and a directory of the node's as `/run/weir`.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub(crate) fn container(&self, role: &str, run: &Path) -> Result<Container<'_>> {
        Ok(Container { image: self, cgroup: Cgroup::new(role)?, run: run.to_owned() })
    }
}

// === impl Container ===

impl Container<'_> {
    /// The image's program with these arguments, in a network namespace.
    ///
    /// # Errors
    ///
    /// Fails when the manifest has not what is expected.
    pub(crate) fn command(&self, netns: &Netns, arguments: &[&str]) -> Result<Command> {
        // With the object that is in the image: another one would be outside of it.
        let mut command = netns.command("env");
        command.args(["-u", "WEIR_BPF_OBJECT", "unshare"]);
        command.args(["--mount", "--cgroup", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
        command.arg(self.image.root.path()).arg(self.bounds()?);
        for (from, to) in self.mounts()? {
            command.arg(from).arg(to);
        }
        command.arg("--").args(&self.image.entrypoint).args(arguments);
        Ok(self.cgroup.wrap(&command))
    }

    /// The capabilities of the manifest, as setpriv(1) takes them. chroot(1) needs one more, which
    /// has no part in anything that weir does.
    fn bounds(&self) -> Result<String> {
        let added = &self.image.pod["containers"][0]["securityContext"]["capabilities"]["add"];
        let added: Vec<String> = serde_json::from_value(added.clone())?;
        let names = added.iter().map(|name| format!(",+{}", name.to_lowercase()));
        Ok(format!("-all,+sys_chroot{}", names.collect::<String>()))
    }

    /// What is mounted where: the manifest's paths of the node, but for what is elsewhere on this
    /// machine, and for `/run/weir`, which is this machine's own.
    fn mounts(&self) -> Result<Vec<(PathBuf, String)>> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let container = &self.image.pod["containers"][0];
        let mut mounts = Vec::new();
        for mount in list(&container["volumeMounts"]) {
            let volumes = list(&self.image.pod["volumes"]);
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let path = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
            let path = path.with_context(|| format!("{mount} is of no path of the node"))?;
            let from = match path {
                "/sys/fs/cgroup" => cgroup::mount_point()?,
                "/run/weir" => self.run.clone(),
                other => other.into(),
            };
            let to = mount["mountPath"].as_str().context("no mountPath")?;
            mounts.push((from, to.to_owned()));
        }
        ensure!(mounts.len() >= 3, "{mounts:?}");
        Ok(mounts)
    }
}

// === helpers ===

fn archive() -> Result<PathBuf> {
    let path = std::env::var_os("WEIR_IMAGE")
        .map_or_else(|| target_dir().join("image/test.tar"), PathBuf::from);
    ensure!(
        path.exists(),
        "{} is missing; make it: cargo xtask image --quick --output {0}",
        path.display()
    );
    Ok(path)
}

/// The pod of the DaemonSet in the plain manifests.
pub(crate) fn pod() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests/weir.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    let set = objects.into_iter().find(|object| object["kind"] == "DaemonSet");
    Ok(set.context("no DaemonSet")?["spec"]["template"]["spec"].clone())
}

fn json(layout: &Path, descriptor: &Value) -> Result<Value> {
    Ok(serde_json::from_slice(&blob(layout, descriptor)?)?)
}

fn blob(layout: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let name =
        digest.strip_prefix("sha256:").with_context(|| format!("no digest: {descriptor}"))?;
    let mut bytes = Vec::new();
    let path = layout.join("blobs/sha256").join(name);
    std::fs::File::open(path)?.read_to_end(&mut bytes)?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == name, "{name} is {found}");
    Ok(bytes)
}

//! The archive: an OCI image layout in a tar file, as `podman load`, `ctr images import`,
//! `docker load` and `skopeo copy oci-archive:` take it. The same input gives the same bytes.
//! (opencontainers/image-spec: image-layout.md, manifest.md, config.md, layer.md.)

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What goes in.
pub(super) struct Image<'a> {
    /// The static binary.
    pub(super) program: &'a [u8],
    /// Its path, without a slash in front.
    pub(super) path: &'a str,
    /// The image's name without a tag.
    pub(super) name: &'a str,
    /// Its tag.
    pub(super) version: &'a str,
    /// As GOARCH has it.
    pub(super) architecture: &'a str,
}

/// Blobs by their digests.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

/// The whole archive.
///
/// # Errors
///
/// Fails when a path is too long for a tar file.
pub(super) fn archive(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let layer = layer(image.program, image.path)?;
    let diff_id = format!("sha256:{}", sha256(&layer));
    let layer = blobs.add("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&layer)?);
    let platform = json!({ "architecture": image.architecture, "os": "linux" });
    let labels = labels(image.version);
    let path = Path::new("/").join(image.path);
    let config = json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": "0:0",
            "Env": [format!("PATH={}", path.parent().unwrap_or(Path::new("/")).display())],
            "Entrypoint": [path],
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "cargo xtask image" }],
    });
    let config = blobs.add_json("application/vnd.oci.image.config.v1+json", &config)?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": [layer],
        "annotations": labels,
    });
    let mut manifest = blobs.add_json(manifest_type, &manifest)?;
    manifest["platform"] = platform;
    manifest["annotations"] = json!({
        // The tag to most tools, and the whole name to containerd.
        "org.opencontainers.image.ref.name": image.version,
        "io.containerd.image.name": format!("{}:{}", image.name, image.version),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let mut tar = Builder::new(Vec::new());
    directories(&mut tar, "blobs/sha256")?;
    for (digest, blob) in &blobs.0 {
        file(&mut tar, &format!("blobs/sha256/{digest}"), 0o644, blob)?;
    }
    file(&mut tar, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    file(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(tar.into_inner()?)
}

// === impl Blobs ===

impl Blobs {
    /// Keeps a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = sha256(&blob);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": blob.len(),
        });
        self.0.insert(digest, blob);
        descriptor
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Result<Value> {
        Ok(self.add(media_type, serde_json::to_vec(value)?))
    }
}

// === helpers ===

fn labels(version: &str) -> Value {
    json!({
        "org.opencontainers.image.title": "weir",
        "org.opencontainers.image.description": "A transparent, eBPF-assisted proxy",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

fn layer(program: &[u8], path: &str) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    if let Some((parent, _)) = path.rsplit_once('/') {
        directories(&mut tar, parent)?;
    }
    file(&mut tar, path, 0o755, program)?;
    Ok(tar.into_inner()?)
}

/// A directory and those above it, the topmost first.
fn directories(tar: &mut Builder<Vec<u8>>, path: &str) -> Result<()> {
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    for end in ends {
        let mut header = header(0, 0o755, EntryType::Directory);
        tar.append_data(&mut header, format!("{}/", &path[..end]), std::io::empty())?;
    }
    Ok(())
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(content.len() as u64, mode, EntryType::Regular);
    Ok(tar.append_data(&mut header, path, content)?)
}

/// Everything that could differ from one run to the next is nought: time, owner, device.
fn header(size: u64, mode: u32, kind: EntryType) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // Without a name, and with the time 0.
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, OciLayout};
    use serde::de::DeserializeOwned;
    use tar::Archive;

    use super::*;

    const IMAGE: Image<'_> = Image {
        program: b"\x7fELF and so on",
        path: "usr/local/bin/weir",
        name: "localhost/weir",
        version: "1.2.3",
        architecture: "amd64",
    };

    /// Path, mode, time of change and content of each entry.
    fn read(tar: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
        let mut archive = Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let (mode, time) = (entry.header().mode().unwrap(), entry.header().mtime().unwrap());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, mode, time, content)
        });
        entries.collect()
    }

    fn parse<T: DeserializeOwned>(bytes: &[u8]) -> T {
        serde_json::from_slice(bytes).unwrap()
    }

    fn blob<'a>(entries: &'a [(String, u32, u64, Vec<u8>)], descriptor: &Descriptor) -> &'a [u8] {
        let path = format!("blobs/sha256/{}", descriptor.as_digest_sha256().unwrap());
        let (.., content) = entries.iter().find(|entry| entry.0 == path).unwrap();
        assert_eq!(content.len() as u64, descriptor.size());
        assert_eq!(Some(sha256(content).as_str()), descriptor.as_digest_sha256());
        content
    }

    #[test]
    fn the_same_input_gives_the_same_bytes_in_order() {
        let bytes = archive(&IMAGE).unwrap();
        assert_eq!(bytes, archive(&IMAGE).unwrap());
        let entries = read(&bytes);
        let names: Vec<&str> = entries.iter().map(|entry| entry.0.as_str()).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.len(), 7, "two directories, three blobs and two files: {names:?}");
        assert!(entries.iter().all(|entry| entry.2 == 0), "no times");
    }

    /// Read with the types of the specification, not with what wrote it.
    #[test]
    fn every_part_is_where_the_specification_wants_it() {
        let bytes = archive(&IMAGE).unwrap();
        let entries = read(&bytes);
        let file = |name: &str| &entries.iter().find(|entry| entry.0 == name).unwrap().3;
        assert_eq!(parse::<OciLayout>(file("oci-layout")).image_layout_version(), "1.0.0");
        let index: ImageIndex = parse(file("index.json"));
        let [descriptor] = &index.manifests()[..] else { panic!("{index:?}") };
        assert_eq!(descriptor.platform().as_ref().unwrap().architecture().to_string(), "amd64");
        let manifest: ImageManifest = parse(blob(&entries, descriptor));
        let config: ImageConfiguration = parse(blob(&entries, manifest.config()));
        let settings = config.config().as_ref().unwrap();
        assert_eq!(settings.entrypoint().as_ref().unwrap()[..], ["/usr/local/bin/weir"]);
        assert_eq!(settings.env().as_ref().unwrap()[..], ["PATH=/usr/local/bin"]);
        let [layer] = &manifest.layers()[..] else { panic!("{manifest:?}") };
        let mut layer = flate2::read::GzDecoder::new(blob(&entries, layer));
        let mut tar = Vec::new();
        layer.read_to_end(&mut tar).unwrap();
        assert_eq!(config.rootfs().diff_ids()[..], [format!("sha256:{}", sha256(&tar))]);
        let (path, mode, _, content) = read(&tar).pop().unwrap();
        assert_eq!((path.as_str(), mode, &content[..]), (IMAGE.path, 0o755, IMAGE.program));
    }
}

//! A directory of Kubernetes manifests that is followed: which files there are, their text, and when to
//! look again.

mod watch;

pub(crate) use watch::Watch;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

const MIB: u64 = 1024 * 1024;

/// What a file was when it was read: its time of change and its length.
pub(crate) type Stamp = (Option<SystemTime>, u64);

/// The manifests in a directory, and what each is like: `.yaml`, `.yml` and `.json`, hidden files aside.
///
/// # Errors
/// Where the directory cannot be read.
pub(crate) fn list(directory: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut there = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path)
            && let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            there.insert(path, (metadata.modified().ok(), metadata.len()));
        }
    }
    Ok(there)
}

/// The text of a file.
///
/// # Errors
/// Where it is larger than so many MiB, or cannot be read.
pub(crate) fn read(path: &Path, stamp: Stamp, most_mib: u64) -> Result<String, String> {
    if stamp.1 > most_mib * MIB {
        return Err(format!("the file is larger than {most_mib} MiB"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// What a YAML parser says of an error, without the lines around it.
pub(crate) fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

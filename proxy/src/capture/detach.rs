//! Taking everything away that weir has pinned, also when no weir is running.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    CaptureError,
    instance::holder,
    pinned_links::remove_instance,
    pins::{self, Lock, directories, lock_directory},
    remembered::recall,
};

/// The pins of an instance that no weir serves, or that are taken away from the one that does.
pub struct Abandoned {
    root: PathBuf,
    _lock: Option<Lock>,
}

/// Names of the instances that have anything pinned.
///
/// # Errors
/// Where mountinfo or the directory of all instances cannot be read.
pub fn instances() -> Result<Vec<String>, CaptureError> {
    if let Some(all) = pins::instance_directory("")?
        && let Err(error) = fs::read_dir(&all)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return Err(hidden(&all, error));
    }
    let directories = pins::existing_instances()?;
    Ok(directories.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

/// Claims the pins of an instance; `None` where there are none. With `force` also those of one
/// that is being served.
///
/// # Errors
/// [`CaptureError::Served`] where a weir serves it; also where it cannot be told whether there are any.
pub fn claim(instance: &str, force: bool) -> Result<Option<Abandoned>, CaptureError> {
    let Some(root) = pins::instance_directory(instance)? else { return Ok(None) };
    match fs::metadata(&root) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(hidden(&root, error));
        }
        _ => return Ok(None),
    }
    let lock = lock_directory(&root).map_err(|source| CaptureError::Pins {
        action: "lock",
        path: root.clone(),
        source,
        hint: "; run as root",
    })?;
    if lock.is_none() && !force {
        return Err(CaptureError::Served { instance: instance.to_owned(), holder: holder(&root) });
    }
    Ok(Some(Abandoned { root, _lock: lock }))
}

/// What another user's directories hold is not nothing.
fn hidden(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Pins { action: "look at", path: path.to_owned(), source, hint: "; run as root" }
}

/// Removes the pins of the chosen instances that no weir serves. Returns their names.
pub fn sweep(chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let mut removed = instances().unwrap_or_default();
    removed.retain(|instance| {
        let abandoned = || claim(instance, false).ok().flatten();
        chosen(instance) && abandoned().is_some_and(|found| found.remove().is_ok())
    });
    removed
}

// === impl Abandoned ===

impl Abandoned {
    /// The descriptions of its workloads, of every schema.
    #[must_use]
    pub fn workloads(&self) -> Vec<Vec<u8>> {
        let schemas = directories(&self.root);
        let remembered = schemas.iter().flat_map(|schema| recall(schema).workloads);
        remembered.map(|(_, description)| description).collect()
    }

    /// Takes every program off its hook and removes every pin.
    ///
    /// # Errors
    /// Where something is left.
    pub fn remove(self) -> Result<(), CaptureError> {
        remove_instance(&self.root);
        match fs::metadata(&self.root) {
            Ok(_) => Err(CaptureError::Pins {
                action: "remove",
                path: self.root.clone(),
                source: std::io::Error::from_raw_os_error(libc::ENOTEMPTY),
                hint: "; remove its contents by hand",
            }),
            Err(_) => Ok(()),
        }
    }
}

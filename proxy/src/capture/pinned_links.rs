//! Links that are pinned, of this weir and of earlier ones: which programs they have, and their removal.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use weir_common::WorkloadId;

use super::{
    Instance,
    attach::HOOKS,
    bpf,
    pins::{self, directories, lock_directory},
};

// === impl Instance ===

impl Instance {
    /// Takes everything off that is pinned for workloads that are not in `wanted`.
    pub fn remove_stale_links(&self, wanted: &[WorkloadId]) {
        for path in directories(&self.pins.own_schema()) {
            let id = path.file_name().and_then(|name| name.to_str()?.parse::<WorkloadId>().ok());
            if id.is_some_and(|id| !wanted.contains(&id)) {
                remove_links(&path);
            }
        }
    }

    /// Whether weirs of other schemas have left anything, or are using it.
    #[must_use]
    pub fn has_other_schemas(&self) -> bool {
        !self.pins.other_schemas().is_empty()
    }

    /// Removes what weirs of other schemas have left and no longer use: their programs and maps.
    pub fn remove_other_schemas(&self) {
        for schema in self.pins.other_schemas() {
            if let Ok(Some(_unused)) = lock_directory(&schema) {
                remove_tree(&schema);
            }
        }
    }

    /// Removes everything that is pinned.
    pub fn remove_pins(&self) {
        remove_instance(self.pins.root());
    }

    /// True for a program that is pinned for a workload of this instance, by this weir or an
    /// earlier one. Looks among those of `workload` first: with many workloads that matters.
    #[must_use]
    pub fn owns(&self, workload: WorkloadId, program: u32) -> bool {
        self.owns_for(workload, program)
            || self.schemas().flat_map(|schema| directories(&schema)).any(|it| has(&it, program))
    }

    /// True for a program that is pinned for this workload, by this weir, an earlier one or the one
    /// that is being replaced.
    #[must_use]
    pub fn owns_for(&self, workload: WorkloadId, program: u32) -> bool {
        self.schemas().any(|schema| has(&schema.join(workload.to_string()), program))
    }

    fn schemas(&self) -> impl Iterator<Item = PathBuf> {
        [self.pins.own_schema()].into_iter().chain(self.pins.other_schemas())
    }
}

// === helpers ===

/// Takes every program off that is pinned below a directory, and removes it.
pub(super) fn remove_tree(directory: &Path) {
    for child in directories(directory) {
        remove_tree(&child);
    }
    remove_links(directory);
}

/// Removes everything of one instance, and the directory of all if it was the last. First the link to
/// the control socket: a weir that runs puts its programs back for as long as that is there
/// ([`Instance::is_pinned`]). Links come before maps in the order of names: programs of a removal that was
/// killed would have maps that cannot be found again.
pub(super) fn remove_instance(root: &Path) {
    let _ = fs::remove_file(pins::control(root));
    remove_tree(root);
    if let Some(parent) = root.parent() {
        let _ = fs::remove_dir(parent);
    }
}

/// Whether one of the links that are pinned in a directory has this program.
fn has(links: &Path, program: u32) -> bool {
    let mut links = HOOKS.iter().flat_map(|hook| bpf::open_pinned(&links.join(hook.name)));
    links.any(|link| bpf::link_target(link.as_fd()).is_ok_and(|(_, id)| id == program))
}

pub(super) fn remove_links(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        remove_link(&entry.path());
    }
    let _ = fs::remove_dir(directory);
}

/// Detaches a pinned link and removes the pin; any other pinned object just loses its name.
pub(super) fn remove_link(path: &PathBuf) {
    if let Ok(link) = bpf::open_pinned(path) {
        let _ = bpf::link_detach(link.as_fd());
    }
    let _ = fs::remove_file(path);
}

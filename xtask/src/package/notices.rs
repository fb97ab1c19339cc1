//! The licences of the crates that are in the binary, from their sources on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// How files begin that have a licence or a notice.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
/// What cargo must not do: ask a registry, or change the lock file; and whose crates it is about.
fn options() -> Vec<String> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    ["--offline", "--locked", "--filter-platform", &target].map(str::to_owned).into()
}

/// The copyright file of the package (Debian Policy §12.5).
pub(super) fn copyright(license: &str) -> String {
    format!(
        "weir is distributed under the Apache License, version 2.0 (below). Its BPF programs are \
         under the MIT\nlicense or the GNU General Public License, version 2. The binary has code of \
         others in it, whose\nlicences are in THIRD-PARTY-NOTICES.gz.\n\n{license}"
    )
}

/// The crates in weir and in its BPF programs, with their licences. A licence that several crates have
/// in the same words is there once.
///
/// # Errors
///
/// Fails when the sources of a crate are not on this machine, or one names no licence.
pub(super) fn third_party(root: &Path) -> Result<String> {
    let mut crates = used(&root.join("Cargo.toml"), "weir")?;
    crates.extend(used(&root.join("proxy-ebpf/Cargo.toml"), "weir-ebpf")?);
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut notices =
        "Crates in the binary of weir and in its BPF programs, and then their licences.\n\n"
            .to_owned();
    for Crate { name, license, files } in crates.into_values() {
        ensure!(!license.is_empty() || !files.is_empty(), "{name} names no licence");
        notices +=
            &format!("{name}: {}\n", if license.is_empty() { "see below" } else { &license });
        for text in files {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    for (text, names) in texts {
        let names: Vec<_> = names.into_iter().collect();
        let line = "-".repeat(80);
        notices += &format!("\n{line}\n{}\n{line}\n\n{}\n", names.join(", "), text.trim_end());
    }
    Ok(notices)
}

struct Crate {
    /// With its version.
    name: String,
    /// An SPDX expression.
    license: String,
    /// Texts of licences and notices.
    files: Vec<String>,
}

/// What a package links, without packages of this repository.
fn used(manifest: &Path, package: &str) -> Result<BTreeMap<String, Crate>> {
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(options())
        .exec()
        .with_context(|| {
        format!("cargo cannot read {}; fetch its crates first: cargo fetch", manifest.display())
    })?;
    let mut all = BTreeMap::new();
    for id in linked(&metadata, package)? {
        let package = &metadata[&id];
        if package.source.is_some() {
            let found = Crate::of(package)?;
            all.insert(found.name.clone(), found);
        }
    }
    Ok(all)
}

/// A package and what it depends on, but for what only builds and tests need.
fn linked(metadata: &Metadata, name: &str) -> Result<BTreeSet<PackageId>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolves nothing")?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == name);
    let mut left = vec![package.with_context(|| format!("no package {name}"))?.id.clone()];
    let mut found = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !found.insert(id.clone()) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == id);
        for dependency in node.map(|node| &node.deps[..]).unwrap_or_default() {
            if dependency.dep_kinds.iter().any(|it| it.kind == DependencyKind::Normal) {
                left.push(dependency.pkg.clone());
            }
        }
    }
    Ok(found)
}

// === impl Crate ===

impl Crate {
    fn of(package: &Package) -> Result<Self> {
        let folder = package.manifest_path.parent().context("a manifest without a folder")?;
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().to_uppercase();
            if NAMES.iter().any(|start| name.starts_with(start)) && entry.file_type()?.is_file() {
                files.push(fs::read_to_string(entry.path())?.replace("\r\n", "\n"));
            }
        }
        files.sort();
        let name = format!("{} {}", package.name, package.version);
        Ok(Self { name, license: package.license.clone().unwrap_or_default(), files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weir_links_is_listed_with_its_licences_and_what_only_tests_need_is_not() {
        let crates = used(&crate::root().join("Cargo.toml"), "weir").unwrap();
        let has = |name: &str| crates.keys().any(|it| it.starts_with(&format!("{name} ")));
        for name in ["tokio", "aya", "clap", "granit-parser"] {
            assert!(has(name), "{name} is missing");
        }
        for name in ["proptest", "insta", "weir-http", "plotters"] {
            assert!(!has(name), "{name} is not in the binary");
        }
        for it in crates.values() {
            assert!(!it.license.is_empty() || !it.files.is_empty(), "{} names no licence", it.name);
        }
        let tokio = crates.values().find(|it| it.name.starts_with("tokio ")).unwrap();
        assert_eq!(tokio.license, "MIT");
        assert!(tokio.files.iter().any(|text| text.contains("Permission is hereby granted")));
    }
}

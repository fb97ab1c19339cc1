//! `weir --version`: what this binary was built from. `-V` has the number alone.

use std::sync::LazyLock;

/// Digests of the BPF object and of its sources, beside the object that is in this binary.
const RECORD: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-ebpf/prebuilt/weir.bpf.txt"));

/// The number, and a line each for the commit, the features and the BPF object.
pub(super) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        // Set by `cargo xtask image` and `cargo xtask package`: a build script would compile weir again
        // after each commit.
        let commit = option_env!("WEIR_COMMIT").filter(|it| !it.is_empty()).unwrap_or("unknown");
        format!(
            "{}\ncommit: {commit}\nfeatures: {}\nBPF object: sha256:{}",
            env!("CARGO_PKG_VERSION"),
            features().join(" "),
            object_digest(),
        )
    });
    &LONG
}

/// The features that this binary was compiled with.
fn features() -> Vec<&'static str> {
    let all = [
        ("dns", cfg!(feature = "dns")),
        ("node", cfg!(feature = "node")),
        ("otlp", cfg!(feature = "otlp")),
    ];
    all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// SHA-256 of the BPF object, in hexadecimal digits.
fn object_digest() -> &'static str {
    let mut lines = RECORD.lines();
    lines.find_map(|line| line.strip_prefix("object ")).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_version_names_what_the_binary_was_built_from() {
        let lines: Vec<_> = long().lines().collect();
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        assert!(lines[1].starts_with("commit: "));
        let features = lines[2].strip_prefix("features:").unwrap();
        let manifest: toml::Table =
            toml::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")))
                .unwrap();
        // One that is not in the list would be missing in every binary.
        let mut known: Vec<_> = manifest["features"].as_table().unwrap().keys().collect();
        known.retain(|name| *name != "default");
        assert_eq!(known, ["dns", "node", "otlp"], "add the feature to `features`");
        assert!(features.split_whitespace().all(|it| known.iter().any(|name| *name == it)));
        let digest = lines[3].strip_prefix("BPF object: sha256:").unwrap();
        assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
        let command = super::super::command();
        assert_eq!(command.get_version(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(command.get_long_version(), Some(long()));
    }
}

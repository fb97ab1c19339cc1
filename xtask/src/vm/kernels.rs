//! Debian's kernels: which series the matrix has, and which packages make up the newest kernel of a
//! series. Knows nothing of where packages come from.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};

/// What `--all` boots: one below what weir supports, the oldest that Debian has above it, one
/// between, and the newest. (No suite of Debian has a kernel between 5.15 and 6.1.)
pub(super) const MATRIX: [Wanted; 4] =
    [Wanted::Series(5, 10), Wanted::Series(6, 1), Wanted::Series(6, 12), Wanted::Newest];

/// What is booted without a choice.
pub(super) const DEFAULT: Wanted = Wanted::Series(6, 1);

/// The oldest kernel that weir runs on.
const FLOOR: (u32, u32) = (5, 15);

/// The oldest kernel that the tap works on.
const TAP: (u32, u32) = (6, 12);

/// The flavour with the fewest drivers: virtual machines only.
const FLAVOUR: &str = "-cloud-amd64";

/// Packages that can belong to one kernel. Up to 6.18 the image has everything; later it depends on
/// the others.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// A kernel to be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The newest of a series such as 6.1.
    Series(u32, u32),
    /// The newest that the suites have.
    Newest,
}

/// A kernel that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// As `uname -r` says it.
    pub(super) name: String,
    /// The packages that it is made of.
    pub(super) packages: Vec<String>,
}

/// Whether weir runs on a kernel with this release; `None` where it has no version.
pub(super) fn supported(release: &str) -> Option<bool> {
    let version = numbers(release);
    Some((*version.first()?, *version.get(1)?) >= FLOOR)
}

/// Whether the tap can work on a kernel; `None` for what is no release.
pub(super) fn taps(release: &str) -> Option<bool> {
    let version = numbers(release);
    Some((*version.first()?, *version.get(1)?) >= TAP)
}

/// The newest kernel of those wanted, of all package names.
pub(super) fn newest<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    wanted: Wanted,
) -> Option<Release> {
    let fits = |release: &&str| {
        let numbers = numbers(release);
        release.ends_with(FLAVOUR)
            && match wanted {
                Wanted::Newest => numbers.len() > 1,
                Wanted::Series(major, minor) => numbers.starts_with(&[major, minor]),
            }
    };
    // `linux-image-6.1-cloud-amd64` is no kernel but a name for the newest one.
    let is_one = |release: &&str| numbers(release).len() > 2;
    let releases = names.clone().filter_map(|name| {
        let release = PARTS[..2].iter().find_map(|part| name.strip_prefix(part))?;
        Some(release).filter(fits).filter(is_one)
    });
    let release = releases.max_by_key(|release| numbers(release))?;
    let mut packages: Vec<String> = PARTS.iter().map(|part| format!("{part}{release}")).collect();
    packages.retain(|package| names.clone().any(|name| name == package));
    Some(Release { name: release.to_owned(), packages })
}

/// All numbers in a version, the architecture's left out: `6.1.0-56-cloud-amd64` is 6, 1, 0, 56.
fn numbers(release: &str) -> Vec<u32> {
    let version = release.strip_suffix(FLAVOUR).unwrap_or(release);
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

// === impl Wanted ===

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(major, minor) => write!(f, "{major}.{minor}"),
            Self::Newest => f.write_str("newest"),
        }
    }
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            Some(Self::Series(major.parse().ok()?, minor.parse().ok()?))
        });
        parsed
            .with_context(|| format!("{text:?} is no kernel series; write 6.1, 6.12, …, or newest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 14] = [
        "linux-image-6.1-cloud-amd64",
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-0.deb11.52-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64-dbg",
        "linux-image-6.1.0-56-cloud-amd64-unsigned",
        "linux-image-6.1.0-57-amd64",
        "linux-image-6.12.95+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
        "linux-base-7.3.4+deb13-cloud-amd64",
        "linux-base",
    ];

    fn release(wanted: &str) -> Option<Release> {
        newest(NAMES.into_iter(), wanted.parse().unwrap())
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(release("6.1").unwrap().name, "6.1.0-56-cloud-amd64");
        assert_eq!(release("6.12").unwrap().name, "6.12.117+deb12-cloud-amd64");
        assert_eq!(release("newest").unwrap().name, "7.3.4+deb13-cloud-amd64");
        assert_eq!(release("5.15"), None);
        assert_eq!(release("6.10"), None);
    }

    #[test]
    fn a_kernel_may_be_in_several_packages() {
        assert_eq!(release("6.1").unwrap().packages, ["linux-image-6.1.0-56-cloud-amd64"]);
        let parts = PARTS.map(|part| format!("{part}7.3.4+deb13-cloud-amd64"));
        assert_eq!(release("7.3").unwrap().packages, parts);
    }

    #[test]
    fn the_floor_is_5_15() {
        assert_eq!(supported("5.10.0-46-cloud-amd64"), Some(false));
        assert_eq!(supported("5.15.0-1-cloud-amd64"), Some(true));
        assert_eq!(supported("6.1.0-56-cloud-amd64"), Some(true));
        assert_eq!(supported("linux"), None);
    }

    #[test]
    fn a_series_has_two_numbers() {
        assert_eq!("6.1".parse::<Wanted>().unwrap(), DEFAULT);
        for text in ["6", "6.1.3", "latest", "", "6.x"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}

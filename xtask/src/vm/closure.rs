//! Which installed packages a set of packages needs, from what dpkg knows.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, ensure};

/// What dpkg-query is asked for each package.
pub(super) const FORMAT: &str =
    "${binary:Package}\\t${Version}\\t${Pre-Depends}, ${Depends}\\t${Provides}\\n";

/// The installed packages.
pub(super) struct Installed<'a> {
    /// By name without architecture: full name, version, dependencies.
    packages: HashMap<&'a str, (&'a str, &'a str, &'a str)>,
    /// What stands for a name that no package has.
    providers: HashMap<&'a str, Vec<&'a str>>,
}

// === impl Installed ===

impl<'a> Installed<'a> {
    /// From lines in [`FORMAT`].
    pub(super) fn parse(lines: &'a str) -> Self {
        let (mut packages, mut providers) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for line in lines.lines() {
            let mut fields = line.split('\t');
            let mut next = || fields.next().unwrap_or_default();
            let (full, version, depends, provides) = (next(), next(), next(), next());
            let name = bare(full);
            packages.insert(name, (full, version, depends));
            for provided in provides.split(',').map(bare).filter(|name| !name.is_empty()) {
                providers.entry(provided).or_default().push(name);
            }
        }
        Self { packages, providers }
    }

    /// The packages with everything that they depend on, as dpkg names them, each with its version.
    ///
    /// # Errors
    ///
    /// Fails when one of the first is not installed. What those depend on is as complete as dpkg had
    /// it.
    pub(super) fn closure(&self, roots: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = roots.to_vec();
        for root in roots {
            ensure!(self.packages.contains_key(root), "the Debian package {root} is not installed");
        }
        while let Some(name) = next.pop() {
            let Some((_, _, depends)) = self.packages.get(name) else {
                next.extend(self.providers.get(name).into_iter().flatten());
                continue;
            };
            if seen.insert(name) {
                next.extend(depends.split([',', '|']).map(bare).filter(|name| !name.is_empty()));
            }
        }
        let found = seen.iter().filter_map(|name| self.packages.get(name));
        Ok(found.map(|(full, version, _)| (*full, *version)).collect())
    }
}

// === helpers ===

/// `libc6:amd64 (>= 2.36)` is `libc6`.
fn bare(dependency: &str) -> &str {
    let name = dependency.trim().split([' ', '(', ':']).next();
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "bash\t5.2\tbase-files (>= 2), libc6 (>= 2.36), \t\n\
        base-files\t12\t, awk\t\n\
        mawk\t1.3\tlibc6 (>= 2.3), \tawk\n\
        libc6:amd64\t2.36\t, libgcc-s1 | other\tlibc6-x, libc\n\
        libgcc-s1:amd64\t12\t, libc6\t\n\
        unrelated\t1\t, bash\t\n";

    #[test]
    fn dependencies_are_followed_through_alternatives_and_what_is_provided() {
        let installed = Installed::parse(PACKAGES);
        let names: Vec<_> =
            installed.closure(&["bash"]).unwrap().into_iter().map(|p| p.0).collect();
        assert_eq!(names, ["base-files", "bash", "libc6:amd64", "libgcc-s1:amd64", "mawk"]);
    }

    #[test]
    fn what_is_not_installed_is_named() {
        let error = Installed::parse(PACKAGES).closure(&["vsftpd"]).unwrap_err().to_string();
        assert_eq!(error, "the Debian package vsftpd is not installed");
    }
}

//! xtask in the place of rustc, so that the object is the same wherever the repository is.
//!
//! Cargo gives each crate a number that is made from its path, too, where the crate is outside of the
//! workspace, as `proxy-common` is for `proxy-ebpf`. rustc puts it into the names of functions, which
//! are in the object's BTF.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Set where xtask is called as rustc (Cargo's `RUSTC_WRAPPER`).
pub(super) const MARK: &str = "WEIR_XTASK_IS_RUSTC";
/// What is made from sources of the repository.
const CRATES: [&str; 2] = ["weir_common", "weir_ebpf"];

/// Does what rustc would; `None` where that is not asked for.
pub(crate) fn rustc() -> Option<ExitCode> {
    env::var_os(MARK)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let error = Command::new(rustc).args(with_fixed_number(arguments.collect())).exec();
    eprintln!("xtask: cannot run rustc: {error}");
    Some(ExitCode::FAILURE)
}

/// The arguments, with a number for [`CRATES`] that does not depend on a path.
fn with_fixed_number(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let is_one = arguments
        .windows(2)
        .any(|pair| pair[0] == "--crate-name" && CRATES.iter().any(|name| pair[1] == *name));
    for argument in &mut arguments {
        if is_one && argument.as_encoded_bytes().starts_with(b"metadata=") {
            *argument = "metadata=weir".into();
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<OsString> {
        with_fixed_number(text.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn only_crates_of_the_repository_get_the_fixed_number() {
        let arguments = "--crate-name weir_ebpf -C metadata=12ab -C extra-filename=-12ab";
        assert_eq!(of(arguments), of(&arguments.replace("metadata=12ab", "metadata=34cd")));
        let arguments = "--crate-name core -C metadata=12ab";
        assert_eq!(of(arguments).join(" ".as_ref()), arguments);
    }
}

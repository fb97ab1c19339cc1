//! Which file systems are mounted where: never guessed, always read from mountinfo.

use std::{fs, path::PathBuf};

use super::CaptureError;

/// Where the root of a file system of this type is mounted first, from `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5)); `None` where it is not.
///
/// # Errors
/// Where mountinfo cannot be read.
pub(super) fn first(kind: &str) -> Result<Option<PathBuf>, CaptureError> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(|source| CaptureError::Cgroup {
        action: "find the mount of",
        path: path.into(),
        source,
        hint: "; is /proc mounted?",
    })?;
    Ok(find(&text, kind))
}

fn find(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == kind).then_some(())?;
        let mut fields = left.split(' ');
        (fields.nth(3)? == "/").then_some(())?;
        fields.next().map(|path| PathBuf::from(unescape(path)))
    })
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let text = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find(text, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(find(text, "bpf"), None);
        assert_eq!(find("1 2 0:3 /sub /x rw - cgroup2 c rw\n", "cgroup2"), None);
        assert_eq!(find("", "bpf"), None);
    }
}

//! How many descriptors this process may still open.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// Every open descriptor is an entry here; stat(2) needs none itself.
const OPEN: &str = "/proc/self/fd";

/// Descriptors that may still be opened. `u64::MAX` where that is not known (no /proc).
pub(super) fn free() -> u64 {
    limit().saturating_sub(open())
}

/// Where the kernel does not tell how many are open, no more than so many are counted.
const COUNTED: u64 = 4096;

/// What is left for connections, which have `used` already, of the limit: what is open for other
/// purposes and a reserve are not. `None` where finding out would take too long; it is then as it
/// was when there were fewer.
pub(super) fn for_connections(used: u64) -> Option<u64> {
    let open = match fs::metadata(OPEN) {
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        Ok(_) if used > COUNTED => return None,
        _ => open(),
    };
    Some(limit().saturating_sub(open.saturating_sub(used)).saturating_sub(headroom()))
}

/// How many must be free before connections are captured again: a sixteenth of the limit, at least
/// the four of two connections, at most those of 128.
pub(super) fn headroom() -> u64 {
    (limit() / 16).clamp(4, 256)
}

fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

fn open() -> u64 {
    match fs::metadata(OPEN) {
        Err(_) => 0,
        // Linux 6.2 and later tell the number as the directory's size (`proc_fd_getattr` in
        // fs/proc/fd.c).
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        // Before, they have to be counted. The directory takes one; without it there are none.
        Ok(_) => fs::read_dir(OPEN).map_or(u64::MAX, |entries| entries.count() as u64 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connections_have_is_theirs() {
        let others = for_connections(0).unwrap();
        assert!(others <= limit() - headroom());
        // Other tests of this process open and close files at the same time.
        assert!(for_connections(open()).unwrap() + 500 > limit() - headroom());
    }

    #[test]
    fn opening_a_file_is_seen() {
        // Other tests of this process open and close files at the same time.
        let files: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(open() >= 500, "{}", open());
        assert!(free() <= limit() - 500, "{} of {}", free(), limit());
        drop(files);
    }
}

//! Raw `bpf(2)` for what aya 0.14 does not offer: `BPF_MAP_LOOKUP_AND_DELETE_ELEM` on hash maps
//! (kernel/bpf/syscall.c, since 5.14). Nothing else belongs here.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd},
};

const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;

/// `union bpf_attr`, the part for commands on map elements.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes the value of `key` out of a hash map, in one system call.
///
/// # Errors
/// `ENOENT` where the key is not there; `ENOTSUPP`/`EINVAL` before Linux 5.14.
pub(super) fn lookup_and_delete<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<V> {
    let mut value = MaybeUninit::<V>::uninit();
    let attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        _pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: `attr` and what it points to live through the call, and the map's key and value
    // sizes are those of K and V: both come from weir-common, which the object is built from.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_AND_DELETE_ELEM,
            std::ptr::from_ref(&attr),
            size_of::<ElementAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the whole value, and V is plain old data.
    Ok(unsafe { value.assume_init() })
}

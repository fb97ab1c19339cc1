//! Raw `bpf(2)` for what aya 0.14 does not offer: `BPF_MAP_LOOKUP_AND_DELETE_ELEM` on hash maps
//! (since 5.14), and links that can be created for any hook, replaced in place, detached and pinned
//! (`include/uapi/linux/bpf.h`, `kernel/bpf/syscall.c`). `query.rs` and `trial.rs` use the call.

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Where a program is attached: `enum bpf_attach_type` of `include/uapi/linux/bpf.h`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachType {
    /// Packets for the sockets of a cgroup.
    Ingress = 0,
    /// Packets from the sockets of a cgroup.
    Egress = 1,
    /// Events of TCP sockets.
    SockOps = 3,
    /// connect(2) of IPv4 sockets.
    Connect4 = 10,
    /// connect(2) of IPv6 sockets.
    Connect6 = 11,
    /// getsockopt(2).
    Getsockopt = 21,
    /// setsockopt(2).
    Setsockopt = 22,
    /// getpeername(2) of IPv4 sockets.
    Getpeername4 = 29,
    /// getpeername(2) of IPv6 sockets.
    Getpeername6 = 30,
    /// getsockname(2) of IPv4 sockets.
    Getsockname4 = 31,
    /// getsockname(2) of IPv6 sockets.
    Getsockname6 = 32,
    /// The search for a listener in a network namespace.
    SkLookup = 36,
}

/// `union bpf_attr`, the part for commands on map elements.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part for `BPF_OBJ_*`.
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The part for `BPF_LINK_UPDATE`; without `BPF_F_REPLACE` the old program does not matter.
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkAttr {
    link_fd: u32,
}

/// The part for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` up to the union, and the union's first members for links of cgroups
/// (`cgroup_id`) and of network namespaces (`netns_ino`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    target: u64,
    _more: [u64; 8],
}

/// The part for `BPF_*_GET_FD_BY_ID`.
#[repr(C)]
struct IdAttr {
    id: u32,
    _next: u32,
    _flags: u32,
}

/// Flag of an update: only an entry that is there.
const BPF_EXIST: u64 = 2;
/// `BPF_MAP_TYPE_HASH`.
const MAP_TYPE_HASH: u32 = 1;
/// `BPF_LINK_TYPE_NETNS`.
const LINK_TYPE_NETNS: u32 = 5;

/// What a link is attached to: the id of a cgroup, or the inode of a network namespace; 0 for one
/// that is gone. And the id of its program.
///
/// # Errors
/// `EINVAL` for an object that is none.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<(u64, u32)> {
    // A link just created and one that was opened by its pin have two names (kernel/bpf/syscall.c,
    // `bpf_link_prime` and `bpf_link_new_fd`).
    is_one_of(link, ["anon_inode:bpf_link", "anon_inode:bpf-link"])?;
    let mut info = LinkInfo::default();
    // SAFETY: integers only.
    unsafe { object_info(link, &mut info) }?;
    // The namespace's inode has 32 bits.
    let mask = if info.kind == LINK_TYPE_NETNS { u64::from(u32::MAX) } else { u64::MAX };
    Ok((info.target & mask, info.prog_id))
}

/// An event as a ring buffer has it; `None` for one that is shorter.
pub(super) fn event<T: aya::Pod>(item: &[u8]) -> Option<T> {
    // SAFETY: long enough, and every bit pattern is valid (`aya::Pod`).
    (item.len() >= size_of::<T>()).then(|| unsafe { item.as_ptr().cast::<T>().read_unaligned() })
}

/// Attaches a program to a cgroup or network namespace, beside those that are there already.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: number(program),
        target_fd: number(target),
        attach_type: attach_type as u32,
        flags: 0,
    };
    // SAFETY: no pointers in there.
    descriptor(unsafe { call(BPF_LINK_CREATE, &mut attr) }?)
}

/// Puts another program in a link's place: no connection sees both or neither.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: number(link),
        new_prog_fd: number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: no pointers in there.
    unsafe { call(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link's program off its hook, even if other processes hold the link.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers in there.
    unsafe { call(BPF_LINK_DETACH, &mut LinkAttr { link_fd: number(link) }) }.map(drop)
}

/// Gives a BPF object a name in a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr =
        ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: number(object), file_flags: 0 };
    // SAFETY: the path lives through the call.
    unsafe { call(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens the BPF object with this name in a bpffs.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path lives through the call.
    descriptor(unsafe { call(BPF_OBJ_GET, &mut attr) }?)
}

/// A hash map that values are taken out of, read and replaced in, in one system call each.
pub(super) struct Taken<K, V> {
    map: OwnedFd,
    _entry: PhantomData<fn(K) -> V>,
}

// === impl AttachType ===

impl AttachType {
    /// Every hook of a cgroup that weir attaches programs to.
    pub const OF_CGROUPS: [Self; 9] = [
        Self::Connect4,
        Self::Connect6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Getsockname4,
        Self::Getsockname6,
        Self::SockOps,
        Self::Getsockopt,
        Self::Setsockopt,
    ];

    /// As users know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::SockOps => "sockops",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Getsockopt => "getsockopt",
            Self::Setsockopt => "setsockopt",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Getsockname4 => "getsockname4",
            Self::Getsockname6 => "getsockname6",
            Self::SkLookup => "sk_lookup",
        }
    }
}

// === impl Taken ===

impl<K: aya::Pod, V: aya::Pod> Taken<K, V> {
    /// # Errors
    /// `EINVAL` where the map is no hash map of these keys and values.
    pub(super) fn new(map: OwnedFd) -> io::Result<Self> {
        let info = map_info(map.as_fd())?;
        let sizes = (info.key_size as usize, info.value_size as usize);
        if info.kind == MAP_TYPE_HASH && sizes == (size_of::<K>(), size_of::<V>()) {
            Ok(Self { map, _entry: PhantomData })
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// Takes the value of `key` out.
    ///
    /// # Errors
    /// `ENOENT` where the key is not there; `ENOTSUPP`/`EINVAL` before Linux 5.14.
    pub(super) fn take(&self, key: &K) -> io::Result<V> {
        self.read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// `ENOENT` where the key is not there.
    pub(super) fn get(&self, key: &K) -> io::Result<V> {
        self.read(BPF_MAP_LOOKUP_ELEM, key)
    }

    /// Puts another value in the place of that of `key`.
    ///
    /// # Errors
    /// `ENOENT` where the key is not there.
    pub(super) fn replace(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.element(key, std::ptr::from_ref(value) as u64, BPF_EXIST);
        // SAFETY: the map's keys and values have the sizes of K and V: `new` has compared them.
        unsafe { call(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    fn read(&self, command: libc::c_long, key: &K) -> io::Result<V> {
        let mut value = MaybeUninit::<V>::uninit();
        let mut attr = self.element(key, value.as_mut_ptr() as u64, 0);
        // SAFETY: as above.
        unsafe { call(command, &mut attr) }?;
        // SAFETY: the kernel has written the whole value, and V is plain old data.
        Ok(unsafe { value.assume_init() })
    }

    fn element(&self, key: &K, value: u64, flags: u64) -> ElementAttr {
        ElementAttr {
            map_fd: number(self.map.as_fd()),
            _pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value,
            flags,
        }
    }
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    name: [u8; 16],
}

impl MapInfo {
    /// Its name, of which the kernel keeps 15 bytes.
    pub(super) fn name(&self) -> String {
        let bytes = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// What the kernel knows about a map.
///
/// # Errors
/// `EINVAL` for an object that is none.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    is_one_of(map, ["anon_inode:bpf-map"])?;
    let mut info = MapInfo::default();
    // SAFETY: integers only.
    unsafe { object_info(map, &mut info) }?;
    Ok(info)
}

/// The map with this id.
///
/// # Errors
/// `ENOENT` where there is none; `EPERM` without CAP_SYS_ADMIN.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(BPF_MAP_GET_FD_BY_ID, id)
}

/// The program with this id.
///
/// # Errors
/// As [`map_by_id`].
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(BPF_PROG_GET_FD_BY_ID, id)
}

/// Fills `info` with the beginning of what the kernel knows about a BPF object.
///
/// # Safety
/// `T` is plain old data, and its pointers and counts are good for what the kernel writes there.
///
/// # Errors
/// What bpf(2) says.
pub(super) unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        bpf_fd: number(object),
        info_len: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` has room for `info_len` bytes; the rest is the caller's promise.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// The system call. A non-negative answer is 0 or a descriptor.
///
/// # Safety
/// What `attr` points to is valid for the command, through the call.
///
/// # Errors
/// What bpf(2) says.
pub(crate) unsafe fn call<A>(command: libc::c_long, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: `attr` is as long as said; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

/// The descriptor that a command has answered with.
///
/// # Errors
/// `EBADF` where it is none.
pub(super) fn descriptor(answer: RawFd) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the kernel has just made this descriptor, with close-on-exec, for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

// === helpers ===

/// The kernel tells of maps, programs and links in structures of their own, whichever is expected:
/// so the descriptor is asked first.
fn is_one_of<const N: usize>(object: BorrowedFd<'_>, kinds: [&str; N]) -> io::Result<()> {
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    if kinds.iter().any(|known| kind == Path::new(known)) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

fn by_id(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, _next: 0, _flags: 0 };
    // SAFETY: no pointers in there.
    descriptor(unsafe { call(command, &mut attr) }?)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

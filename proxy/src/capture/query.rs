//! Which BPF programs are attached where: raw `bpf(2)` queries, because aya 0.14 asks neither a
//! cgroup nor a network namespace. Reads only.
//!
//! `BPF_PROG_QUERY` is there for cgroups since Linux 4.15 and for network namespaces since 5.8
//! (`kernel/bpf/cgroup.c`, `__cgroup_bpf_query`; `kernel/bpf/net_namespace.c`,
//! `netns_bpf_prog_query`) and needs CAP_NET_ADMIN. Names come from `BPF_OBJ_GET_INFO_BY_FD`, and
//! the descriptor for it from `BPF_PROG_GET_FD_BY_ID`, which needs CAP_SYS_ADMIN.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use super::bpf::{self, AttachType};

/// A program that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's id, which no other program has until the machine restarts.
    pub id: u32,
    /// The name, of which the kernel keeps 15 bytes; may be empty.
    pub name: String,
}

/// How a cgroup's programs on one hook were attached, and with that, which others may be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Neither flag: alone here and in every cgroup below.
    Exclusive,
    /// `BPF_F_ALLOW_OVERRIDE`: alone here; a program of a cgroup below takes its place there.
    Override,
    /// `BPF_F_ALLOW_MULTI`, as every link: beside others, here, above and below.
    Multi,
}

/// What is attached to one cgroup itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// How; says nothing where there is no program.
    pub mode: Mode,
    /// In the order in which they run.
    pub programs: Vec<Attached>,
}

/// What the kernel tells of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The kernel's id.
    pub id: u32,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// The name, of which the kernel keeps 15 bytes; may be empty.
    pub name: String,
    /// When it was loaded, in nanoseconds of the boot-time clock.
    pub loaded_ns: u64,
    /// The user that loaded it.
    pub uid: u32,
    /// The maps that it uses.
    pub maps: Vec<u32>,
}

const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_F_QUERY_EFFECTIVE: u32 = 1;
const BPF_F_ALLOW_OVERRIDE: u32 = 1;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// `union bpf_attr`, the part for `BPF_PROG_QUERY`, as of 4.15; later kernels take the rest as 0.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
}

/// The beginning of `struct bpf_prog_info`, as of 4.15; the kernel fills as much as is asked for.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

const _: () = assert!(size_of::<QueryAttr>() == 32 && size_of::<ProgramInfo>() == 80);

/// The programs of one hook of a cgroup, in the order in which they run: those attached to the
/// cgroup itself, or (`effective`) also those of its ancestors, even of ancestors that a cgroup
/// namespace hides.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN and CAP_SYS_ADMIN, `EBADF` where `cgroup` is none, `EINVAL` where
/// the kernel does not know the hook.
pub fn cgroup_programs(
    cgroup: &Path,
    hook: AttachType,
    effective: bool,
) -> io::Result<Vec<Attached>> {
    if !effective {
        return cgroup_here(cgroup, hook).map(|here| here.programs);
    }
    let dir = File::open(cgroup)?;
    let (_, ids) = query(dir.as_fd(), hook, BPF_F_QUERY_EFFECTIVE)?;
    named(&ids)
}

/// The programs that are attached to the cgroup itself, and how.
///
/// # Errors
/// As [`cgroup_programs`].
pub fn cgroup_here(cgroup: &Path, hook: AttachType) -> io::Result<Here> {
    let dir = File::open(cgroup)?;
    let (flags, ids) = query(dir.as_fd(), hook, 0)?;
    Ok(Here { mode: Mode::of(flags), programs: named(&ids)? })
}

/// The `sk_lookup` programs of a network namespace, in the order in which they run.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN and CAP_SYS_ADMIN, `EINVAL` before Linux 5.9 or where `netns` is no
/// network namespace.
pub fn netns_programs(netns: BorrowedFd<'_>) -> io::Result<Vec<Attached>> {
    let (_, ids) = query(netns, AttachType::SkLookup, 0)?;
    named(&ids)
}

/// What the kernel tells of a program.
///
/// # Errors
/// `ENOENT` where there is none (any more), `EPERM` without CAP_SYS_ADMIN.
pub fn program(id: u32) -> io::Result<Program> {
    let fd = bpf::program_by_id(id)?;
    let mut info = ProgramInfo::default();
    // SAFETY: a plain structure; `map_ids` is null with a count of 0, so that only the count comes.
    unsafe { bpf::object_info(fd.as_fd(), &mut info) }?;
    let mut maps = vec![0_u32; info.nr_map_ids as usize];
    let mut again = ProgramInfo {
        nr_map_ids: info.nr_map_ids,
        map_ids: maps.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: the kernel writes at most `nr_map_ids` words to `map_ids`, which `maps` has room for.
    unsafe { bpf::object_info(fd.as_fd(), &mut again) }?;
    maps.truncate(again.nr_map_ids as usize);
    Ok(Program {
        id: info.id,
        kind: info.kind,
        name: text(&info.name),
        loaded_ns: info.load_time,
        uid: info.created_by_uid,
        maps,
    })
}

/// The type of a map, of `enum bpf_map_type`.
///
/// # Errors
/// As [`program`].
pub fn map_kind(id: u32) -> io::Result<u32> {
    Ok(bpf::map_info(bpf::map_by_id(id)?.as_fd())?.kind)
}

// === impl Mode ===

impl Mode {
    fn of(flags: u32) -> Self {
        if flags & BPF_F_ALLOW_MULTI != 0 {
            Self::Multi
        } else if flags & BPF_F_ALLOW_OVERRIDE != 0 {
            Self::Override
        } else {
            Self::Exclusive
        }
    }
}

// === helpers ===

/// Attach flags and program ids.
fn query(target: BorrowedFd<'_>, hook: AttachType, flags: u32) -> io::Result<(u32, Vec<u32>)> {
    // No more than 64 can be attached to one cgroup (`BPF_CGROUP_MAX_PROGS`); effective ones can be
    // more, and then the kernel says how many.
    let mut ids = vec![0_u32; 64];
    loop {
        let mut attr = QueryAttr {
            target_fd: target.as_raw_fd().cast_unsigned(),
            attach_type: hook as u32,
            query_flags: flags,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: u32::try_from(ids.len()).unwrap_or(u32::MAX),
            ..QueryAttr::default()
        };
        // SAFETY: the kernel writes at most `prog_cnt` words to `prog_ids`.
        match unsafe { bpf::call(BPF_PROG_QUERY, &mut attr) } {
            Ok(_) => {
                ids.truncate(attr.prog_cnt as usize);
                return Ok((attr.attach_flags, ids));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                ids.resize((attr.prog_cnt as usize).max(ids.len()) + 64, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Adds the names. A program that was detached meanwhile is left out.
fn named(ids: &[u32]) -> io::Result<Vec<Attached>> {
    let mut programs = Vec::with_capacity(ids.len());
    for &id in ids {
        match program(id) {
            Ok(Program { name, .. }) => programs.push(Attached { id, name }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}

fn text(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_which_others_may_be_attached() {
        assert_eq!(Mode::of(0), Mode::Exclusive);
        assert_eq!(Mode::of(1), Mode::Override);
        assert_eq!(Mode::of(2), Mode::Multi);
    }

    #[test]
    fn names_end_where_the_kernel_ends_them() {
        assert_eq!(text(b"weir_connect4\0\0\0"), "weir_connect4");
        assert_eq!(text(b"\0"), "");
    }

    #[test]
    fn what_is_no_cgroup_is_an_error() {
        let error = cgroup_programs(Path::new("/proc"), AttachType::Connect4, false).unwrap_err();
        assert_ne!(error.raw_os_error(), None, "{error}");
    }
}

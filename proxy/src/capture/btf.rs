//! Where the members of the kernel's structures are, by the kernel's own types (BTF,
//! Documentation/bpf/btf.rst). Only that: aya reads everything, which takes 20 MB.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    ops::Deref,
    os::fd::AsRawFd,
    ptr::{self, NonNull},
};

/// The types of the running kernel, without those of modules.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

/// Kinds of types (`enum` in include/uapi/linux/btf.h).
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;

/// A type as the BTF lists it.
struct Type {
    /// They count from one.
    number: u32,
    /// Where it begins.
    at: usize,
    kind: u32,
    /// Where its name is among the strings.
    name: u32,
}

/// A member's place in a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bits from the structure's beginning.
    pub(super) bit: u32,
    /// How many bits it has where it is a bit field; 0 for others.
    pub(super) bits: u32,
}

/// The structures of a BTF by name.
pub(super) struct Structures<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where in `types` each structure and union begins, by its number.
    starts: HashMap<u32, usize>,
    named: HashMap<&'a [u8], u32>,
}

/// The running kernel's BTF: where it is in memory, since Linux 6.16, or a copy. Each read(2) gives a page of it,
/// and it has some two thousand.
pub(super) enum Kernel {
    Mapped(NonNull<u8>, usize),
    Read(Vec<u8>),
}

/// The running kernel's BTF.
///
/// # Errors
/// Where the kernel has none.
pub(super) fn kernel() -> io::Result<Kernel> {
    let file = File::open(VMLINUX)?;
    match mapped(&file) {
        Some(mapped) => Ok(mapped),
        None => fs::read(VMLINUX).map(Kernel::Read),
    }
}

/// The number of a function of this name; `None` where there is none, or the BTF is not understood.
pub(super) fn function(btf: &[u8], wanted: &str) -> Option<u32> {
    let (types, strings) = sections(btf)?;
    let mut found = None;
    walk(types, |Type { number, kind, name, .. }| {
        let is_it = kind == FUNCTION && text(strings, name)? == wanted.as_bytes();
        found = is_it.then_some(number);
        Some(!is_it)
    })?;
    found
}

// === impl Kernel ===

impl Deref for Kernel {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: the mapping is as long, is only read, and nothing changes it.
            Self::Mapped(at, length) => unsafe { std::slice::from_raw_parts(at.as_ptr(), *length) },
            Self::Read(bytes) => bytes,
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Self::Mapped(at, length) = self {
            // SAFETY: it was mapped with this length, and no slice of it outlives it.
            unsafe { libc::munmap(at.as_ptr().cast(), *length) };
        }
    }
}

// === impl Structures ===

impl<'a> Structures<'a> {
    /// Finds the structures of these names; `None` where the BTF is not understood.
    pub(super) fn of(btf: &'a [u8], wanted: &[&str]) -> Option<Self> {
        let (types, strings) = sections(btf)?;
        let mut all = Self { types, strings, starts: HashMap::new(), named: HashMap::new() };
        walk(types, |Type { number, at, kind, name }| {
            if kind == STRUCT || kind == UNION {
                all.starts.insert(number, at);
                let name = text(strings, name)?;
                if wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                    all.named.insert(name, number);
                }
            }
            Some(true)
        })?;
        Some(all)
    }

    /// Where a member is, also one of an unnamed structure or union inside.
    pub(super) fn place(&self, structure: &str, member: &str) -> Option<Place> {
        self.within(*self.named.get(structure.as_bytes())?, member.as_bytes(), 0)
    }

    fn within(&self, number: u32, member: &[u8], base: u32) -> Option<Place> {
        let at = *self.starts.get(&number)?;
        let info = word(self.types, at + 4)?;
        for index in 0..info & 0xffff {
            let at = at + 12 + 12 * index as usize;
            let name = self.string(word(self.types, at)?)?;
            let (of, offset) = (word(self.types, at + 4)?, word(self.types, at + 8)?);
            // With the flag, the size of a bit field is in the upper eight bits.
            let (bit, bits) =
                if info >> 31 == 1 { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            if name == member {
                return Some(Place { bit: base + bit, bits });
            }
            if name.is_empty()
                && let Some(found) = self.within(of, member, base + bit)
            {
                return Some(found);
            }
        }
        None
    }

    fn string(&self, at: u32) -> Option<&'a [u8]> {
        text(self.strings, at)
    }
}

// === helpers ===

/// `None` where the kernel does not have the file mapped.
fn mapped(file: &File) -> Option<Kernel> {
    let length = usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length > 0)?;
    let (protection, kind) = (libc::PROT_READ, libc::MAP_PRIVATE);
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let at = unsafe { libc::mmap(ptr::null_mut(), length, protection, kind, file.as_raw_fd(), 0) };
    (at != libc::MAP_FAILED).then_some(Kernel::Mapped(NonNull::new(at.cast())?, length))
}

/// The types, and the names that they refer to.
fn sections(btf: &[u8]) -> Option<(&[u8], &[u8])> {
    if half(btf, 0)? != MAGIC {
        return None;
    }
    let header = word(btf, 4)? as usize;
    let section = |at: usize| {
        let (offset, length) = (word(btf, at)? as usize, word(btf, at + 4)? as usize);
        btf.get(header + offset..header + offset + length)
    };
    Some((section(8)?, section(16)?))
}

/// Shows all types in their order, until `look` says false. `None` where one is not understood.
fn walk(types: &[u8], mut look: impl FnMut(Type) -> Option<bool>) -> Option<()> {
    let (mut at, mut number) = (0, 1);
    while at < types.len() {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let kind = info >> 24 & 0x1f;
        if !look(Type { number, at, kind, name })? {
            break;
        }
        at += 12 + more(kind, info & 0xffff)?;
        number += 1;
    }
    Some(())
}

fn text(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(at as usize..)?.split(|byte| *byte == 0).next()
}

/// Bytes behind the twelve that every type has. `None` for a kind that did not exist in Linux 6.18:
/// what comes behind it cannot be found.
fn more(kind: u32, members: u32) -> Option<usize> {
    let members = members as usize;
    Some(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Enumerations of 32 bits, parameters.
        6 | 13 => 8 * members,
        // Structures, unions, sections, enumerations of 64 bits.
        STRUCT | UNION | 15 | 19 => 12 * members,
        _ => return None,
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs a kernel with BTF, as all that weir supports have.
    #[test]
    fn members_are_found_in_structures_and_in_what_has_no_name() {
        let btf = kernel().unwrap();
        let structures = Structures::of(&btf, &["sock_common", "sock", "list_head"]).unwrap();
        let place = |structure, member| structures.place(structure, member);
        assert_eq!(place("list_head", "prev"), Some(Place { bit: 64, bits: 0 }));
        // Inside unnamed unions and structures; see `is_v6_only` in proxy-ebpf/src/socket.rs.
        assert_eq!(place("sock_common", "skc_daddr"), Some(Place { bit: 0, bits: 0 }));
        assert_eq!(place("sock_common", "skc_rcv_saddr"), Some(Place { bit: 32, bits: 0 }));
        assert_eq!(place("sock_common", "skc_ipv6only"), Some(Place { bit: 157, bits: 1 }));
        assert_eq!(place("sock", "__sk_common"), Some(Place { bit: 0, bits: 0 }));
        assert_eq!((place("sock", "no_such"), place("no_such", "x")), (None, None));
    }

    #[test]
    fn what_is_no_btf_is_none() {
        let btf = kernel().unwrap();
        for broken in [&[][..], &[0; 64], &btf[..40], &btf[..btf.len() / 2]] {
            assert!(Structures::of(broken, &["sock"]).is_none());
        }
    }
}

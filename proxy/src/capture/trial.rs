//! Programs of a few instructions that are loaded to find out what the kernel allows. Raw `bpf(2)`: aya
//! 0.14 loads no bare instructions.

use std::{
    io,
    mem::size_of,
    os::fd::{FromRawFd, OwnedFd},
};

use super::bpf;

const BPF_PROG_LOAD: libc::c_long = 5;

/// `enum bpf_prog_type` and `enum bpf_attach_type` (`include/uapi/linux/bpf.h`).
pub(crate) const SOCK_OPS: (u32, u32) = (13, 3);
pub(crate) const SK_LOOKUP: (u32, u32) = (30, 36);

/// The helper `bpf_get_netns_cookie`.
const GET_NETNS_COOKIE: i32 = 122;
/// The helper `bpf_skc_to_tcp_sock`.
const SKC_TO_TCP_SOCK: i32 = 137;
/// `offsetof(struct bpf_sock_ops, sk)`.
const SOCK_OPS_SK: i16 = 184;
/// `offsetof(struct bpf_sk_lookup, ingress_ifindex)`.
const INGRESS_IFINDEX: i16 = 64;

/// The answer to one question about the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Loaded.
    Yes,
    /// The kernel does not know it.
    No,
    /// The question could not be asked; why.
    Unknown(String),
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `union bpf_attr`, the part for `BPF_PROG_LOAD`, up to what 4.17 knows.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

const _: () = assert!(size_of::<LoadAttr>() == 72 && size_of::<Instruction>() == 8);

/// Whether sockops programs are told which network namespace a socket is of (5.15).
#[must_use]
pub(crate) fn netns_cookie_in_sockops() -> Support {
    let cookie = Instruction { code: 0x85, registers: 0, offset: 0, immediate: GET_NETNS_COOKIE };
    tried(load(SOCK_OPS, "weir_probe", &[cookie, Instruction::answer(1), Instruction::EXIT]))
}

/// Whether `sk_lookup` programs are told the interface that a connection comes in by (5.17, and some older
/// kernels that have it backported).
#[must_use]
pub(crate) fn ingress_ifindex() -> Support {
    let read = Instruction::load_word(0, 1, INGRESS_IFINDEX);
    let program = [read, Instruction::answer(1), Instruction::EXIT];
    tried(load(SK_LOOKUP, "weir_probe", &program))
}

/// Loads a program under a name of at most 15 bytes. `kind`: program type and attach type.
///
/// # Errors
/// The verifier's: `EINVAL` or `EACCES` for what this kernel does not know, `EPERM` without
/// CAP_BPF and CAP_NET_ADMIN.
pub(crate) fn load(kind: (u32, u32), name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let mut attr = LoadAttr {
        prog_type: kind.0,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_name,
        expected_attach_type: kind.1,
        ..LoadAttr::default()
    };
    // SAFETY: instructions and license live through the call; there is no log buffer.
    let fd = unsafe { bpf::call(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made it (with O_CLOEXEC), and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// === impl Instruction ===

impl Instruction {
    /// `exit`
    pub(crate) const EXIT: Self = Self { code: 0x95, registers: 0, offset: 0, immediate: 0 };

    /// `r0 = value`
    pub(crate) const fn answer(value: i32) -> Self {
        Self { code: 0xb7, registers: 0, offset: 0, immediate: value }
    }

    /// `to = *(u32 *)(from + offset)`
    pub(crate) const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::load(to, from, offset, 4)
    }

    /// The same for 1, 2, 4 or 8 bytes.
    const fn load(to: u8, from: u8, offset: i16, size: u8) -> Self {
        let code = match size {
            1 => 0x71,
            2 => 0x69,
            4 => 0x61,
            _ => 0x79,
        };
        Self { code, registers: from << 4 | to, offset, immediate: 0 }
    }

    /// `if register == 0 goto +skipped`
    const fn skip_if_null(register: u8, skipped: i16) -> Self {
        Self { code: 0x15, registers: register, offset: skipped, immediate: 0 }
    }

    /// A sockops program that reads so many bytes of the kernel's own `struct tcp_sock`, or of what
    /// pointers lead to, the first of which is in there.
    pub(crate) fn read_tcp(pointers: &[i16], offset: i16, size: u8) -> Vec<Self> {
        let follow = pointers.iter().map(|pointer| Self::load(0, 0, *pointer, 8));
        let reads: Vec<Self> = follow.chain([Self::load(1, 0, offset, size)]).collect();
        let behind = reads.len() as i16;
        let mut program = vec![
            Self::load(1, 1, SOCK_OPS_SK, 8),
            Self::skip_if_null(1, 2 + behind),
            Self { code: 0x85, registers: 0, offset: 0, immediate: SKC_TO_TCP_SOCK },
            Self::skip_if_null(0, behind),
        ];
        program.extend(reads);
        program.extend([Self::answer(1), Self::EXIT]);
        program
    }
}

// === helpers ===

/// What an attempt to load a program says.
pub(crate) fn tried(result: io::Result<OwnedFd>) -> Support {
    match result {
        Ok(_) => Support::Yes,
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::EACCES) => Support::No,
            _ => Support::Unknown(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as every look at BPF.
    #[test]
    fn what_the_verifier_does_not_know_is_told_apart() {
        let broken = Instruction { code: 0x85, registers: 0, offset: 0, immediate: i32::MAX };
        let program = [broken, Instruction::answer(1), Instruction::EXIT];
        assert_eq!(tried(load(SOCK_OPS, "weir_probe", &program)), Support::No);
        // Every kernel that weir supports has this.
        assert_eq!(netns_cookie_in_sockops(), Support::Yes);
    }
}

//! Abilities of the kernel that no program or map type stands for, each tried by loading a program
//! of a few instructions or by a system call that can have no effect.

use crate::capture::{
    Support, bpf,
    trial::{Instruction, SK_LOOKUP, load, tried},
};

const BPF_LINK_UPDATE: libc::c_long = 29;

/// `enum bpf_prog_type` and `enum bpf_attach_type` (`include/uapi/linux/bpf.h`).
const SETSOCKOPT: (u32, u32) = (25, 22);

/// `union bpf_attr`, the part for `BPF_LINK_UPDATE`.
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Whether `sk_lookup` programs load (5.9).
#[must_use]
pub fn sk_lookup() -> Support {
    tried(load(SK_LOOKUP, "weir_probe", &[Instruction::answer(1), Instruction::EXIT]))
}

/// Whether programs for setsockopt(2) load (5.3).
#[must_use]
pub fn setsockopt() -> Support {
    tried(load(SETSOCKOPT, "weir_probe", &[Instruction::answer(1), Instruction::EXIT]))
}

/// Whether a link's program can be replaced (5.7): that of no link is, which is `EBADF` where the
/// command is known and `EINVAL` elsewhere (`kernel/bpf/syscall.c`, `link_update`).
#[must_use]
pub fn link_update() -> Support {
    let mut attr =
        UpdateAttr { link_fd: u32::MAX, new_prog_fd: u32::MAX, flags: 0, old_prog_fd: 0 };
    // SAFETY: no pointers, and no such descriptor.
    let result = unsafe { bpf::call(BPF_LINK_UPDATE, &mut attr) };
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Support::Yes,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Support::No,
        Err(error) => Support::Unknown(error.to_string()),
        Ok(_) => Support::Unknown("the kernel updated a link that is none".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root. Every kernel that weir supports has these.
    #[test]
    fn what_supported_kernels_have_is_found() {
        assert_eq!((sk_lookup(), setsockopt()), (Support::Yes, Support::Yes));
        assert_eq!(link_update(), Support::Yes);
    }
}

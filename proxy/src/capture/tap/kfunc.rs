//! A call of a kernel function in the object, which aya 0.14 cannot resolve: the program calls a helper of
//! a number that no helper has, and here the function takes its place.

use std::io;

use super::super::{CaptureError, btf};

/// What the programs call it: see `proxy-ebpf/src/tap/source.rs`.
const MARK: i32 = 0x7765_6972;
const FUNCTION: &str = "bpf_dynptr_from_skb";

/// `BPF_JMP | BPF_CALL`, and the source register that says that a kernel function is called
/// (`include/uapi/linux/bpf.h`).
const CALL: u8 = 0x85;
const PSEUDO_KFUNC_CALL: u8 = 2;
const INSTRUCTION_BYTES: usize = 8;

/// The object with the function's number in this kernel's BTF in place of the mark.
///
/// # Errors
/// Where the kernel has no BTF, or no such function.
pub(super) fn resolved(object: &[u8]) -> Result<Vec<u8>, CaptureError> {
    let missing = |source| CaptureError::Socket {
        action: "find the kernel function bpf_dynptr_from_skb",
        source,
        hint: "; the tap needs Linux 6.12 with BTF",
    };
    let types = btf::kernel().map_err(missing)?;
    let number = btf::function(&types, FUNCTION).and_then(|number| i32::try_from(number).ok());
    let number = number.ok_or_else(|| missing(io::ErrorKind::NotFound.into()))?;
    let mut object = object.to_vec();
    match replace(&mut object, number) {
        0 => Err(CaptureError::Missing("weir_tap_read")),
        _ => Ok(object),
    }
}

/// How many calls there were. Sections with instructions begin at multiples of an instruction.
fn replace(object: &mut [u8], number: i32) -> usize {
    let mut found = 0;
    for instruction in object.chunks_exact_mut(INSTRUCTION_BYTES) {
        let [code, registers, _, _, immediate @ ..] = instruction else { continue };
        if *code == CALL && *registers == 0 && *immediate == MARK.to_le_bytes() {
            *registers = PSEUDO_KFUNC_CALL << 4;
            immediate.copy_from_slice(&number.to_le_bytes());
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_mark_and_nothing_else_become_calls_of_the_function() {
        let call = [CALL, 0, 0, 0, 0x72, 0x69, 0x65, 0x77];
        let other = [CALL, 0, 0, 0, 1, 0, 0, 0];
        let number = [0xb7, 0, 0, 0, 0x72, 0x69, 0x65, 0x77];
        let mut object = [call, other, number, call].concat();
        assert_eq!(replace(&mut object, 0x1234), 2);
        let function = [CALL, 0x20, 0, 0, 0x34, 0x12, 0, 0];
        assert_eq!(object, [function, other, number, function].concat());
        assert_eq!(replace(&mut object, 0x1234), 0);
    }
}

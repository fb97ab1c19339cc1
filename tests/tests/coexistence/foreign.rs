//! BPF programs of "others": a few instructions each, loaded and attached by raw `bpf(2)`, so that
//! no compiler is needed where the tests run. Everything goes away on drop.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;

/// Program type and attach type.
pub(crate) type Kind = (u32, u32);
pub(crate) const CONNECT4: Kind = (18, 10);
pub(crate) const SETSOCKOPT: Kind = (25, 22);
pub(crate) const SOCK_OPS: Kind = (13, 3);
/// Sees what a cgroup sends.
pub(crate) const EGRESS: Kind = (8, 1);
pub(crate) const SK_LOOKUP: Kind = (30, 36);
const SK_MSG: Kind = (16, 7);

/// How a program is attached without a link: alone, alone until overridden.
pub(crate) const EXCLUSIVE: u32 = 0;
pub(crate) const OVERRIDE: u32 = 1;

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program {
    fd: OwnedFd,
    kind: Kind,
}

/// A program attached without a link; detached on drop.
#[derive(Debug)]
pub(crate) struct Direct {
    program: Program,
    target: File,
}

/// An array of 64-bit counters.
#[derive(Debug)]
pub(crate) struct Counters(OwnedFd);

/// A sock map with a program, as an accelerator has it.
#[derive(Debug)]
pub(crate) struct SockMap {
    map: OwnedFd,
    _verdict: Program,
}

/// One instruction: code, registers (source in the high four bits), offset, immediate.
type Instruction = (u8, u8, i16, i32);

const EXIT: Instruction = (0x95, 0, 0, 0);
/// `r10 - 4`, where keys stand.
const KEY: i16 = -4;

// === impl Program ===

impl Program {
    /// Lets everything pass.
    pub(crate) fn pass(kind: Kind, name: &str) -> Result<Self> {
        Self::load(kind, name, &[answer(1), EXIT])
    }

    /// Counts what it sees: TCP connections to 127.0.0.0/8 in the first counter, others in the second.
    pub(crate) fn recorder(name: &str, counters: &Counters) -> Result<Self> {
        let (first_octet, loopback) =
            (i32::from_ne_bytes([255, 0, 0, 0]), i32::from_ne_bytes([127, 0, 0, 0]));
        let increment = counters.increment();
        let mut program = vec![
            load_word(2, 1, 36),
            // IPPROTO_TCP; else to the end.
            (0x56, 2, 6 + i16::try_from(increment.len())?, 6),
            load_word(2, 1, 4),
            (0x54, 2, 0, first_octet),
            (0xb7, 3, 0, 1),
            (0x56, 2, 1, loopback),
            (0xb7, 3, 0, 0),
            store_word(10, 3, KEY),
        ];
        program.extend(increment);
        program.extend([answer(1), EXIT]);
        Self::load(CONNECT4, name, &program)
    }

    /// A socket load balancer: turns connections to one address into connections to another.
    pub(crate) fn balancer(name: &str, service: [u8; 4], backend: [u8; 4]) -> Result<Self> {
        let program = [
            load_word(2, 1, 4),
            (0x56, 2, 2, i32::from_ne_bytes(service)),
            (0xb4, 2, 0, i32::from_ne_bytes(backend)),
            store_word(1, 2, 4),
            answer(1),
            EXIT,
        ];
        Self::load(CONNECT4, name, &program)
    }

    /// Puts sockets that have connected into the map, under their port; counts those it took.
    pub(crate) fn collector(name: &str, map: &SockMap, counters: &Counters) -> Result<Self> {
        let [map_low, map_high] = map_address(2, &map.map);
        let increment = counters.increment();
        let mut program = vec![
            (0xbf, 0x16, 0, 0),
            load_word(2, 1, 0),
            // BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB; everything after this belongs to it.
            (0x56, 2, 11 + i16::try_from(increment.len())?, 4),
            load_word(2, 6, 68),
            store_word(10, 2, KEY),
            (0xbf, 0x61, 0, 0),
            map_low,
            map_high,
            (0xbf, 0xa3, 0, 0),
            (0x07, 3, 0, KEY.into()),
            (0xb7, 4, 0, 0),
            // bpf_sock_hash_update
            (0x85, 0, 0, 70),
            (0x55, 0, 1 + i16::try_from(increment.len())?, 0),
            (0x62, 10, KEY, 0),
        ];
        program.extend(increment);
        program.extend([answer(1), EXIT]);
        Self::load(SOCK_OPS, name, &program)
    }

    fn load(kind: Kind, name: &str, instructions: &[Instruction]) -> Result<Self> {
        let code: Vec<u8> = instructions
            .iter()
            .flat_map(|(code, registers, offset, immediate)| {
                let [low, high] = offset.to_ne_bytes();
                let rest = immediate.to_ne_bytes();
                [*code, *registers, low, high, rest[0], rest[1], rest[2], rest[3]]
            })
            .collect();
        let mut log = vec![0_u8; 1 << 16];
        let mut attr = Attr::default();
        attr.word(0, kind.0).word(4, u32::try_from(instructions.len())?);
        attr.long(8, code.as_ptr() as u64).long(16, c"GPL".as_ptr() as u64);
        attr.word(24, 1).word(28, 1 << 16).long(32, log.as_mut_ptr() as u64);
        attr.bytes(48, &name.as_bytes()[..name.len().min(15)]).word(68, kind.1);
        let fd = attr.make(PROG_LOAD).with_context(|| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            format!("cannot load {name}: {}", String::from_utf8_lossy(&log[..end]))
        })?;
        Ok(Self { fd, kind })
    }

    /// Attaches to a cgroup or network namespace by a link, beside others.
    pub(crate) fn link(&self, target: &Path) -> Result<OwnedFd> {
        let file = open(target)?;
        let mut attr = Attr::default();
        attr.fd(0, &self.fd).fd(4, &file).word(8, self.kind.1);
        attr.make(LINK_CREATE).with_context(|| format!("cannot link to {}", target.display()))
    }

    /// Attaches to a cgroup without a link.
    pub(crate) fn direct(self, cgroup: &Path, flags: u32) -> Result<Direct> {
        let target = open(cgroup)?;
        let mut attr = Attr::default();
        attr.fd(0, &target).fd(4, &self.fd).word(8, self.kind.1).word(12, flags);
        attr.call(PROG_ATTACH).with_context(|| format!("cannot attach to {}", cgroup.display()))?;
        Ok(Direct { program: self, target })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let mut attr = Attr::default();
        attr.fd(0, &self.target).fd(4, &self.program.fd).word(8, self.program.kind.1);
        if let Err(error) = attr.call(PROG_DETACH) {
            eprintln!("program left attached: {error}");
        }
    }
}

/// How many programs are attached to a cgroup itself, on one hook.
pub(crate) fn attached(cgroup: &Path, hook: u32) -> Result<u32> {
    let dir = open(cgroup)?;
    let mut attr = Attr::default();
    attr.fd(0, &dir).word(4, hook);
    attr.call(PROG_QUERY).context("cannot query")?;
    Ok(u32::from_ne_bytes(attr.0[24..28].try_into()?))
}

// === impl Counters ===

impl Counters {
    pub(crate) fn new() -> Result<Self> {
        create(2, 8).map(Self)
    }

    pub(crate) fn get(&self, index: u32) -> Result<u64> {
        let mut value = 0_u64;
        let mut attr = Attr::default();
        attr.fd(0, &self.0).long(8, std::ptr::from_ref(&index) as u64);
        attr.long(16, std::ptr::from_mut(&mut value) as u64);
        attr.call(MAP_LOOKUP_ELEM).context("no such counter")?;
        Ok(value)
    }

    /// Adds one to the counter that `KEY` names.
    fn increment(&self) -> Vec<Instruction> {
        let [map_low, map_high] = map_address(1, &self.0);
        vec![
            map_low,
            map_high,
            (0xbf, 0xa2, 0, 0),
            (0x07, 2, 0, KEY.into()),
            // bpf_map_lookup_elem
            (0x85, 0, 0, 1),
            (0x15, 0, 2, 0),
            (0xb7, 1, 0, 1),
            (0xdb, 0x10, 0, 0),
        ]
    }
}

// === impl SockMap ===

impl SockMap {
    /// A sock hash whose sockets send through a program, which lets everything pass.
    pub(crate) fn new() -> Result<Self> {
        let map = create(18, 4)?;
        let verdict = Program::pass(SK_MSG, "foreign_msg")?;
        let mut attr = Attr::default();
        attr.fd(0, &map).fd(4, &verdict.fd).word(8, SK_MSG.1);
        attr.call(PROG_ATTACH).context("cannot attach to the sock map")?;
        Ok(Self { map, _verdict: verdict })
    }
}

// === helpers ===

/// `union bpf_attr`, written by offset.
struct Attr([u8; 72]);

impl Default for Attr {
    fn default() -> Self {
        Self([0; 72])
    }
}

impl Attr {
    fn bytes(&mut self, at: usize, value: &[u8]) -> &mut Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn word(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    fn long(&mut self, at: usize, value: u64) -> &mut Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    fn fd(&mut self, at: usize, fd: &impl AsRawFd) -> &mut Self {
        self.word(at, fd.as_raw_fd().cast_unsigned())
    }

    fn call(&mut self, command: libc::c_long) -> io::Result<i32> {
        // SAFETY: what the callers above point to lives through the call, with the sizes that they
        // tell the kernel.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }

    fn make(&mut self, command: libc::c_long) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: just made by the kernel, and it has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn create(kind: u32, value_size: u32) -> Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.word(0, kind).word(4, 4).word(8, value_size).word(12, if kind == 2 { 2 } else { 64 });
    attr.make(MAP_CREATE).context("cannot create a map")
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn answer(value: i32) -> Instruction {
    (0xb7, 0, 0, value)
}

/// `to = *(u32 *)(from + offset)`
fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    (0x61, from << 4 | to, offset, 0)
}

/// `*(u32 *)(to + offset) = from`
fn store_word(to: u8, from: u8, offset: i16) -> Instruction {
    (0x63, from << 4 | to, offset, 0)
}

/// `register = map`, two instructions long.
fn map_address(register: u8, map: &OwnedFd) -> [Instruction; 2] {
    [(0x18, 0x10 | register, 0, map.as_raw_fd()), (0, 0, 0, 0)]
}

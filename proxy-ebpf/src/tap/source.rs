//! Where the tap reads bytes from: packets that leave, and buffers that a reader gets.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, transmute},
};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_dynptr_read, bpf_skb_load_bytes},
};

/// In place of the number of a kernel function that aya cannot look up: `bpf_dynptr_from_skb`, which
/// userspace puts in before it loads the object (`proxy/src/capture/tap/kfunc.rs`).
const DYNPTR_FROM_SKB: usize = 0x7765_6972;

/// A buffer whose bytes can be copied.
pub trait Source: Copy {
    /// Copies bytes from an offset on; false where the kernel refuses.
    ///
    /// # Safety
    /// There is room for them at `to`.
    unsafe fn read(self, offset: u32, to: *mut c_void, length: u32) -> bool;
}

/// A packet as it leaves, from its IP header on.
#[derive(Clone, Copy)]
pub struct Packet(pub *mut __sk_buff);

/// `struct bpf_dynptr`: two words that belong to the kernel.
#[repr(C, align(8))]
pub struct Received([MaybeUninit<u64>; 2]);

// === impl Packet ===

impl Packet {
    /// A value at an offset, as it stands in the packet.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: there is room for a value, which is plain old data.
        unsafe {
            self.read(offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
                .then(|| value.assume_init())
        }
    }

    /// Where the TCP header begins; `None` for what is not TCP right behind IP.
    #[inline(always)]
    pub fn transport(self) -> Option<u32> {
        const TCP: u8 = 6;
        const HOP_BY_HOP: u8 = 0;
        let first = self.load::<u8>(0)?;
        if first >> 4 == 4 {
            let is_tcp = self.load::<u8>(9)? == TCP;
            return is_tcp.then_some(u32::from(first & 15) * 4);
        }
        match self.load::<u8>(6)? {
            TCP => Some(40),
            // More than 64 KiB at a time (jumbograms, RFC 2675).
            HOP_BY_HOP if self.load::<u8>(40)? == TCP => Some(48),
            _ => None,
        }
    }
}

impl Source for Packet {
    #[inline(always)]
    unsafe fn read(self, offset: u32, to: *mut c_void, length: u32) -> bool {
        // SAFETY: the context is valid; the rest is the caller's promise.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, length) == 0 }
    }
}

// === impl Received ===

impl Received {
    #[inline(always)]
    pub const fn new() -> Self {
        Self([MaybeUninit::uninit(); 2])
    }

    /// Has it stand for a buffer of the kernel; false where the kernel refuses.
    #[inline(always)]
    pub fn open(&mut self, skb: *const u8) -> bool {
        // SAFETY: a call instruction with this number, which userspace replaces.
        let dynptr_from_skb: extern "C" fn(*const u8, u64, *mut c_void) -> i32 =
            unsafe { transmute(DYNPTR_FROM_SKB) };
        dynptr_from_skb(skb, 0, self.0.as_mut_ptr().cast()) == 0
    }
}

impl Source for &Received {
    #[inline(always)]
    unsafe fn read(self, offset: u32, to: *mut c_void, length: u32) -> bool {
        // SAFETY: it was opened; the rest is the caller's promise.
        unsafe { bpf_dynptr_read(to, length, self.0.as_ptr().cast(), offset, 0) == 0 }
    }
}

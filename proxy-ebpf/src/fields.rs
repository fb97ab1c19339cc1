//! Fields of the kernel's `struct tcp_sock` that no context shows.
//!
//! Where each is differs between kernels: userspace reads it from the kernel's BTF, tries every read
//! with a program of its own, and patches the offsets in (`proxy/src/capture/fields.rs`). 0 is a field
//! that this kernel does not have or does not let be read: what depends on it is not known then.

use core::arch::asm;

use aya_ebpf::{Global, bindings::bpf_sock, helpers::bpf_skc_to_tcp_sock};

macro_rules! fields {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            pub static $name: Global<u32> = Global::new(0);
        )*
    };
}

fields! {
    /// `tcp_sock.bytes_sent`, u64: payload, also what was sent again.
    BYTES_SENT,
    /// `tcp_sock.bytes_retrans`, u64.
    BYTES_RETRANS,
    /// `sock.sk_err`, i32.
    SOCKET_ERROR,
    /// `sock_common.skc_flags`, u64: bits of `enum sock_flags`.
    SOCKET_FLAGS,
    /// `sock.sk_userlocks`, four bits of the byte there.
    LOCKS,
    /// How far up they are.
    LOCKS_SHIFT,
    /// `sock.sk_uid`, u32.
    OWNER,
    /// `sock.sk_priority`, u32.
    PRIORITY,
    /// `sock.sk_max_pacing_rate`, u64.
    PACING,
    /// `sock.sk_rcvbuf`, u32.
    RECEIVE_BUFFER,
    /// `sock.sk_sndbuf`, u32.
    SEND_BUFFER,
    /// `inet_sock.tos`, u8.
    TOS,
    /// `inet_sock.uc_ttl`, i16.
    TTL,
    /// `inet_sock.pinet6`, a pointer.
    PINET6,
    /// `ipv6_pinfo.tclass`, u8.
    TCLASS6,
    /// `ipv6_pinfo.hop_limit`, i16; nine bits of the two bytes there before Linux 6.9.
    HOP_LIMIT6,
    /// How far up they are.
    HOP_LIMIT6_SHIFT,
    /// `inet_connection_sock.icsk_user_timeout`, u32.
    USER_TIMEOUT,
    /// `inet_connection_sock.icsk_ca_setsockopt`, a bit of the byte there.
    CA_SET,
    /// How far up it is.
    CA_SET_SHIFT,
    /// `inet_connection_sock.icsk_ca_ops`, a pointer.
    CA_OPS,
    /// `tcp_congestion_ops.name`, 16 bytes.
    CA_NAME,
    /// `tcp_sock.keepalive_time`, u32.
    KEEPALIVE_TIME,
    /// `tcp_sock.keepalive_intvl`, u32.
    KEEPALIVE_INTERVAL,
    /// `tcp_sock.keepalive_probes`, u8.
    KEEPALIVE_PROBES,
    /// `tcp_sock.is_mptcp`, a bool.
    IS_MPTCP,
    /// `sock.sk_cgrp_data.cgroup`, a pointer.
    CGROUP,
    /// `cgroup.bpf.effective[CGROUP_INET_EGRESS]`, a pointer.
    EGRESS,
    /// `bpf_prog_array.items[0].prog`, a pointer: null where there is none.
    FIRST_PROGRAM,
    /// `tcp_sock.md5sig_info`, a pointer.
    MD5_INFO,
    /// `tcp_sock.ao_info`, a pointer.
    AO_INFO,
    /// `tcp_sock.copied_seq`, u32: of the byte that is read next.
    COPIED_SEQ,
    /// `sk_buff.sk`, a pointer.
    SKB_SK,
    /// `sk_buff.len`, u32.
    SKB_LEN,
    /// `sk_buff.cb`, of whose `tcp_skb_cb` the first word is `seq`, u32.
    SKB_CB,
}

/// Bits of `skc_flags` (`enum sock_flags` in include/net/sock.h): the peer's FIN has come.
pub const SOCK_DONE: u64 = 1 << 1;
/// `SO_KEEPALIVE` is on.
pub const SOCK_KEEPOPEN: u64 = 1 << 3;

/// A TCP socket as the kernel has it.
#[derive(Clone, Copy)]
pub struct Tcp(*const u8);

/// What the kernel has answered to the question for one: asked once, and used in several places.
#[derive(Clone, Copy)]
pub struct MaybeTcp(*const u8);

// === impl MaybeTcp ===

impl MaybeTcp {
    /// Asks for the TCP socket.
    #[inline(always)]
    pub fn of(sk: *mut bpf_sock) -> Self {
        Self(Tcp::of(sk).map_or(core::ptr::null(), |tcp| tcp.0))
    }

    /// The socket, if it is one of TCP. Not an `Option` from the beginning: the compiler would keep its
    /// tag beside the pointer and join the test of it with others, and the verifier
    /// of Linux 6.1 no longer knows then that the pointer is not null. So each test is of the pointer itself,
    /// and stays where it is.
    #[inline(always)]
    pub fn get(self) -> Option<Tcp> {
        let tcp: *const u8;
        // SAFETY: copies a register.
        unsafe {
            asm!("{to} = {from}", from = in(reg) self.0, to = lateout(reg) tcp, options(nomem, nostack));
        }
        (!tcp.is_null()).then_some(Tcp(tcp))
    }
}

// === impl Tcp ===

impl Tcp {
    /// `None` for no socket, and one of another protocol.
    #[inline(always)]
    pub fn of(sk: *mut bpf_sock) -> Option<Self> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: helper call on a non-null socket; null for what is no TCP socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) }.cast::<u8>();
        (!tcp.is_null()).then_some(Self(tcp))
    }

    /// A field; `None` where this kernel's is not known.
    ///
    /// # Safety
    /// `T` is plain old data of the field's size at most.
    #[inline(always)]
    pub unsafe fn read<T: Copy>(self, field: &Global<u32>) -> Option<T> {
        let offset = field.load();
        if offset == 0 {
            return None;
        }
        // SAFETY: the verifier checks the offset against the kernel's own types.
        Some(unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() })
    }

    /// Two words behind each other.
    ///
    /// # Safety
    /// As for [`Self::read`].
    #[inline(always)]
    pub unsafe fn read_pair(self, field: &Global<u32>) -> Option<[u64; 2]> {
        let offset = field.load();
        if offset == 0 {
            return None;
        }
        // SAFETY: as above.
        unsafe {
            let at = self.0.add(offset as usize).cast::<u64>();
            Some([at.read_volatile(), at.add(1).read_volatile()])
        }
    }

    /// What a pointer among the fields points to. Reading from where it is null gives zeroes: the
    /// kernel sees to that for pointers of its own types.
    ///
    /// # Safety
    /// The field is a pointer to a structure.
    #[inline(always)]
    pub unsafe fn follow(self, field: &Global<u32>) -> Option<Self> {
        // SAFETY: as above.
        unsafe { self.read::<*const u8>(field) }.map(Self)
    }
}

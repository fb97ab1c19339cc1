//! Sockets that belong to another user: rules by owner (`meta skuid`, `owner` of iptables,
//! `uidrange` of ip-rule(8)) look at the creator of a socket, which socket(2) takes from the calling thread's
//! file system ids.

use std::{io, sync::OnceLock};

use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};

/// Whom a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user, as the initial user namespace numbers it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

// === impl Owner ===

impl Owner {
    /// The process itself, whose ids stay what they are.
    pub(super) fn own() -> Self {
        static OWN: OnceLock<Owner> = OnceLock::new();
        *OWN.get_or_init(|| Self { uid: geteuid().as_raw(), gid: getegid().as_raw() })
    }

    /// Makes a socket as the owner. The ids are the thread's alone (setfsuid(2)): `make` must neither
    /// wait nor hand its work on. Without CAP_SETUID and CAP_SETGID it is weir's own.
    pub(super) fn make<T>(self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _as_owner = (self != Self::own()).then(|| Borrowed::new(self));
        make()
    }
}

/// Another's ids on this thread, until it is dropped.
struct Borrowed {
    uid: Uid,
    gid: Gid,
}

// === impl Borrowed ===

impl Borrowed {
    fn new(owner: Owner) -> Self {
        // The group first: another user may not be allowed to change it.
        let gid = setfsgid(Gid::from_raw(owner.gid));
        Self { uid: setfsuid(Uid::from_raw(owner.uid)), gid }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::MetadataExt};

    use super::*;

    fn owner_of(socket: &std::net::TcpListener) -> u32 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).unwrap().uid()
    }

    /// Needs root.
    #[test]
    fn a_socket_is_its_owners_and_the_thread_is_itself_again_also_after_a_panic() {
        let own = Owner::own();
        let another = Owner { uid: 12_345, gid: 54_321 };
        let listen = || std::net::TcpListener::bind("127.0.0.1:0");
        assert_eq!(owner_of(&another.make(listen).unwrap()), 12_345);
        let panicked = std::panic::catch_unwind(|| another.make::<()>(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(owner_of(&own.make(listen).unwrap()), own.uid);
        assert_eq!(owner_of(&listen().unwrap()), own.uid);
    }
}

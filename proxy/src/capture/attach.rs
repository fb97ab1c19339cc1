//! Where programs are attached, and how: links to a workload's cgroup and network namespace.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use weir_common::WorkloadId;

use super::{
    CaptureError, Instance,
    bpf::{self, AttachType},
    foreign::obstacle,
    layout,
    pins::Pins,
    programs::program,
    table::lock,
};
use crate::host::{HostError, cgroup};

/// The program for inbound connections.
pub(super) const INBOUND_PROGRAM: &str = "weir_inbound";
/// The program for segments of held connections.
pub(super) const MISSED_PROGRAM: &str = "weir_missed";
/// The socket filter of hold listeners, which is attached to none of the hooks.
pub(super) const HOLD_PROGRAM: &str = "weir_hold";

/// One place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// As `weir status` and the pin have it.
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) attach_type: AttachType,
    pub(super) scope: Scope,
}

/// Which workloads a program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every workload: what it needs to know is in the socket's storage.
    Any,
    /// One workload, whose number is in the program.
    One,
    /// One workload, and a decision: two at a time would contradict each other, so that even a weir
    /// of another schema puts its own into the same link.
    OneDecides,
}

const fn hook(
    name: &'static str,
    program: &'static str,
    attach_type: AttachType,
    scope: Scope,
) -> Hook {
    Hook { name, program, attach_type, scope }
}

/// In the order of attaching. What answers for a redirected socket comes before what redirects.
pub(super) const HOOKS: [Hook; 10] = [
    hook("sockops", "weir_stream", AttachType::SockOps, Scope::One),
    hook("getpeername4", "weir_peername4", AttachType::Getpeername4, Scope::Any),
    hook("getpeername6", "weir_peername6", AttachType::Getpeername6, Scope::Any),
    hook("getsockname4", "weir_sockname4", AttachType::Getsockname4, Scope::Any),
    hook("getsockname6", "weir_sockname6", AttachType::Getsockname6, Scope::Any),
    hook("getsockopt", "weir_getsockopt", AttachType::Getsockopt, Scope::Any),
    hook("sk_lookup_hold", MISSED_PROGRAM, AttachType::SkLookup, Scope::One),
    hook("sk_lookup", INBOUND_PROGRAM, AttachType::SkLookup, Scope::OneDecides),
    hook("connect4", "weir_connect4", AttachType::Connect4, Scope::OneDecides),
    hook("connect6", "weir_connect6", AttachType::Connect6, Scope::OneDecides),
];

/// For the proxy's own cgroup.
const PROXY_HOOK: Hook = hook("sockops", "weir_proxy_side", AttachType::SockOps, Scope::Any);
/// Each process that has connections of the workload attaches its own, which tells only that one
/// (`options.rs`): not pinned, so that it goes with the process.
pub(super) const OPTION_HOOK: Hook =
    hook("setsockopt", "weir_setsockopt", AttachType::Setsockopt, Scope::Any);

// === impl Instance ===

impl Instance {
    /// Attaches the program for the proxy's own cgroup, which gives accepted sockets their notes; it
    /// goes with the process.
    ///
    /// # Errors
    /// Where the kernel refuses it: notes are then taken by their keys.
    pub fn attach_proxy_side(&self) -> Result<(), CaptureError> {
        let cgroup = cgroup::own()?;
        let dir = open(&cgroup)?;
        *lock(&self.proxy_side) = Some(self.attach_beside(&PROXY_HOOK, &cgroup, dir.as_fd())?);
        Ok(())
    }

    /// Attaches a shared program beside those that are there already, for as long as the link is kept.
    pub(super) fn attach_beside(
        &self,
        hook: &Hook,
        cgroup: &Path,
        dir: BorrowedFd<'_>,
    ) -> Result<OwnedFd, CaptureError> {
        let program = program(&mut self.shared(), hook.program)?;
        bpf::link_create(program.as_fd(), dir, hook.attach_type).map_err(|source| {
            CaptureError::Attach {
                name: hook.name,
                target: cgroup.display().to_string(),
                hint: attach_hint(&source, cgroup, hook),
                source,
            }
        })
    }
}

// === impl Place ===

/// One hook of one workload.
pub(super) struct Place<'a> {
    pub(super) hook: Hook,
    pub(super) workload: WorkloadId,
    pub(super) target: BorrowedFd<'a>,
    /// Cgroup id or namespace inode of `target`.
    pub(super) id: u64,
}

/// Where a link comes from.
pub(super) enum Origin {
    New,
    Replaced,
}

impl Place<'_> {
    /// Makes `program` the one that runs here.
    pub(super) fn fill(
        &self,
        pins: &Pins,
        program: BorrowedFd<'_>,
    ) -> io::Result<(OwnedFd, Origin)> {
        let path = pins.links(self.workload).join(self.hook.name);
        if let Some(link) = self.adopt(&path, program)? {
            return Ok((link, Origin::Replaced));
        }
        if self.hook.scope == Scope::OneDecides {
            for other in pins.other_schemas() {
                let theirs = other.join(self.workload.to_string()).join(self.hook.name);
                if let Some(link) = self.adopt(&theirs, program)? {
                    fs::rename(&theirs, &path)?;
                    return Ok((link, Origin::Replaced));
                }
            }
        }
        let link = bpf::link_create(program, self.target, self.hook.attach_type)?;
        bpf::pin(link.as_fd(), &path)?;
        Ok((link, Origin::New))
    }

    /// The pinned link, with `program` in it; `None` where there is none or it is attached to
    /// something else (a cgroup of the same name that was made anew), which is removed then.
    fn adopt(&self, path: &Path, program: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        let link = match bpf::open_pinned(path) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A directory, say.
            Err(_) => {
                layout::remove(path).map_err(io::Error::other)?;
                return Ok(None);
            }
        };
        if bpf::link_target(link.as_fd()).is_ok_and(|(target, _)| target == self.id)
            && bpf::link_update(link.as_fd(), program).is_ok()
        {
            return Ok(Some(link));
        }
        let _ = bpf::link_detach(link.as_fd());
        fs::remove_file(path)?;
        Ok(None)
    }
}

// === helpers ===

/// The programs that are loaded for each workload.
pub(super) fn own_programs() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().filter(|hook| hook.scope != Scope::Any).map(|hook| hook.program)
}

pub(super) fn open(cgroup: &Path) -> Result<File, CaptureError> {
    File::open(cgroup).map_err(|source| {
        CaptureError::Host(HostError::Cgroup {
            action: "open",
            path: cgroup.into(),
            source,
            hint: "",
        })
    })
}

pub(super) fn attach_hint(error: &io::Error, cgroup: &Path, hook: &Hook) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => obstacle(cgroup, *hook == OPTION_HOOK).map_or_else(
            || "; run as root or grant CAP_BPF and CAP_NET_ADMIN".to_owned(),
            |obstacle| format!("; {obstacle}"),
        ),
        Some(libc::E2BIG) => "; 64 programs are attached there already".to_owned(),
        _ => "; see `weir check`".to_owned(),
    }
}

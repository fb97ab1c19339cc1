//! Attaches the programs to a workload's cgroup and network namespace, by links that are pinned:
//! they hold while weir is away, and a later weir puts its own programs into them.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use weir_common::{WorkloadId, flags};

use super::{
    CaptureError, Instance, Kernel, Netns,
    bpf::{self, AttachType},
    foreign::obstacle,
    layout,
    pins::{self, Pins, directories, lock_directory, make_dir},
    programs::{Own, program},
    table::lock,
};
use crate::host::{HostError, cgroup};

/// The program for inbound connections.
pub(super) const INBOUND_PROGRAM: &str = "weir_inbound";
/// The socket filter of hold listeners, which is attached to none of the hooks.
pub(super) const HOLD_PROGRAM: &str = "weir_hold";

/// One place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// As `weir status` and the pin have it.
    pub(super) name: &'static str,
    program: &'static str,
    attach_type: AttachType,
    scope: Scope,
}

/// Whom a program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
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

/// A program of this weir, where it was attached.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) hook: Hook,
    pub(super) link: OwnedFd,
    /// Id of the cgroup, or inode of the namespace.
    pub(super) target: u64,
    /// Id of the program; `None` where the kernel did not tell.
    program: Option<u32>,
}

/// In the order of attaching. What answers for a redirected socket comes before what redirects.
const HOOKS: [Hook; 9] = [
    hook("sockops", "weir_stream", AttachType::SockOps, Scope::One),
    hook("getpeername4", "weir_peername4", AttachType::Getpeername4, Scope::Any),
    hook("getpeername6", "weir_peername6", AttachType::Getpeername6, Scope::Any),
    hook("getsockname4", "weir_sockname4", AttachType::Getsockname4, Scope::Any),
    hook("getsockname6", "weir_sockname6", AttachType::Getsockname6, Scope::Any),
    hook("getsockopt", "weir_getsockopt", AttachType::Getsockopt, Scope::Any),
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

/// What to attach besides the hooks that are always there.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions<'a> {
    /// The namespace for the program of inbound connections: where they are captured, or where
    /// outbound connections are held (`proxy-ebpf/src/hold.rs`, `missed`).
    pub lookup: Option<&'a Netns>,
    /// Inbound connections are captured: without that program the workload is not.
    pub inbound: bool,
    /// The programs that an earlier weir left are these ones: they can stay, which saves the kernel
    /// verifying them (tens of milliseconds for each workload).
    pub keep: bool,
}

impl Kernel {
    /// Loads and attaches every program, in place of those that an earlier weir left or a running
    /// one has there. On an error nothing new stays attached.
    ///
    /// When the workload's sockets are being followed and nothing is decided yet by a program with
    /// these maps, calls `followed`, which is told whether they have been followed all the while:
    /// what the maps have to know must be in them by then, or an upgrade to another schema would
    /// let connections pass that its predecessor has captured.
    ///
    /// # Errors
    /// The first program that the kernel refuses, with the cgroup; and what `followed` says.
    pub fn attach(
        &self,
        cgroup: &Path,
        options: AttachOptions<'_>,
        followed: impl FnOnce(bool) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let dir = open(cgroup)?;
        self.follow_options(cgroup, dir.as_fd(), cgroup::id(cgroup)?);
        self.attach_pinned(cgroup, &dir, options, followed).inspect_err(|_| self.ignore_options())
    }

    fn attach_pinned(
        &self,
        cgroup: &Path,
        dir: &File,
        options: AttachOptions<'_>,
        followed: impl FnOnce(bool) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let Self { instance, workload, .. } = self;
        let inbound = options.inbound && !self.is_inbound_off();
        let lookup = options.lookup.filter(|_| inbound || self.is_holding());
        let options = AttachOptions { inbound, lookup, ..options };
        let cgroup_id = cgroup::id(cgroup)?;
        let pins = instance.pins.links(*workload);
        let id_of = |hook: &Hook| match (hook.attach_type, options.lookup) {
            (AttachType::SkLookup, netns) => netns.map(Netns::inode),
            _ => Some(cgroup_id),
        };
        if options.keep
            && let Some(links) = left(instance, &pins, id_of)
        {
            lock(&self.own).take();
            self.hold(links, &options, id_of);
            return followed(true);
        }
        make_dir(&pins)?;
        let loaded = lock(&self.own).take();
        let mut own = match loaded {
            Some(own) => own,
            None => Own::of(instance, *workload)?,
        };
        let mut links = Vec::new();
        let mut followed = Some(followed);
        for hook in HOOKS {
            if hook.scope == Scope::OneDecides
                && let Some(followed) = followed.take()
            {
                let all_the_while = was_there(&links) && !instance.in_use.remade;
                followed(all_the_while).inspect_err(|_| undo(&pins, &links))?;
            }
            let Some(id) = id_of(&hook) else { continue };
            let (target, name) = match (hook.attach_type, options.lookup) {
                (AttachType::SkLookup, Some(netns)) => {
                    (netns.as_fd(), "the network namespace".to_owned())
                }
                _ => (dir.as_fd(), cgroup.display().to_string()),
            };
            let program = match hook.scope {
                Scope::Any => program(&mut instance.shared(), hook.program)?,
                Scope::One | Scope::OneDecides => own.program(hook.program)?,
            };
            let place = Place { hook, workload: *workload, target, id };
            match place.fill(&instance.pins, program.as_fd()) {
                Ok((link, Origin::New)) => links.push((hook, link, true)),
                Ok((link, Origin::Replaced)) => links.push((hook, link, false)),
                Err(error) if hook.attach_type == AttachType::SkLookup && !options.inbound => {
                    tracing::debug!(%error, "cannot attach sk_lookup for held connections");
                }
                Err(source) => {
                    undo(&pins, &links);
                    let hint = attach_hint(&source, cgroup, &hook);
                    return Err(CaptureError::Attach {
                        name: hook.name,
                        target: name,
                        source,
                        hint,
                    });
                }
            }
        }
        let links = links.into_iter().map(|(hook, link, _)| (hook, link)).collect();
        self.hold(links, &options, id_of);
        Ok(())
    }

    /// A program that is loaded for this workload alone, before it is attached. The others of the same
    /// object are kept for [`Self::attach`].
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub(super) fn own_program(&self, name: &'static str) -> Result<OwnedFd, CaptureError> {
        let mut own = lock(&self.own);
        if own.is_none() {
            *own = Some(Own::of(&self.instance, self.workload)?);
        }
        own.as_mut().ok_or(CaptureError::Missing(name))?.program(name)
    }

    fn hold(
        &self,
        links: Vec<(Hook, OwnedFd)>,
        options: &AttachOptions<'_>,
        id_of: impl Fn(&Hook) -> Option<u64>,
    ) {
        if options.lookup.is_none() {
            remove_link(&self.instance.pins.links(self.workload).join("sk_lookup"));
        }
        let attached = |(hook, link): (Hook, OwnedFd)| {
            Attached::new(hook, link, id_of(&hook).unwrap_or_default())
        };
        *lock(&self.links) = links.into_iter().map(attached).collect();
    }

    /// The first hook that does not run the program that this weir has put there; `None` where all
    /// do. One system call for each hook.
    #[must_use]
    pub fn changed_hook(&self) -> Option<&'static str> {
        let changed = |attached: &&Attached| attached.has_changed();
        let name = |attached: &Attached| attached.hook.name;
        let pinned = lock(&self.links).iter().find(changed).map(name);
        pinned.or_else(|| lock(&self.options).iter().find(changed).map(name))
    }

    /// Takes off what decides about new connections: they go direct. What answers for those that are
    /// there stays.
    pub fn stop_capturing(&self) {
        // What goes direct from now on is not reported either.
        let _ = self.set_flag(flags::CAPTURE_INBOUND, false);
        self.take_off(|hook| hook.scope == Scope::OneDecides);
    }

    /// Detaches the hooks that are chosen, and removes their pins.
    fn take_off(&self, chosen: impl Fn(&Hook) -> bool) {
        let pins = self.instance.pins.links(self.workload);
        lock(&self.links).retain(|Attached { hook, link, .. }| {
            let goes = chosen(hook);
            if goes {
                let _ = bpf::link_detach(link.as_fd());
                let _ = fs::remove_file(pins.join(hook.name));
            }
            !goes
        });
    }

    /// Captures no inbound connections any more, and says why, once. Where nothing is attached yet,
    /// nothing will be.
    pub(super) fn switch_inbound_off(&self, reason: &CaptureError) {
        if self.inbound_off.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(
            workload.number = self.workload,
            %reason,
            "inbound connections of a workload are no longer captured: weir could capture its own \
             connections to it; fix the cause and add the workload again"
        );
        let _ = self.set_flag(flags::CAPTURE_INBOUND, false);
        if !self.is_holding() {
            self.take_off(|hook| hook.attach_type == AttachType::SkLookup);
        }
    }

    /// Takes every program off the workload and removes the pins.
    pub fn detach(&self) {
        self.ignore_options();
        for Attached { link, .. } in lock(&self.links).drain(..).rev() {
            // Gone already where the cgroup or the namespace is.
            let _ = bpf::link_detach(link.as_fd());
        }
        remove_links(&self.instance.pins.links(self.workload));
    }

    /// Lets go of the links; the pins hold them.
    pub fn let_go(&self) {
        self.ignore_options();
        lock(&self.links).clear();
    }
}

// === impl Attached ===

impl Attached {
    pub(super) fn new(hook: Hook, link: OwnedFd, target: u64) -> Self {
        let program = bpf::link_target(link.as_fd()).ok().map(|(_, program)| program);
        Self { hook, link, target, program }
    }

    /// As users know its hook.
    pub(super) fn name(&self) -> String {
        self.hook.name.to_owned()
    }

    pub(super) fn has_changed(&self) -> bool {
        let Some(program) = self.program else { return false };
        let now = bpf::link_target(self.link.as_fd());
        now.is_ok_and(|now| now != (self.target, program))
    }
}

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

    /// Takes everything off that is pinned for workloads that are not in `wanted`.
    pub fn remove_stale_links(&self, wanted: &[WorkloadId]) {
        for path in directories(&self.pins.own_schema()) {
            let id = path.file_name().and_then(|name| name.to_str()?.parse::<WorkloadId>().ok());
            if id.is_some_and(|id| !wanted.contains(&id)) {
                remove_links(&path);
            }
        }
    }

    /// Whether weirs of other schemas have left anything, or are using it.
    #[must_use]
    pub fn has_other_schemas(&self) -> bool {
        !self.pins.other_schemas().is_empty()
    }

    /// Removes what weirs of other schemas have left and no longer use: their programs and maps.
    pub fn remove_other_schemas(&self) {
        for schema in self.pins.other_schemas() {
            if let Ok(Some(_unused)) = lock_directory(&schema) {
                remove_tree(&schema);
            }
        }
    }

    /// Removes everything that is pinned.
    pub fn remove_pins(&self) {
        remove_instance(self.pins.root());
    }

    /// True for a program that is pinned for a workload of this instance, by this weir or an
    /// earlier one. Looks among those of `workload` first: with many workloads that matters.
    #[must_use]
    pub fn owns(&self, workload: WorkloadId, program: u32) -> bool {
        self.owns_for(workload, program)
            || self.schemas().flat_map(|schema| directories(&schema)).any(|it| has(&it, program))
    }

    /// True for a program that is pinned for this workload, by this weir, an earlier one or the one
    /// that is being replaced.
    #[must_use]
    pub fn owns_for(&self, workload: WorkloadId, program: u32) -> bool {
        self.schemas().any(|schema| has(&schema.join(workload.to_string()), program))
    }

    fn schemas(&self) -> impl Iterator<Item = PathBuf> {
        [self.pins.own_schema()].into_iter().chain(self.pins.other_schemas())
    }
}

/// Takes every program off that is pinned below a directory, and removes it.
pub(super) fn remove_tree(directory: &Path) {
    for child in directories(directory) {
        remove_tree(&child);
    }
    remove_links(directory);
}

/// Removes everything of one instance, and the directory of all if it was the last. First the link to
/// the control socket: a weir that runs puts its programs back for as long as that is there
/// ([`Instance::is_pinned`]). Links come before maps in the order of names: programs of a removal that was
/// killed would have maps that nobody finds again.
pub(super) fn remove_instance(root: &Path) {
    let _ = fs::remove_file(pins::control(root));
    remove_tree(root);
    if let Some(parent) = root.parent() {
        let _ = fs::remove_dir(parent);
    }
}

// === impl Place ===

/// One hook of one workload.
struct Place<'a> {
    hook: Hook,
    workload: WorkloadId,
    target: BorrowedFd<'a>,
    /// Cgroup id or namespace inode of `target`.
    id: u64,
}

/// Where a link comes from.
enum Origin {
    New,
    Replaced,
}

impl Place<'_> {
    /// Makes `program` the one that runs here.
    fn fill(&self, pins: &Pins, program: BorrowedFd<'_>) -> io::Result<(OwnedFd, Origin)> {
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

/// Whether what follows the sockets was attached before, with these maps.
fn was_there(links: &[(Hook, OwnedFd, bool)]) -> bool {
    links.iter().any(|(hook, _, new)| hook.attach_type == AttachType::SockOps && !new)
}

/// Whether one of the links that are pinned in a directory has this program.
fn has(links: &Path, program: u32) -> bool {
    let mut links = HOOKS.iter().flat_map(|hook| bpf::open_pinned(&links.join(hook.name)));
    links.any(|link| bpf::link_target(link.as_fd()).is_ok_and(|(_, id)| id == program))
}

/// The links that an earlier weir has left, if they are all there, attached to what `id_of` says, and
/// their programs use this weir's maps.
fn left(
    instance: &Instance,
    pins: &Path,
    id_of: impl Fn(&Hook) -> Option<u64>,
) -> Option<Vec<(Hook, OwnedFd)>> {
    let wanted = HOOKS.into_iter().filter_map(|hook| Some((hook, id_of(&hook)?)));
    wanted
        .map(|(hook, id)| {
            let link = bpf::open_pinned(&pins.join(hook.name)).ok()?;
            let is_there = bpf::link_target(link.as_fd()).ok()?.0 == id;
            (is_there && instance.in_use.is_used_by(link.as_fd()).ok()?).then_some((hook, link))
        })
        .collect()
}

fn open(cgroup: &Path) -> Result<File, CaptureError> {
    File::open(cgroup).map_err(|source| {
        CaptureError::Host(HostError::Cgroup {
            action: "open",
            path: cgroup.into(),
            source,
            hint: "",
        })
    })
}

fn attach_hint(error: &io::Error, cgroup: &Path, hook: &Hook) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => obstacle(cgroup, *hook == OPTION_HOOK).map_or_else(
            || "; run as root or grant CAP_BPF and CAP_NET_ADMIN".to_owned(),
            |obstacle| format!("; {obstacle}"),
        ),
        Some(libc::E2BIG) => "; 64 programs are attached there already".to_owned(),
        _ => "; see `weir check`".to_owned(),
    }
}

/// Takes off again what was attached before something failed.
fn undo(pins: &Path, links: &[(Hook, OwnedFd, bool)]) {
    for (hook, link, _) in links.iter().filter(|(.., new)| *new) {
        let _ = bpf::link_detach(link.as_fd());
        let _ = fs::remove_file(pins.join(hook.name));
    }
    // Only where nothing was there before.
    let _ = fs::remove_dir(pins);
}

fn remove_links(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        remove_link(&entry.path());
    }
    let _ = fs::remove_dir(directory);
}

/// Detaches a pinned link and removes the pin; any other pinned object just loses its name.
fn remove_link(path: &PathBuf) {
    if let Ok(link) = bpf::open_pinned(path) {
        let _ = bpf::link_detach(link.as_fd());
    }
    let _ = fs::remove_file(path);
}

//! The links of a workload's programs, which are pinned: they hold while weir is away, and a later weir
//! puts its own programs into them.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Mutex,
};

use super::{
    CaptureError, Instance, Netns,
    attach::{HOOKS, Hook, MISSED_PROGRAM, Origin, Place, Scope, attach_hint, open},
    bpf::{self, AttachType},
    entries::Entries,
    options::OptionLink,
    pinned_links::{remove_link, remove_links},
    pins::make_dir,
    programs::{Own, program},
    table::lock,
};
use crate::host::cgroup;

/// What to attach besides the hooks that are always there.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions<'a> {
    /// The namespace whose inbound connections are captured.
    pub inbound: Option<&'a Netns>,
    /// The namespace whose outbound connections are held.
    pub held: Option<&'a Netns>,
    /// The programs that an earlier weir left are these ones: they can stay, which saves the kernel
    /// verifying them (tens of milliseconds for each workload).
    pub keep: bool,
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

/// A workload's programs, and where they are attached.
pub struct Links {
    entries: Entries,
    /// Pinned too, unless the pins are private.
    attached: Mutex<Vec<Attached>>,
    /// The program that tells of options ([`super::Options`]); goes with the process.
    pub(super) options: OptionLink,
    /// Programs that are loaded and not attached yet.
    own: Mutex<Option<Own>>,
}

// === impl Links ===

impl Links {
    pub(super) fn new(entries: Entries) -> Self {
        Self {
            options: OptionLink::new(entries.clone()),
            entries,
            attached: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// See [`super::WorkloadMaps::attach`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn attach(
        &self,
        cgroup: &Path,
        options: &AttachOptions<'_>,
        followed: impl FnOnce(bool) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let dir = open(cgroup)?;
        self.options.attach(cgroup, dir.as_fd(), cgroup::id(cgroup)?);
        self.attach_pinned(cgroup, &dir, options, followed).inspect_err(|_| self.ignore_options())
    }

    fn attach_pinned(
        &self,
        cgroup: &Path,
        dir: &File,
        options: &AttachOptions<'_>,
        followed: impl FnOnce(bool) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let Entries { instance, workload, .. } = &self.entries;
        let cgroup_id = cgroup::id(cgroup)?;
        let pins = instance.pins.links(*workload);
        let netns_of = |hook: &Hook| match hook.program {
            MISSED_PROGRAM => options.held,
            _ => options.inbound,
        };
        let id_of = |hook: &Hook| match hook.attach_type {
            AttachType::SkLookup => netns_of(hook).map(Netns::inode),
            _ => Some(cgroup_id),
        };
        if options.keep
            && let Some(links) = left(instance, &pins, id_of)
        {
            lock(&self.own).take();
            self.keep(links, id_of);
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
            let (target, name) = match (hook.attach_type, netns_of(&hook)) {
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
                // The workload is captured without it.
                Err(error) if hook.program == MISSED_PROGRAM => {
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
        self.keep(links, id_of);
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
            *own = Some(Own::of(&self.entries.instance, self.entries.workload)?);
        }
        own.as_mut().ok_or(CaptureError::Missing(name))?.program(name)
    }

    fn keep(&self, links: Vec<(Hook, OwnedFd)>, id_of: impl Fn(&Hook) -> Option<u64>) {
        let pins = self.entries.instance.pins.links(self.entries.workload);
        for hook in HOOKS.iter().filter(|hook| id_of(hook).is_none()) {
            remove_link(&pins.join(hook.name));
        }
        let attached = |(hook, link): (Hook, OwnedFd)| {
            Attached::new(hook, link, id_of(&hook).unwrap_or_default())
        };
        *lock(&self.attached) = links.into_iter().map(attached).collect();
    }

    /// Names of the hooks that are attached, in the order of attaching.
    #[must_use]
    pub fn hooks(&self) -> Vec<String> {
        let options: Vec<String> = self.options.attached().iter().map(Attached::name).collect();
        options.into_iter().chain(lock(&self.attached).iter().map(Attached::name)).collect()
    }

    /// The kernel tells of no options any more.
    pub fn ignore_options(&self) {
        self.options.detach();
    }

    /// The first hook that does not run the program that this weir has put there; `None` where all
    /// do. One system call for each hook.
    #[must_use]
    pub fn changed_hook(&self) -> Option<&'static str> {
        let changed = |attached: &&Attached| attached.has_changed();
        let name = |attached: &Attached| attached.hook.name;
        let pinned = lock(&self.attached).iter().find(changed).map(name);
        pinned.or_else(|| self.options.attached().iter().find(changed).map(name))
    }

    /// Detaches the hooks that are chosen, and removes their pins.
    pub(super) fn take_off(&self, chosen: impl Fn(&Hook) -> bool) {
        let pins = self.entries.instance.pins.links(self.entries.workload);
        lock(&self.attached).retain(|Attached { hook, link, .. }| {
            let goes = chosen(hook);
            if goes {
                let _ = bpf::link_detach(link.as_fd());
                let _ = fs::remove_file(pins.join(hook.name));
            }
            !goes
        });
    }

    /// Takes every program off the workload and removes the pins.
    pub fn detach(&self) {
        self.ignore_options();
        for Attached { link, .. } in lock(&self.attached).drain(..).rev() {
            // Gone already where the cgroup or the namespace is.
            let _ = bpf::link_detach(link.as_fd());
        }
        remove_links(&self.entries.instance.pins.links(self.entries.workload));
    }

    /// Lets go of the links; the pins hold them.
    pub fn let_go(&self) {
        self.ignore_options();
        lock(&self.attached).clear();
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

// === helpers ===

/// Whether what follows the sockets was attached before, with these maps.
fn was_there(links: &[(Hook, OwnedFd, bool)]) -> bool {
    links.iter().any(|(hook, _, new)| hook.attach_type == AttachType::SockOps && !new)
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

/// Takes off again what was attached before something failed.
fn undo(pins: &Path, links: &[(Hook, OwnedFd, bool)]) {
    for (hook, link, _) in links.iter().filter(|(.., new)| *new) {
        let _ = bpf::link_detach(link.as_fd());
        let _ = fs::remove_file(pins.join(hook.name));
    }
    // Only where nothing was there before.
    let _ = fs::remove_dir(pins);
}

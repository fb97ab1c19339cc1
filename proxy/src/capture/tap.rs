//! The tap: programs that copy what tapped connections send and read. Loaded by themselves, once, where
//! a workload asks for them; everything goes with the process. What is copied stays in a ring buffer
//! that no other process can open.

mod events;
mod kfunc;
mod proof;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Mutex,
};

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, CgroupSkb, Program, SockOps},
};
use weir_common::maps;

pub use self::events::{TapEnd, TapEvents, TapNews, lost_text};
use super::{
    CaptureError, Instance, InstanceOptions,
    attach::{Hook, Scope, attach_hint, open},
    bpf::{self, AttachType},
    links::Attached,
    memory::{MapMemory, OpenMaps},
    programs::refused,
    table::lock,
};
use crate::host::cgroup;

/// Bytes of the ring buffer: a third of a second of what two processors send each other at most.
const RING_BYTES: u32 = 32 << 20;

/// Attached to each tapped workload's cgroup, in this order: what an earlier program has not begun with, a
/// later one leaves alone.
const HOOKS: [Hook; 2] = [
    Hook {
        name: "tap_egress",
        program: "weir_tap_egress",
        attach_type: AttachType::Egress,
        scope: Scope::Any,
    },
    Hook {
        name: "tap_sockops",
        program: "weir_tap_stream",
        attach_type: AttachType::SockOps,
        scope: Scope::Any,
    },
];

/// Attached once: program and tracepoint.
const TRACEPOINTS: [(&str, &str); 2] =
    [("weir_tap_read", "skb_copy_datagram_iovec"), ("weir_tap_end", "tcp_destroy_sock")];

/// The programs, running where they concern the whole machine.
pub struct Tap {
    /// In the order of [`HOOKS`].
    programs: [OwnedFd; 2],
    /// Keeps the tracepoints attached, and has the maps that are not read yet.
    object: Mutex<Ebpf>,
    open_maps: OpenMaps,
}

/// The programs on one workload's cgroup; taken off when dropped.
#[derive(Debug)]
pub struct TapLinks(Vec<Attached>);

// === impl Tap ===

impl Tap {
    /// Loads the programs, attaches those of the machine, and tries them on a connection of its own.
    ///
    /// # Errors
    /// Where this kernel lacks what they need, or refuses them, or they do not show what they should.
    pub fn load(instance: &Instance) -> Result<Self, CaptureError> {
        let object = kfunc::resolved(instance.object())?;
        let mut object = instance.load_tap(&object, RING_BYTES)?;
        let types = Btf::from_sys_fs().map_err(|error| CaptureError::Load(error.into()))?;
        for (name, tracepoint) in TRACEPOINTS {
            let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
            let program: &mut BtfTracePoint = program.try_into().map_err(refused(name))?;
            program.load(tracepoint, &types).map_err(refused(name))?;
        }
        let mut on_cgroups = HOOKS.into_iter().map(|hook| loaded(&mut object, hook.program));
        let programs = match (on_cgroups.next(), on_cgroups.next()) {
            (Some(first), Some(second)) => [first?, second?],
            _ => return Err(CaptureError::Missing("tap")),
        };
        drop(on_cgroups);
        // Last: they run for every socket of the machine.
        for (name, _) in TRACEPOINTS {
            let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
            let program: &mut BtfTracePoint = program.try_into().map_err(refused(name))?;
            program.attach().map_err(refused(name))?;
        }
        let open_maps = OpenMaps::of(&object, |name| maps::OF_TAP.contains(&name));
        let tap = Self { programs, object: Mutex::new(object), open_maps };
        proof::prove(&tap, instance)?;
        Ok(tap)
    }

    /// What it tells. Can be taken once; needs a tokio runtime.
    ///
    /// # Errors
    /// Where it has been taken, or cannot be watched.
    pub fn events(&self) -> Result<TapEvents, CaptureError> {
        TapEvents::new(&mut lock(&self.object))
    }

    /// What the kernel has allocated for each of its maps.
    pub fn map_memory(&self) -> impl Iterator<Item = MapMemory> {
        self.open_maps.memory()
    }

    /// Taps a cgroup's connections that the connect hook marks from now on.
    ///
    /// # Errors
    /// Where the kernel refuses one of the programs; none is left attached then.
    pub fn attach(&self, cgroup: &Path) -> Result<TapLinks, CaptureError> {
        let dir = open(cgroup)?;
        let id = cgroup::id(cgroup)?;
        let mut links = TapLinks(Vec::new());
        for (hook, program) in HOOKS.into_iter().zip(&self.programs) {
            let link = bpf::link_create(program.as_fd(), dir.as_fd(), hook.attach_type).map_err(
                |source| CaptureError::Attach {
                    name: hook.name,
                    target: cgroup.display().to_string(),
                    hint: attach_hint(&source, cgroup, &hook),
                    source,
                },
            )?;
            links.0.push(Attached::new(hook, link, id));
        }
        Ok(links)
    }
}

/// Whether the tap works on this kernel: loads it, tries it, and takes it off again.
///
/// # Errors
/// Why not.
pub fn tap_self_test() -> Result<(), CaptureError> {
    Tap::load(&Instance::open(&InstanceOptions::default())?).map(drop)
}

// === impl TapLinks ===

impl TapLinks {
    /// Names of the hooks.
    #[must_use]
    pub fn hooks(&self) -> Vec<String> {
        self.0.iter().map(Attached::name).collect()
    }

    /// Connections that begin from now on are another's; those that are open are still seen.
    pub fn begin_no_more(&mut self) {
        self.0.retain(|attached| attached.hook.attach_type != AttachType::SockOps);
    }

    /// The first hook that does not run the tap's program any more.
    #[must_use]
    pub fn changed_hook(&self) -> Option<&'static str> {
        self.0.iter().find(|attached| attached.has_changed()).map(|attached| attached.hook.name)
    }
}

// === helpers ===

fn loaded(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, CaptureError> {
    let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
    match program {
        Program::CgroupSkb(program) => CgroupSkb::load(program),
        Program::SockOps(program) => SockOps::load(program),
        _ => return Err(CaptureError::Missing(name)),
    }
    .map_err(refused(name))?;
    let fd = program.fd().map_err(refused(name))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused(name)(error.into()))
}

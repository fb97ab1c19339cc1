//! Loading programs: those of one workload, which have its number in them, and the shared ones.

use std::os::fd::{AsFd, OwnedFd};

use aya::{
    Ebpf,
    programs::{
        CgroupSockAddr, CgroupSockopt, Program, ProgramError, SkLookup, SockOps, SocketFilter,
    },
};
use weir_common::WorkloadId;

use super::{
    CaptureError, Instance,
    attach::{HOLD_PROGRAM, own_programs},
};

/// The programs of one workload.
pub(super) enum Own {
    /// Loaded when they are needed.
    Object(Box<Ebpf>),
    /// Loaded ahead.
    Spare(Vec<(&'static str, OwnedFd)>),
}

// === impl Own ===

impl Own {
    pub(super) fn of(instance: &Instance, workload: WorkloadId) -> Result<Self, CaptureError> {
        Ok(match instance.spares.take(workload) {
            Some(spare) => Self::Spare(spare),
            None => Self::Object(Box::new(instance.load_for(workload)?)),
        })
    }

    pub(super) fn program(&mut self, name: &'static str) -> Result<OwnedFd, CaptureError> {
        match self {
            Self::Object(object) => program(object, name),
            Self::Spare(loaded) => {
                let place = loaded.iter().position(|(program, _)| *program == name);
                Ok(loaded.swap_remove(place.ok_or(CaptureError::Missing(name))?).1)
            }
        }
    }
}

// === helpers ===

/// Loads the programs of one workload that are attached, by name; the socket filter where the kernel
/// takes it.
pub(super) fn load_own(mut object: Ebpf) -> Result<Vec<(&'static str, OwnedFd)>, CaptureError> {
    let mut loaded = own_programs()
        .map(|name| Ok((name, program(&mut object, name)?)))
        .collect::<Result<Vec<_>, CaptureError>>()?;
    loaded.extend(program(&mut object, HOLD_PROGRAM).ok().map(|filter| (HOLD_PROGRAM, filter)));
    Ok(loaded)
}

/// The descriptor of a program, loaded if it was not.
pub(super) fn program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, CaptureError> {
    let program = ebpf.program_mut(name).ok_or(CaptureError::Missing(name))?;
    if program.fd().is_err() {
        match program {
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
            Program::CgroupSockopt(program) => CgroupSockopt::load(program),
            Program::SockOps(program) => SockOps::load(program),
            Program::SkLookup(program) => SkLookup::load(program),
            Program::SocketFilter(program) => SocketFilter::load(program),
            _ => return Err(CaptureError::Missing(name)),
        }
        .map_err(refused(name))?;
    }
    let fd = program.fd().map_err(refused(name))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused(name)(ProgramError::IOError(error)))
}

pub(super) fn refused(name: &'static str) -> impl Fn(ProgramError) -> CaptureError {
    move |error| CaptureError::Program { name, source: Box::new(error) }
}

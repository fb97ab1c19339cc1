//! Attaches the programs to a workload's cgroup. Whatever is attached is detached again when the
//! `Kernel` is dropped or the process ends: links live in file descriptors.

use std::{fs::File, path::Path};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, SockOps};

use super::{CaptureError, Kernel};

/// The name hooks and the option hook come first: no application may see a redirected socket
/// before they answer for it. The connect hooks come last.
const NAME_HOOKS: [&str; 4] = ["getpeername4", "getpeername6", "getsockname4", "getsockname6"];
const CONNECT_HOOKS: [&str; 2] = ["connect4", "connect6"];
const STREAM_HOOK: &str = "workload_stream";
const PROXY_STREAM_HOOK: &str = "proxy_stream";
const OPTION_HOOK: &str = "getsockopt";

/// Names of the hooks that every workload gets, in the order of attaching.
#[must_use]
pub fn hooks() -> Vec<String> {
    [STREAM_HOOK]
        .into_iter()
        .chain(NAME_HOOKS)
        .chain([OPTION_HOOK])
        .chain(CONNECT_HOOKS)
        .map(str::to_owned)
        .collect()
}

/// What to attach besides the hooks that are always there.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions<'a> {
    /// The proxy's own cgroup, where `sk_msg` is on.
    pub proxy_cgroup: Option<&'a Path>,
}

/// Loads and attaches every program. On an error nothing stays attached once `kernel` is dropped,
/// and no connection has been redirected: the connect hooks come last.
///
/// # Errors
/// The first program that the kernel refuses, with the cgroup.
pub fn attach(
    kernel: &Kernel,
    cgroup: &Path,
    options: AttachOptions<'_>,
) -> Result<(), CaptureError> {
    let dir = open(cgroup)?;
    sock_ops(kernel, STREAM_HOOK, &dir, cgroup)?;
    if let Some(own) = options.proxy_cgroup {
        sock_ops(kernel, PROXY_STREAM_HOOK, &open(own)?, own)?;
    }
    for name in NAME_HOOKS {
        sock_addr(kernel, name, &dir, cgroup)?;
    }
    option(kernel, &dir, cgroup)?;
    for name in CONNECT_HOOKS {
        sock_addr(kernel, name, &dir, cgroup)?;
    }
    Ok(())
}

// === helpers ===

fn open(cgroup: &Path) -> Result<File, CaptureError> {
    File::open(cgroup).map_err(|source| CaptureError::Cgroup {
        action: "open",
        path: cgroup.into(),
        source,
        hint: "",
    })
}

fn sock_addr(
    kernel: &Kernel,
    name: &'static str,
    dir: &File,
    cgroup: &Path,
) -> Result<(), CaptureError> {
    with_program(kernel, name, |program: &mut CgroupSockAddr| {
        program.load().map_err(refused(name))?;
        program.attach(dir, CgroupAttachMode::Single).map_err(detached(name, cgroup)).map(drop)
    })
}

fn sock_ops(
    kernel: &Kernel,
    name: &'static str,
    dir: &File,
    cgroup: &Path,
) -> Result<(), CaptureError> {
    with_program(kernel, name, |program: &mut SockOps| {
        program.load().map_err(refused(name))?;
        program.attach(dir, CgroupAttachMode::Single).map_err(detached(name, cgroup)).map(drop)
    })
}

fn option(kernel: &Kernel, dir: &File, cgroup: &Path) -> Result<(), CaptureError> {
    with_program(kernel, OPTION_HOOK, |program: &mut CgroupSockopt| {
        program.load().map_err(refused(OPTION_HOOK))?;
        program
            .attach(dir, CgroupAttachMode::Single)
            .map_err(detached(OPTION_HOOK, cgroup))
            .map(drop)
    })
}

/// Runs `action` on a program of the object.
pub(super) fn with_program<P, T>(
    kernel: &Kernel,
    name: &'static str,
    action: impl FnOnce(&mut P) -> Result<T, CaptureError>,
) -> Result<T, CaptureError>
where
    for<'a> &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let mut object = kernel.object();
    let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
    action(program.try_into().map_err(refused(name))?)
}

pub(super) fn refused(name: &'static str) -> impl Fn(aya::programs::ProgramError) -> CaptureError {
    move |error| CaptureError::Program { name, source: Box::new(error) }
}

fn detached<'a>(
    name: &'static str,
    cgroup: &'a Path,
) -> impl Fn(aya::programs::ProgramError) -> CaptureError + 'a {
    move |error| CaptureError::Attach { name, cgroup: cgroup.into(), source: Box::new(error) }
}

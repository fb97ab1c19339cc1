//! How the command of `weir exec` is started: as whom, in which network namespace, with which
//! environment.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::geteuid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
};

use super::super::{Exit, capture_args::ExecArgs, with_exit};
use crate::{
    config::CONTROL_VARIABLE,
    host::{Account, NamedNetns, cgroup::Transient},
    privileges::Original,
};

/// What is known of the command before weir starts anything.
#[derive(Debug)]
pub(super) struct Launch {
    /// The user that it runs as; `None` for weir's own.
    pub(super) account: Option<Account>,
    /// Its network namespace; `None` for weir's own.
    pub(super) netns: Option<NamedNetns>,
    /// The thread with the privileges that weir was started with.
    original: Original,
}

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    /// Its program is not there or cannot be executed.
    #[error(transparent)]
    Program(io::Error),
    /// A step before that.
    #[error("{0:#}")]
    Before(anyhow::Error),
}

// === impl Launch ===

impl Launch {
    /// To be called before privileges are dropped: the command is to have what weir was started
    /// with.
    pub(super) fn new(args: &ExecArgs) -> Result<Self> {
        let original = Original::keep().context("cannot start a thread")?;
        let account = match &args.user {
            Some(user) => Some(Account::parse(user)?),
            None if geteuid().is_root() => Account::of_sudo(|name| std::env::var_os(name))?,
            None => None,
        };
        if let Some(account) = account.as_ref().filter(|account| account.uid() != geteuid()) {
            may_become(account)?;
        }
        let netns = args.netns.as_deref().map(NamedNetns::open).transpose()?;
        Ok(Self { account, netns, original })
    }

    /// Starts the command in a cgroup, with the limit of open files that weir was started with and
    /// the path of its control socket.
    pub(super) fn start(
        self,
        command: &[OsString],
        cgroup: &Transient,
        limit: Option<(u64, u64)>,
        control: &Path,
    ) -> Result<Child, LaunchError> {
        let Self { account, netns, original } = self;
        let before = LaunchError::Before;
        let is_another = account.as_ref().is_some_and(|account| account.uid() != geteuid());
        let (program, rest) = command.split_first().context("no command given").map_err(before)?;
        let mut command = std::process::Command::new(program);
        command.args(rest).env(CONTROL_VARIABLE, control);
        for (name, value) in account.iter().flat_map(Account::environment) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        cgroup.enter(&mut command).map_err(|error| before(error.into()))?;
        // SAFETY: between fork and exec only bare system calls are made.
        unsafe {
            command.pre_exec(move || {
                if let Some((soft, hard)) = limit {
                    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
                }
                // The last step: what comes before it needs weir's privileges.
                Ok(account.as_ref().map_or(Ok(()), Account::assume)?)
            });
        }
        let (mut command, runtime) = (Command::from(command), Handle::current());
        let spawn = move || {
            if is_another {
                // Those that root has go by themselves with its number; these would stay
                // (capabilities(7)).
                let cleared = caps::clear(None, CapSet::Ambient);
                cleared.context("cannot clear ambient capabilities").map_err(before)?;
            }
            // What the thread enters, its child is in.
            netns
                .as_ref()
                .map_or(Ok(()), NamedNetns::enter)
                .map_err(|error| before(error.into()))?;
            let _reaped_by = runtime.enter();
            command.spawn().map_err(LaunchError::Program)
        };
        original.run(spawn).map_err(|error| before(error.into()))?
    }
}

// === helpers ===

/// Whether weir may make a process another user's.
fn may_become(account: &Account) -> Result<()> {
    for capability in [Capability::CAP_SETUID, Capability::CAP_SETGID] {
        if !caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false) {
            let uid = account.uid();
            let problem =
                format!("cannot run the command as user {uid} without {capability}; run as root");
            return Err(with_exit(anyhow::anyhow!(problem), Exit::Requirement));
        }
    }
    Ok(())
}

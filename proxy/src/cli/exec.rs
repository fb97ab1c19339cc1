//! `weir exec`: one command in a cgroup of its own, captured from its first connection on.

mod instead;
mod launch;
mod report;

use std::{
    io::IsTerminal as _, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    instead::Instead,
    launch::{Launch, LaunchError},
    report::Report,
};
use super::{Exit, capture_args::ExecArgs};
use crate::{
    admin::control::{BoundSocket, Reader},
    config::Config,
    daemon::{self, Daemon, SessionOptions},
    host::{
        Account,
        cgroup::{self, Transient},
    },
    workloads::Ending,
};

/// As shells have it: found but not executable, and not found.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Signals that are passed on to the command.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

pub(super) fn run(args: &ExecArgs) -> Result<Exit> {
    let mut config = args.config()?;
    let pid = std::process::id();
    let launch = Launch::new(args)?;
    let report = Report::open(args, launch.account.as_ref())?;
    cgroup::reveal()?;
    let control = open_control(args, &mut config, launch.account.as_ref())?;
    let deadline = config.process.drain.deadline;
    let name = format!("weir-exec-{pid}");
    let mut paths = vec![cgroup::own()?.join(&name)];
    if args.capture.has("control") {
        paths.push(control.path().to_owned());
    }
    daemon::reduce_privileges(&config.process, paths, true)?;
    let log = daemon::start_log(&config, report.log_target())?;
    let limit = daemon::raise_file_limit();
    daemon::runtime()?.block_on(async {
        // From here on a signal waits for the command, instead of leaving the cgroup behind.
        let mut signals = signals()?;
        let cgroup = Transient::create(&name)?;
        config.own.workload.cgroup = Some(cgroup.path().into());
        let netns = launch.netns.as_ref().map(|netns| netns.path().to_owned());
        config.own.workload.netns = Some(netns.unwrap_or_else(|| "/proc/self/ns/net".into()));
        let path = control.path().to_owned();
        let options = SessionOptions {
            own: Some(config.own.clone()),
            instance: None,
            upgrade: false,
            node: None,
            node_name: None,
            linger: false,
            control: Some(control),
            observers: report.observers(args),
        };
        let daemon = Daemon::start(config, log, options).await?;
        let status = match launch.start(&args.command, &cgroup, limit, &path) {
            Ok(mut child) => wait(&mut child, &mut signals).await,
            Err(error) => {
                cgroup.release();
                daemon.finish(Duration::ZERO, Ending::Stop).await;
                return refused(args, error);
            }
        };
        let instead = Instead::look(cgroup.path());
        cgroup.release();
        let summary = daemon.finish(deadline, Ending::Stop).await;
        let code = code(status.context("cannot wait for the command")?);
        report.finish(args, &summary.stats, &instead.text(&summary.decisions), code)
    })
}

/// The session's control socket: of its own, unless a path was asked for.
fn open_control(
    args: &ExecArgs,
    config: &mut Config,
    account: Option<&Account>,
) -> Result<BoundSocket> {
    let path = &mut config.process.admin.control_socket;
    if args.capture.has("control") {
        *path = std::path::absolute(&*path).context("cannot tell the current directory")?;
        return Ok(BoundSocket::open(path)?);
    }
    let reader = account.map(|it| Reader { uid: it.uid().as_raw(), gid: it.gid().as_raw() });
    let bound = BoundSocket::of_session(std::process::id(), reader)?;
    bound.path().clone_into(path);
    Ok(bound)
}

/// Every signal to be passed on, from one channel.
fn signals() -> Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(16);
    for forwarded in FORWARDED {
        let mut stream = signal(SignalKind::from_raw(forwarded as i32))
            .with_context(|| format!("cannot handle {forwarded}"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(forwarded).await.is_ok() {}
        });
    }
    Ok(receiver)
}

async fn wait(
    child: &mut Child,
    signals: &mut mpsc::Receiver<Signal>,
) -> std::io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            Some(signal) = signals.recv() => {
                // Ctrl-C reaches the whole foreground process group, the command among it.
                let from_terminal = matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
                    && is_foreground();
                if let (false, Some(pid)) = (from_terminal, child.id()) {
                    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
                }
            }
        }
    }
}

fn is_foreground() -> bool {
    let stdin = std::io::stdin();
    stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp())
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

fn refused(args: &ExecArgs, error: LaunchError) -> Result<Exit> {
    let program =
        args.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let error = match error {
        LaunchError::Program(error) => error,
        LaunchError::Before(error) => return Err(error),
    };
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        std::io::ErrorKind::PermissionDenied => NOT_EXECUTABLE,
        _ => return Err(anyhow::Error::new(error).context(format!("cannot run {program:?}"))),
    };
    anstream::eprintln!("weir: cannot run {program:?}: {error}; check the command's name and PATH");
    Ok(Exit::Command(code))
}

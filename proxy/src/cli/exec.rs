//! `weir exec`: one command in a cgroup of its own, captured from its first connection on.

use std::{
    io::{IsTerminal, Write as _},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{Exit, capture_args::ExecArgs, output::Format};
use crate::{
    daemon::{self, Daemon, SessionOptions},
    host::cgroup::{self, Transient},
    json,
    privileges::Original,
    telemetry::stats::StatsSnapshot,
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
    if !args.capture.has("control") {
        // Several commands may run at a time: the second one takes a socket of its own.
        config.process.admin.control_socket = daemon::free_control_socket(
            config.process.admin.control_socket,
            &format!("exec-{pid}.sock"),
        );
    }
    let deadline = config.process.drain.deadline;
    // The command is to have what weir was started with; weir itself needs less.
    let original = Original::keep().context("cannot start a thread")?;
    let name = format!("weir-exec-{pid}");
    daemon::reduce_privileges(&config.process, vec![cgroup::own()?.join(&name)], true)?;
    let log = daemon::start_log(&config)?;
    let limit = daemon::raise_file_limit();
    daemon::runtime()?.block_on(async {
        // From here on a signal waits for the command, instead of leaving the cgroup behind.
        let mut signals = signals()?;
        let cgroup = Transient::create(&name)?;
        config.own.workload.cgroup = Some(cgroup.path().into());
        config.own.workload.netns = Some("/proc/self/ns/net".into());
        let options = SessionOptions {
            own: Some(config.own.clone()),
            instance: None,
            upgrade: false,
            node: None,
            node_name: None,
            linger: false,
        };
        let daemon = Daemon::start(config, log, options).await?;
        let status = match spawn(args, &cgroup, limit, original) {
            Ok(mut child) => wait(&mut child, &mut signals).await,
            Err(error) => {
                cgroup.release();
                daemon.finish(Duration::ZERO, Ending::Stop).await;
                return refused(args, error);
            }
        };
        cgroup.release();
        let summary = daemon.finish(deadline, Ending::Stop).await;
        if !args.quiet {
            report(args, &summary.stats)?;
        }
        Ok(Exit::Command(code(status.context("cannot wait for the command")?)))
    })
}

fn spawn(
    args: &ExecArgs,
    cgroup: &Transient,
    limit: Option<(u64, u64)>,
    original: Original,
) -> Result<Child> {
    let (program, rest) = args.command.split_first().context("no command given")?;
    let mut command = std::process::Command::new(program);
    command.args(rest);
    cgroup.enter(&mut command)?;
    let mut command = Command::from(command);
    if let Some((soft, hard)) = limit {
        // SAFETY: setrlimit(2) is async-signal-safe in practice: a bare system call.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Into::into)
            });
        }
    }
    let runtime = Handle::current();
    Ok(original.run(move || {
        let _reaped_by = runtime.enter();
        command.spawn()
    })??)
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

fn refused(args: &ExecArgs, error: anyhow::Error) -> Result<Exit> {
    let program =
        args.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let code = match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => NOT_FOUND,
        Some(std::io::ErrorKind::PermissionDenied) => NOT_EXECUTABLE,
        _ => return Err(error.context(format!("cannot run {program:?}"))),
    };
    anstream::eprintln!("weir: cannot run {program:?}: {error}; check the command's name and PATH");
    Ok(Exit::Command(code))
}

/// Goes to standard error: standard output is the command's. Where the terminal is gone, no one
/// reads it.
fn report(args: &ExecArgs, stats: &StatsSnapshot) -> Result<()> {
    let text = match (args.output, stats.table()) {
        (Format::Json, _) => json::to_string(stats)?,
        (Format::Table, Some(table)) => format!("\n{table}"),
        (Format::Table, None) => "\nweir: no connections".to_owned(),
    };
    let _ = writeln!(anstream::stderr(), "{text}");
    Ok(())
}

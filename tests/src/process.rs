//! Processes of a test: started in a process group of their own with their output in a file, waited
//! for by condition and deadline, killed on drop.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::netns::Netns;

/// How long a server may take until it listens. MariaDB on a busy two-core machine is the slowest.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A running process; killed on drop, with its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout; not-UTF-8 is replaced.
    pub stdout: String,
    /// What it wrote to stderr; not-UTF-8 is replaced.
    pub stderr: String,
    /// Wall-clock time it took.
    pub took: Duration,
}

// === impl Process ===

impl Process {
    /// Starts a command; stdout and stderr go to `DIR/NAME.log`.
    ///
    /// # Errors
    ///
    /// Fails when the command cannot be started.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Starts a server and waits until it listens on the port.
    ///
    /// # Errors
    ///
    /// Fails with the server's log when it dies or does not listen in time.
    pub fn serve(name: &str, command: Command, dir: &Path, at: (&Netns, u16)) -> Result<Self> {
        let (netns, port) = at;
        let mut server = Self::start(name, command, dir)?;
        let what = format!("{name} to listen on port {port}");
        wait_until(&what, START_LIMIT, || {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            netns.listens(port)
        })
        .with_context(|| format!("log of {name}:\n{}", server.log()))?;
        Ok(server)
    }

    /// Process id; the commands of this harness `exec`, so it is the program's own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails when it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.group(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not answer for this child.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    ///
    /// Fails when it does not in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut ended = None;
        let child = &mut self.child;
        wait_until(&format!("{} to end", self.name), limit, || {
            ended = child.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.context("the wait ended without a status")
    }

    /// `kill -9`, and waits until the kernel has closed everything that it had open.
    ///
    /// # Errors
    ///
    /// Fails when it was gone already.
    pub fn kill_hard(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(30)).map(drop)
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = killpg(self.group(), Signal::SIGKILL);
        let _reaped_already = self.child.wait();
    }
}

// === impl Finished ===

impl Finished {
    /// Exit code as a shell shows it: 128 and the signal's number for a killed command.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// The command must have succeeded; its output is the error otherwise.
    ///
    /// # Errors
    ///
    /// Fails when the exit code is not 0.
    pub fn ok(self) -> Result<Self> {
        if !self.status.success() {
            bail!(
                "exit code {}\n--- stdout\n{}\n--- stderr\n{}",
                self.code(),
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

/// Runs a command to its end; kills its process group when it takes longer than the limit.
///
/// # Errors
///
/// Fails when it cannot be started or takes too long; its exit code is not judged.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    // Files, not pipes: a grandchild that holds a pipe open cannot make us wait.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let begin = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut process = Process { name: format!("{command:?}"), child, log: PathBuf::new() };
    let status = process.wait(limit);
    let took = begin.elapsed();
    drop(process);
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    let status = status.with_context(|| format!("--- stdout\n{stdout}\n--- stderr\n{stderr}"))?;
    Ok(Finished { status, stdout, stderr, took })
}

/// A limit on the machine that the tests run on: `WEIR_TEST_PATIENCE` times as long as on one that
/// runs at its own speed. `cargo xtask vm` sets it, for emulated processors.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let factor = std::env::var("WEIR_TEST_PATIENCE").unwrap_or_else(|_| "1".into());
        factor.parse().expect("WEIR_TEST_PATIENCE is a whole number")
    });
    limit * *FACTOR
}

/// Waits for a condition, looking every few milliseconds.
///
/// # Errors
///
/// Fails when the condition does, or is not met before the limit, which is stretched by
/// [`patience`].
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lowers the limit of a running process's descriptors to what it has and `room` more. Returns the
/// limit: what counts is the highest number of a descriptor, not how many there are (getrlimit(2)).
///
/// # Errors
///
/// Fails when the process is gone.
pub fn limit_descriptors(pid: u32, room: usize) -> Result<usize> {
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<usize>().ok());
    let gaps_and_all = numbers.max().context("no descriptors")? + 1;
    let gaps = gaps_and_all - descriptors(pid)?;
    let limit = gaps_and_all + room.saturating_sub(gaps);
    let flag = format!("--nofile={limit}:{limit}");
    run(Command::new("prlimit").args(["--pid", &pid.to_string(), &flag]), Duration::from_secs(20))?
        .ok()?;
    Ok(limit)
}

/// How many descriptors a process has.
///
/// # Errors
///
/// Fails when the process is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

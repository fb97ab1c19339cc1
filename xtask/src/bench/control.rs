//! A `weir run --standby` being measured, and its control socket, spoken to in its own language
//! (`proxy/src/admin/protocol.rs`). Not through weir's library: xtask builds the BPF object that the
//! library contains.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weir_tests::process::{Process, run as run_command};
use weir_tests::weir::binary;

use super::ground::Place;

/// How long anything may take that is measured.
const LIMIT: Duration = Duration::from_secs(120);

/// A weir that serves workloads.
pub(super) struct Weir {
    process: Process,
    control: PathBuf,
}

// === impl Weir ===

impl Weir {
    /// Starts it, and waits until it captures as many workloads as it should remember. Returns how
    /// long that took from before fork(2) on.
    ///
    /// # Errors
    ///
    /// Fails with its log when it ends, or captures others.
    pub(super) fn start(instance: &str, dir: &Path, remembered: usize) -> Result<(Self, Duration)> {
        Self::start_with(instance, dir, remembered, &[])
    }

    /// The same with more flags.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub(super) fn start_with(
        instance: &str,
        dir: &Path,
        remembered: usize,
        flags: &[String],
    ) -> Result<(Self, Duration)> {
        let control = dir.join("weir.sock");
        let mut command = Command::new(binary()?);
        command.args(["run", "--standby", "--instance", instance, "--control"]).arg(&control);
        command.args(flags);
        let begin = Instant::now();
        let process = Process::start("weir", command, dir)?;
        let mut weir = Self { process, control };
        let captured = weir.wait_ready();
        let took = begin.elapsed();
        let captured = captured.with_context(|| format!("log of weir:\n{}", weir.process.log()))?;
        ensure!(
            captured == remembered,
            "weir captures {captured} workloads instead of {remembered}; its log:\n{}",
            weir.process.log()
        );
        Ok((weir, took))
    }

    /// How many workloads it captures, once it answers.
    fn wait_ready(&mut self) -> Result<usize> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(&self.control) {
                Ok(stream) => return captured(stream),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(error).context("cannot reach the control socket"),
            }
            ensure!(self.process.running()?, "weir ended");
            ensure!(Instant::now() < deadline, "weir did not get ready");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Adds a workload. Returns how long that took, from connect(2) to the answer.
    ///
    /// # Errors
    ///
    /// Fails when weir refuses.
    pub(super) fn add(&self, place: &Place) -> Result<Duration> {
        let request = json!({"workload_add": {"workload": {
            "name": place.name, "cgroup": place.cgroup.path(), "netns": place.netns.path(),
        }}});
        let begin = Instant::now();
        let answer = self.ask(&request)?;
        let took = begin.elapsed();
        let hooks = answer["added"]["hooks"].as_array().map_or(0, Vec::len);
        ensure!(hooks > 0, "{} has no hooks: {answer}", place.name);
        Ok(took)
    }

    /// Removes a workload. Returns how long the answer took; weir lets go of it afterwards.
    ///
    /// # Errors
    ///
    /// Fails when weir refuses.
    pub(super) fn remove(&self, place: &Place) -> Result<Duration> {
        let begin = Instant::now();
        self.ask(&json!({"workload_remove": {"name": place.name}}))?;
        Ok(begin.elapsed())
    }

    /// How many connections of a workload were proxied so far and have ended.
    ///
    /// # Errors
    ///
    /// Fails when weir does not answer.
    pub(super) fn proxied(&self, workload: &str) -> Result<u64> {
        let answer = self.ask(&json!("stat"))?;
        let rows = answer["stat"]["rows"].as_array().context("no rows in stat")?;
        let mine = rows.iter().filter(|row| row["workload"] == workload);
        Ok(mine.filter_map(|row| row["connections"].as_u64()).sum())
    }

    /// Ends it as an operator would. Returns how long that took.
    ///
    /// # Errors
    ///
    /// Fails when it does not end, or not well.
    pub(super) fn stop(mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.process.signal(Signal::SIGTERM)?;
        while self.process.running()? {
            ensure!(begin.elapsed() < LIMIT, "weir did not end; its log:\n{}", self.process.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = begin.elapsed();
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "weir ended with {status}; its log:\n{}", self.process.log());
        Ok(took)
    }

    /// `kill -9`.
    ///
    /// # Errors
    ///
    /// Fails when it was gone already.
    pub(super) fn kill(mut self) -> Result<()> {
        self.process.kill_hard()
    }

    fn ask(&self, command: &Value) -> Result<Value> {
        let stream = UnixStream::connect(&self.control).context("cannot reach weir")?;
        exchange(stream, command)
            .with_context(|| format!("{command}; log of weir:\n{}", self.process.log()))
    }
}

/// `weir detach` of a killed weir's instance. Returns how long the command took.
///
/// # Errors
///
/// Fails when the command does.
pub(super) fn detach(instance: &str) -> Result<Duration> {
    let mut command = Command::new(binary()?);
    let begin = Instant::now();
    run_command(command.args(["detach", "--instance", instance]), LIMIT)?.ok()?;
    Ok(begin.elapsed())
}

/// How many workloads the weir at the other end captures.
///
/// # Errors
///
/// Fails when it does not answer.
pub(super) fn captured(stream: UnixStream) -> Result<usize> {
    let answer = exchange(stream, &json!("workload_list"))?;
    let list = answer["workloads"].as_array().context("no list of workloads")?;
    Ok(list.iter().filter(|it| it["phase"] == "capturing").count())
}

// === helpers ===

/// One request, one answer.
fn exchange(mut stream: UnixStream, command: &Value) -> Result<Value> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = json!({"version": 1, "command": command}).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let mut answer: Value = serde_json::from_str(&answer).context("answer not understood")?;
    match answer.get_mut("ok") {
        Some(ok) => Ok(ok.take()),
        None => bail!("weir refused: {answer}"),
    }
}

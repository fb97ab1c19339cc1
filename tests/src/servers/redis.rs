//! Redis: the client speaks first, and what it says is not HTTP.

use anyhow::Result;

use crate::Lab;
use crate::process::Process;

/// Not 6379, so that nothing declares it.
pub const PORT: u16 = 6390;

/// Starts it in the lab's server namespace, without persistence.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let mut command = lab.server.command("redis-server");
    command.args(["--port", &PORT.to_string(), "--bind", "*", "-::*", "--protected-mode", "no"]);
    command.args(["--save", "", "--dir"]).arg(lab.dir());
    Process::serve("redis", command, lab.dir(), (&lab.server, PORT))
}

/// The client's command line.
#[must_use]
pub fn client(host: &str, words: &[&str]) -> Vec<String> {
    let port = PORT.to_string();
    let line = ["redis-cli", "-h", host, "-p", &port];
    line.into_iter().chain(words.iter().copied()).map(str::to_owned).collect()
}

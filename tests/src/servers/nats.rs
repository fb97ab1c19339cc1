//! NATS: speaks first, and Linkerd's documentation wants it configured by hand.

use anyhow::Result;

use crate::Lab;
use crate::process::Process;

/// NATS' own port: no list of weir names it.
pub const PORT: u16 = 4222;

/// Starts it in the lab's server namespace. The client is the fixture `nats_client.py`.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let mut command = lab.server.command("nats-server");
    command.args(["--addr", "0.0.0.0", "--port", &PORT.to_string()]);
    Process::serve("nats", command, lab.dir(), (&lab.server, PORT))
}

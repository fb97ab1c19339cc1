//! A WebSocket echo service (Python's websockets): HTTP/1 until the upgrade, bytes from there on.

use std::ffi::OsString;

use anyhow::Result;

use crate::Lab;
use crate::fixture;
use crate::process::Process;

/// Its port.
pub const PORT: u16 = 8765;

/// Starts the fixture `websocket_server.py` in the lab's server namespace.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let mut command = fixture::command(&lab.server, "websocket_server.py");
    command.arg(PORT.to_string());
    Process::serve("websocket", command, lab.dir(), (&lab.server, PORT))
}

/// The command line of a client that sends this many messages and wants them back.
#[must_use]
pub fn client(host: &str, messages: u32) -> Vec<OsString> {
    let script = fixture::path("websocket_client.py");
    let url = format!("ws://{host}:{PORT}/chat");
    let count = messages.to_string();
    vec![fixture::PYTHON.into(), "-B".into(), script.into(), url.into(), count.into()]
}

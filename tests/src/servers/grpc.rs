//! A gRPC service (grpcio's C core behind Python): unary, both kinds of streaming, errors.

use std::ffi::OsString;

use anyhow::Result;

use crate::Lab;
use crate::fixture;
use crate::process::Process;

/// Its port.
pub const PORT: u16 = 50_051;

/// Starts the fixture `grpc_server.py` in the lab's server namespace.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let mut command = fixture::command(&lab.server, "grpc_server.py");
    command.arg(PORT.to_string());
    Process::serve("grpc", command, lab.dir(), (&lab.server, PORT))
}

/// The client's command line for one kind of call: `unary`, `download`, `upload`, `chat`, `fail`,
/// `cancel`, `deadline`, `together`, or `all` for the first five.
#[must_use]
pub fn client(host: &str, kind: &str) -> Vec<OsString> {
    let script = fixture::path("grpc_client.py");
    let target = format!("{host}:{PORT}");
    vec![fixture::PYTHON.into(), "-B".into(), script.into(), target.into(), kind.into()]
}

//! nghttpd, the reference server of HTTP/2 without TLS, and its clients.

use anyhow::Result;

use crate::Lab;
use crate::process::Process;

/// Its port.
pub const PORT: u16 = 8090;

/// Starts it in the lab's server namespace: `/hello.txt`, trailers on every response, and uploads are
/// echoed.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let root = lab.subdir("nghttpd")?;
    std::fs::write(root.join("hello.txt"), "hello from nghttpd\n")?;
    let mut command = lab.server.command("nghttpd");
    command.args(["--no-tls", "--echo-upload", "--trailer", "x-checksum: 42", "-d"]).arg(root);
    command.arg(PORT.to_string());
    Process::serve("nghttpd", command, lab.dir(), (&lab.server, PORT))
}

//! OpenSMTPD: speaks first; the first words of its client (`EHLO name`) look a little like HTTP.

use anyhow::Result;

use super::write;
use crate::Lab;
use crate::process::Process;

/// Not 25 or 587, so that nothing declares it.
pub const PORT: u16 = 2525;

/// Starts it in the lab's server namespace. It accepts mail for anyone and keeps it in its queue.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    // Queue only: a relay to a host that has no route is never delivered and never lost.
    let config = format!(
        "queue ttl 1h\nlisten on 0.0.0.0 port {PORT} hostname mail.test\n\
         action hold relay host smtp://192.0.2.1\nmatch from any for any action hold\n"
    );
    let config = write(lab.dir().join("smtpd.conf"), &config)?;
    // The paths of the queue and of the control socket are compiled in: mount empty ones, seen by
    // this process only. Without /etc/resolv.conf it does not look for the client's name.
    let isolate = "mount -t tmpfs none /var/spool && mount -t tmpfs none /run && \
        mkdir -m 711 /var/spool/smtpd && : > /run/resolv.conf && \
        mount --bind /run/resolv.conf \"$(realpath /etc/resolv.conf)\" && \
        exec smtpd -d -f \"$0\"";
    let mut command = lab.server.command("unshare");
    command.args(["--mount", "sh", "-c", isolate]).arg(config);
    Process::serve("smtpd", command, lab.dir(), (&lab.server, PORT))
}

/// The command line of a client that delivers one mail.
#[must_use]
pub fn client(host: &str) -> Vec<String> {
    let server = format!("{host}:{PORT}");
    let line = ["swaks", "--server", &server, "--from", "a@client.test", "--to", "b@mail.test"];
    let more = ["--ehlo", "client.test", "--body", "hello by mail", "--timeout", "20"];
    line.into_iter().chain(more).map(str::to_owned).collect()
}

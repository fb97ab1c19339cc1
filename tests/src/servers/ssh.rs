//! OpenSSH: both sides speak first.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::write;
use crate::Lab;
use crate::process::{Process, run};

/// Not 22.
pub const PORT: u16 = 2222;

/// Starts it in the lab's server namespace, with keys of its own; root may log in with the lab's key.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let dir = lab.subdir("ssh")?;
    for name in ["host", "client"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name));
        run(&mut keygen, Duration::from_secs(20))?.ok()?;
    }
    let config = format!(
        "Port {PORT}\nHostKey {0}/host\nAuthorizedKeysFile {0}/client.pub\nPidFile none\n\
         PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         StrictModes no\nUsePAM no\nUseDNS no\nSubsystem sftp internal-sftp\n",
        dir.display(),
    );
    let config = write(dir.join("sshd_config"), &config)?;
    // sshd wants /run/sshd, which only its init script makes. A root whose password is locked ('!')
    // may not log in without PAM: show sshd a shadow file in which it is merely unusable ('*').
    let isolate = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && \
        sed 's/^root:[^:]*:/root:*:/' /etc/shadow > /run/shadow && chmod 600 /run/shadow && \
        mount --bind /run/shadow /etc/shadow && exec /usr/sbin/sshd -D -e -f \"$0\"";
    let mut command = lab.server.command("unshare");
    command.args(["--mount", "sh", "-c", isolate]).arg(config);
    Process::serve("sshd", command, lab.dir(), (&lab.server, PORT))
}

/// The client's command line up to the remote command.
#[must_use]
pub fn client(lab: &Lab, host: &str, remote: &str) -> Vec<String> {
    let key = lab.dir().join("ssh/client");
    let mut line = options(&key);
    line.extend(["-p", &PORT.to_string(), &format!("root@{host}"), remote].map(str::to_owned));
    line
}

fn options(key: &Path) -> Vec<String> {
    let key = key.display().to_string();
    let line = ["ssh", "-F", "none", "-i", &key, "-o", "BatchMode=yes"];
    let trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    line.into_iter().chain(trust).chain(["-o", "LogLevel=ERROR"]).map(str::to_owned).collect()
}

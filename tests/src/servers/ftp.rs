//! vsftpd: speaks first; data connections in both directions, to ports that are not known
//! beforehand.

use anyhow::Result;

use super::write;
use crate::Lab;
use crate::process::Process;

/// Not 21.
pub const PORT: u16 = 2121;
/// The ports of passive data connections.
pub const PASSIVE: std::ops::RangeInclusive<u16> = 30_000..=30_020;

/// Starts it in the lab's server namespace, for anonymous download of `data.bin` with these bytes.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab, data: &[u8]) -> Result<Process> {
    let (root, empty) = (lab.subdir("ftp")?, lab.subdir("ftp-empty")?);
    std::fs::write(root.join("data.bin"), data)?;
    let config = format!(
        "listen=YES\nlisten_port={PORT}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         anon_root={}\nsecure_chroot_dir={}\nno_anon_password=YES\nconnect_from_port_20=NO\n\
         pasv_min_port={}\npasv_max_port={}\nseccomp_sandbox=NO\nisolate_network=NO\n\
         xferlog_enable=NO\n",
        root.display(),
        empty.display(),
        PASSIVE.start(),
        PASSIVE.end(),
    );
    let config = write(lab.dir().join("vsftpd.conf"), &config)?;
    let mut command = lab.server.command("vsftpd");
    command.arg(config);
    Process::serve("vsftpd", command, lab.dir(), (&lab.server, PORT))
}

//! PostgreSQL: the client speaks first, in binary; its server refuses to run as root.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::give;
use crate::Lab;
use crate::process::{Process, run, wait_until};
use crate::site::PATIENCE;

/// Not 5432, so that nothing declares it.
pub const PORT: u16 = 15432;

/// Starts a new cluster in the lab's server namespace; anyone may log in as `postgres`.
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab) -> Result<Process> {
    let dir = lab.subdir("postgres")?;
    give(&dir, "postgres")?;
    let (bin, data) = (programs()?, dir.join("data"));
    let mut initdb = lab.server.command_as("postgres", bin.join("initdb"))?;
    initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--locale=C"]);
    initdb.args(["--encoding=UTF8", "-D"]).arg(&data);
    run(&mut initdb, Duration::from_secs(60))?.ok().context("cannot make a cluster")?;
    let rules = "host all all all trust\n";
    std::fs::write(data.join("pg_hba.conf"), rules)?;
    let mut command = lab.server.command_as("postgres", bin.join("postgres"))?;
    command.arg("-D").arg(&data).args(["-p", &PORT.to_string(), "-c", "listen_addresses=*"]);
    command.args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-k"]).arg(&dir);
    let server = Process::serve("postgres", command, lab.dir(), (&lab.server, PORT))?;
    // It listens before it takes connections.
    wait_until("postgres to be ready", PATIENCE, || {
        Ok(server.log().contains("ready to accept connections"))
    })?;
    Ok(server)
}

/// The client's command line for one statement, with bare output.
#[must_use]
pub fn client(host: &str, statement: &str) -> Vec<String> {
    // Without sslmode the client asks for TLS first and the trust above would still let it in; both
    // ways are raw TCP for weir.
    let target = format!("host={host} port={PORT} user=postgres dbname=postgres");
    ["psql", "-X", "-A", "-t", &target, "-c", statement].map(str::to_owned).to_vec()
}

/// Debian keeps the server's programs out of the path, one directory per version; the newest wins.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL server; install the Debian package postgresql")?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .max()
        .context("no initdb below /usr/lib/postgresql; install the Debian package postgresql")
}

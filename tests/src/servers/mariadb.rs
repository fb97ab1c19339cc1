//! MariaDB: speaks first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};

use super::write;
use crate::Lab;
use crate::process::{Finished, Process, run};
use crate::weir::target_dir;

/// Not 3306, so that nothing declares it.
pub const PORT: u16 = 4406;

/// Starts it in the lab's server namespace, on the port, with a user `weir` (password `weir`).
///
/// # Errors
///
/// Fails with its log.
pub fn start(lab: &Lab, port: u16) -> Result<Process> {
    let data = lab.dir().join(format!("mariadb-{port}"));
    let copy = run(Command::new("cp").arg("-r").arg(template()?).arg(&data), LIMIT)?;
    copy.ok().context("cannot copy the empty database")?;
    let sql = "CREATE DATABASE shop;\
        \nCREATE USER 'weir'@'%' IDENTIFIED BY 'weir';\
        \nGRANT ALL ON *.* TO 'weir'@'%';\
        \nCREATE TABLE shop.orders (id INT PRIMARY KEY, item TEXT);\
        \nINSERT INTO shop.orders VALUES (1, 'bolts'), (2, 'nuts'), (3, 'washers');\n";
    let init = write(lab.dir().join(format!("mariadb-{port}.sql")), sql)?;
    let mut command = lab.server.command("/usr/sbin/mariadbd");
    // Memory and syncing at the smallest: a test starts several of these.
    command.args(["--no-defaults", "--user=root", "--skip-name-resolve", "--bind-address=*"]);
    command.args(SMALL).arg("--innodb-flush-method=nosync").arg(format!("--port={port}"));
    command.arg(option("--datadir", &data)).arg(option("--socket", &data.join("socket")));
    command.arg(option("--pid-file", &data.join("pid"))).arg(option("--init-file", &init));
    Process::serve(&format!("mariadb-{port}"), command, lab.dir(), (&lab.server, port))
}

/// The client's command line for one statement, without table borders.
#[must_use]
pub fn client(host: &str, port: u16, statement: &str) -> Vec<String> {
    ["mariadb", "--no-defaults", "-N", "-h", host, "-P", &port.to_string(), "-u", "weir", "-pweir"]
        .into_iter()
        .chain(["-e", statement])
        .map(str::to_owned)
        .collect()
}

/// The client's command line for the question who is connected, asked of the server and of the
/// client's kernel. [`saw_own_port`] reads the output.
#[must_use]
pub fn whoami(host: &str, port: u16) -> Vec<String> {
    let server = "SELECT REPLACE(host, ':', ' ') FROM information_schema.processlist \
         WHERE id = CONNECTION_ID()";
    client(host, port, &format!("{server};\n\\! ss -Htnp state established"))
}

/// Whether the address and port that the server saw are those of the client's own socket, and not
/// of another process in its namespace, such as weir.
///
/// # Errors
///
/// Fails when the output is not that of [`whoami`].
pub fn saw_own_port(output: &str) -> Result<bool> {
    // The client buffers its own output, so that the two answers may come in either order.
    let (server, kernel): (Vec<&str>, Vec<&str>) =
        output.lines().partition(|line| line.split_whitespace().count() == 2);
    let server = server.first().context("the server did not say who is connected")?;
    let own = kernel.iter().find(|row| row.contains("\"mariadb\""));
    let own = own.with_context(|| format!("no socket of the client in {kernel:?}"))?;
    Ok(own.contains(&server.replace(' ', ":")))
}

const LIMIT: Duration = Duration::from_secs(60);

const SMALL: [&str; 3] =
    ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M", "--performance-schema=OFF"];

/// An empty database directory, made once per checkout.
fn template() -> Result<PathBuf> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = target_dir().join("weir-tests").join("mariadb");
    if !path.exists() {
        let part = path.with_extension(std::process::id().to_string());
        install(&part)?.ok().context("cannot make an empty database")?;
        // Whole or not at all; losing a race against another process is as good as winning it.
        if std::fs::rename(&part, &path).is_err() {
            std::fs::remove_dir_all(&part)?;
        }
    }
    Ok(path)
}

fn install(data: &Path) -> Result<Finished> {
    std::fs::create_dir_all(data)?;
    let mut command = Command::new("mariadb-install-db");
    command.args(["--no-defaults", "--user=root", "--skip-test-db"]).args(SMALL);
    command.arg("--auth-root-authentication-method=normal").arg(option("--datadir", data));
    run(&mut command, LIMIT)
}

fn option(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

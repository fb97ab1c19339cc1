//! The names of the engines that earlier versions used still choose the same ones, with a warning.

use anyhow::{Result, ensure};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::weir::{Daemon, Exec};

/// With the name to use instead.
const DEPRECATED: [(&str, &str); 2] = [("observe", "passthrough"), ("route", "terminate")];
const WARNING: &str = "deprecated name of an HTTP engine";

/// One line of the log, which has both names.
fn warned(log: &str, deprecated: &str, current: &str) -> Result<()> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(WARNING)).collect();
    let [line] = lines[..] else { anyhow::bail!("no single warning in:\n{log}") };
    ensure!(line.contains(deprecated) && line.contains(current), "{line}");
    Ok(())
}

#[test]
fn a_deprecated_name_in_a_flag_is_accepted_with_one_warning() -> Result<()> {
    let lab = Lab::new()?;
    for (deprecated, current) in DEPRECATED {
        let run = |name| Exec::new(&lab).flags(&["--http-engine", name]).ok(&["true"]);
        warned(&run(deprecated)?.finished.stderr, deprecated, current)?;
        let log = run(current)?.finished.stderr;
        ensure!(!log.contains(WARNING), "{log}");
    }
    Ok(())
}

#[test]
fn a_deprecated_name_in_the_file_is_accepted_with_one_warning() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("engine-name")?);
    for (deprecated, current) in DEPRECATED {
        let file = lab.dir().join("weir.toml");
        std::fs::write(&file, format!("[http]\nengine = \"{deprecated}\"\n"))?;
        let mut daemon = Daemon::start(&lab, &cgroup, &["--config", &file.display().to_string()])?;
        warned(&daemon.process.log(), deprecated, current)?;
        daemon.stop()?;
    }
    Ok(())
}

//! What a compromised workload can do to weir itself: nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weir_tests::fixture;
use weir_tests::left::pins;
use weir_tests::pods::Pods;
use weir_tests::process::run;
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, Run};

/// What only a process of another user is refused; a container's root is kept from these by its
/// mount and PID namespaces.
const BY_USER: [&str; 5] = [
    "connect to the control socket",
    "list the pins",
    "open a pinned map",
    "list weir's descriptors",
    "send weir a signal",
];

/// Not the right to do it is missing but the program: links can only be taken off by who has them.
const DETACH: &str = "take a program off its hook";

/// A daemon that captures pod A, in a directory that everybody may look into: it is not the
/// directory that keeps others out.
fn daemon(pods: &Pods) -> Result<Daemon> {
    fs::set_permissions(pods.dir(), fs::Permissions::from_mode(0o755))?;
    let pod = &pods.pod_a;
    Run::new(&pods.node, pods.dir()).workload("pod-a", pod.cgroup(), Some(&pod.netns)).start()
}

/// The number behind a name in the fdinfo of some descriptor of weir.
fn number(daemon: &Daemon, name: &str) -> Result<String> {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", daemon.process.pid()))?
        .filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    let mut found = infos.filter_map(|info| {
        info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    });
    found.next().with_context(|| format!("weir has no descriptor with {name}"))
}

/// The directory of maps and links: the schema's, in the instance's.
fn schema(daemon: &Daemon) -> Result<PathBuf> {
    let root = pins(daemon.instance())?.into_iter().next().context("nothing is pinned")?;
    let mut entries = fs::read_dir(&root)?.filter_map(|entry| Some(entry.ok()?.path()));
    entries.find(|path| path.is_dir()).context("no schema")
}

/// What the kernel said to each attempt of a process in the pod.
fn attempts(daemon: &Daemon, mut command: Command) -> Result<Vec<(String, String)>> {
    command.arg("-B").arg(fixture::path("attack.py"));
    command.arg(daemon.control()).arg(schema(daemon)?).arg(daemon.process.pid().to_string());
    command.arg(number(daemon, "map_id:")?).arg(number(daemon, "prog_id:")?);
    command.arg(number(daemon, "link_id:")?);
    let said = run(&mut command, PATIENCE)?.ok()?.stdout;
    let lines = said.lines().filter_map(|line| line.split_once(": "));
    let lines: Vec<_> = lines.map(|(what, how)| (what.to_owned(), how.to_owned())).collect();
    ensure!(lines.len() == 12, "twelve attempts expected in:\n{said}");
    Ok(lines)
}

fn is_denied(what: &str, how: &str) -> bool {
    ["EPERM", "EACCES"].contains(&how) || (what == DETACH && ["EINVAL", "ENOENT"].contains(&how))
}

#[test]
fn another_user_in_a_workload_gets_at_nothing_of_weirs() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = daemon(&pods)?;
    let command = pods.pod_a.netns.command_as("nobody", fixture::PYTHON)?;
    for (what, how) in attempts(&daemon, command)? {
        ensure!(is_denied(&what, &how), "{what}: {how}");
    }
    Ok(())
}

/// A container's root: user 0, without capabilities.
#[test]
fn a_root_without_capabilities_gets_neither_at_maps_nor_at_weirs_memory() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = daemon(&pods)?;
    let mut command = pods.pod_a.netns.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", fixture::PYTHON]);
    for (what, how) in attempts(&daemon, command)? {
        if !BY_USER.contains(&&*what) {
            ensure!(is_denied(&what, &how), "{what}: {how}");
        }
    }
    Ok(())
}

/// The attempts are such as succeed where they may.
#[test]
fn the_attempts_succeed_for_root() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = daemon(&pods)?;
    let command = pods.node.command(fixture::PYTHON);
    for (what, how) in attempts(&daemon, command)? {
        let expected = |how: &str| if what == DETACH { how != "ok" } else { how == "ok" };
        ensure!(expected(&how), "{what}: {how}");
    }
    Ok(())
}

#[test]
fn pins_and_control_socket_are_their_owners_alone() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = daemon(&pods)?;
    let root = pins(daemon.instance())?.into_iter().next().context("nothing is pinned")?;
    let mut seen = 0;
    look(&root, &mut seen)?;
    ensure!(seen > 20, "only {seen} pins");
    let control = fs::metadata(daemon.control())?;
    ensure!((control.mode() & 0o777, control.uid()) == (0o600, 0), "{:o}", control.mode());
    Ok(())
}

fn look(path: &Path, seen: &mut usize) -> Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    *seen += 1;
    let others = found.mode() & 0o077;
    ensure!(others == 0 && found.uid() == 0, "{}: mode {:o}", path.display(), found.mode());
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            look(&entry?.path(), seen)?;
        }
    }
    Ok(())
}

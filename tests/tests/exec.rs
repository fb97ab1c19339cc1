//! `weir exec`: as whom and where its command runs, and how the command asks the weir around it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::Lab;
use weir_tests::lab::{CLIENT_V4, SERVER_V4};
use weir_tests::netns::user_named;
use weir_tests::peer::Peer;
use weir_tests::process::{Finished, run};
use weir_tests::record::Records;
use weir_tests::weir::binary;

const LIMIT: Duration = Duration::from_secs(60);
/// An account of every Debian.
const CALLER: &str = "nobody";

/// What a shell says of its user and of the variables that name it.
const WHO: &str = "id -u; id -g; id -G; echo $HOME; echo $USER $LOGNAME; env | grep -c ^SUDO_";

/// `weir exec` as sudo(8) would start it.
fn under_sudo(command: &mut Command) -> Result<()> {
    let user = user_named(CALLER)?;
    command.env("SUDO_UID", user.uid.to_string()).env("SUDO_GID", user.gid.to_string());
    command.env("SUDO_USER", CALLER).env("SUDO_COMMAND", "weir exec").env("HOME", "/root");
    Ok(())
}

/// A copy of the binary that every user can reach. Another process makes it: a child of another test
/// would have it open for writing with us, until it execs.
fn copy(lab: &Lab) -> Result<PathBuf> {
    let copy = lab.dir().join("weir");
    run(Command::new("install").arg(binary()?).arg(&copy), LIMIT)?.ok()?;
    Ok(copy)
}

fn exec(
    arguments: &[impl AsRef<OsStr>],
    change: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<Finished> {
    let mut command = Command::new(binary()?);
    command.arg("exec").args(arguments).env_remove("SUDO_UID");
    change(&mut command)?;
    run(&mut command, LIMIT)
}

/// The exit codes that a script has printed, a line each.
fn codes(seen: &Finished) -> Vec<&str> {
    seen.stdout.lines().filter(|line| line.parse::<u8>().is_ok()).collect()
}

#[test]
fn under_sudo_the_command_is_its_callers_with_the_callers_groups() -> Result<()> {
    let (lab, user) = (Lab::new()?, user_named(CALLER)?);
    // Groups of the caller, without a change of this machine's.
    let groups = lab.dir().join("group");
    let text = fs::read_to_string("/etc/group")?;
    fs::write(&groups, format!("{text}weirt-a:x:64711:{CALLER}\nweirt-b:x:64712:{CALLER}\n"))?;
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" /etc/group; shift; exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&groups);
    let summary = lab.dir().join("summary");
    command.arg(binary()?).args(["exec", "--summary"]).arg(&summary);
    command.args(["--", "sh", "-c", WHO]);
    under_sudo(&mut command)?;
    let seen = run(&mut command, LIMIT)?;
    let owner = fs::metadata(&summary)?.uid();
    ensure!(owner == user.uid.as_raw(), "the summary belongs to {owner}");
    let lines: Vec<_> = seen.stdout.lines().collect();
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    let all = format!("{gid} 64711 64712");
    let home = user.dir.display().to_string();
    let names = format!("{CALLER} {CALLER}");
    let expected = [uid.as_str(), &gid, &all, &home, &names, "0"];
    ensure!(lines == expected, "{lines:?} instead of {expected:?}: {}", seen.stderr);
    Ok(())
}

#[test]
fn a_user_that_is_named_wins_over_the_caller_of_sudo() -> Result<()> {
    let who = |user: &str| -> Result<String> {
        let seen = exec(&["--quiet", "--user", user, "id", "-u"], under_sudo)?.ok()?;
        Ok(seen.stdout.trim().to_owned())
    };
    assert_eq!(who("root")?, "0");
    assert_eq!(who("daemon")?, user_named("daemon")?.uid.to_string());
    assert_eq!(who("64711:64712")?, "64711");
    let seen = exec(&["--quiet", "--user", "64711:64712", "id", "-G"], under_sudo)?.ok()?;
    assert_eq!(seen.stdout.trim(), "64712");
    for (user, words) in [("no-such-user", "no user"), ("64711", "--user 64711:64711")] {
        let seen = exec(&["--user", user, "true"], |_| Ok(()))?;
        assert_eq!(seen.code(), 2, "{}", seen.stderr);
        assert!(seen.stderr.contains(words), "{}", seen.stderr);
    }
    Ok(())
}

/// A command without `--` has its own flags; those of weir come before it.
#[test]
fn what_follows_the_command_is_the_commands() -> Result<()> {
    let echo =
        |arguments: &[&str]| -> Result<String> { Ok(exec(arguments, |_| Ok(()))?.ok()?.stdout) };
    assert_eq!(echo(&["--quiet", "echo", "--quiet", "-x", "--"])?, "--quiet -x --\n");
    assert_eq!(echo(&["--quiet", "--", "echo", "--user"])?, "--user\n");
    let seen = exec(&["--quite", "echo"], |_| Ok(()))?;
    assert_eq!(seen.code(), 2);
    assert!(seen.stderr.contains("--quiet"), "{}", seen.stderr);
    Ok(())
}

/// What the command sees of a namespace: its address, its devices in `/sys`, its resolv.conf; and
/// that it reaches the server there, through weir.
#[test]
fn a_command_is_started_in_a_namespace_by_name_or_path() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let files = Files::of(lab.client.name())?;
    fs::write(files.0.join("resolv.conf"), "# of the namespace\n")?;
    let program = format!(
        "cat /etc/resolv.conf; ls /sys/class/net; ip -4 -br address show eth0; \
         exec bash -c 'cat </dev/tcp/{SERVER_V4}/9000'"
    );
    let path = lab.client.path().display().to_string();
    for netns in [lab.client.name(), &path] {
        let records = lab.dir().join("in-namespace.json");
        let file = records.display().to_string();
        let line = ["--netns", netns, "--record", &file, "--quiet", "sh", "-c", &program];
        let seen = exec(&line, |_| Ok(()))?.ok()?;
        for words in ["# of the namespace", "eth0\n", CLIENT_V4] {
            assert!(seen.stdout.contains(words), "no {words:?}: {}", seen.stdout);
        }
        Records::read(&records)?.assert_treated(9000, "tcp");
        fs::remove_file(&records)?;
    }
    assert!(!fs::read_to_string("/etc/resolv.conf")?.contains("# of the namespace"));
    let seen = exec(&["--netns", "weirt-none", "true"], |_| Ok(()))?;
    assert_eq!(seen.code(), 2, "{}", seen.stderr);
    assert!(seen.stderr.contains("ip netns list"), "{}", seen.stderr);
    Ok(())
}

/// ip-netns(8) mounts a `/sys` without cgroup2.
#[test]
fn it_works_inside_of_ip_netns_exec() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let program =
        format!("grep -c cgroup2 /proc/mounts; exec bash -c 'cat </dev/tcp/{SERVER_V4}/9000'");
    let records = lab.dir().join("inside.json");
    let mut command = Command::new("ip");
    command.env_remove("SUDO_UID").args(["netns", "exec", lab.client.name()]).arg(binary()?);
    command.args(["exec", "--quiet", "--record"]).arg(&records).args(["sh", "-c", &program]);
    let seen = run(&mut command, LIMIT)?.ok()?;
    // What weir mounts is weir's own.
    assert!(seen.stdout.starts_with("0\n"), "{}", seen.stdout);
    Records::read(&records)?.assert_treated(9000, "tcp");
    Ok(())
}

#[test]
fn the_command_asks_its_own_session_and_only_root_changes_it() -> Result<()> {
    let lab = Lab::new()?;
    let weir = copy(&lab)?.display().to_string();
    let script = "echo $WEIR_CONTROL; \"$0\" status -o json; \"$0\" ports skip 4406; echo $?; \
                  \"$0\" log-level; \"$0\" log-level debug; echo $?; \"$0\" stat --control /no/such; \
                  echo $?";
    let ask =
        |user: &str| exec(&["--quiet", "--user", user, "sh", "-c", script, &weir], |_| Ok(()));
    let seen = ask(CALLER)?.ok()?;
    let control = seen.stdout.lines().next().context("no path")?.to_owned();
    assert!(control.starts_with("/run/weir-exec/"), "{control}");
    assert!(seen.stdout.contains("\"phase\": \"capturing\""), "{}", seen.stdout);
    assert_eq!(codes(&seen), ["3", "3", "4"], "{}\n{}", seen.stdout, seen.stderr);
    let uid = user_named(CALLER)?.uid;
    let refusal = format!("user {uid} may ask this weir and not change it");
    assert_eq!(seen.stderr.matches(&refusal).count(), 2, "{}", seen.stderr);
    let seen = ask("root")?.ok()?;
    assert_eq!(codes(&seen), ["0", "0", "4"], "{}\n{}", seen.stdout, seen.stderr);
    assert!(!PathBuf::from(control).exists(), "the socket goes with its session");
    Ok(())
}

/// Two commands at a time, each with its own weir.
#[test]
fn each_session_has_a_socket_of_its_own() -> Result<()> {
    let script = "echo $WEIR_CONTROL; \"$0\" status -o json | grep '\"pid\"'";
    let weir = binary()?.display().to_string();
    let both =
        "\"$0\" exec --quiet sh -c \"$1\" \"$0\" & \"$0\" exec --quiet sh -c \"$1\" \"$0\"; wait";
    let mut command = Command::new("sh");
    command.args(["-c", both, &weir, script]).env_remove("SUDO_UID");
    let seen = run(&mut command, LIMIT)?.ok()?;
    let mut lines: Vec<_> = seen.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}\n{}", seen.stdout, seen.stderr);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 4, "two of each: {lines:?}");
    Ok(())
}

/// The directory with files of a namespace; removed with what is in it.
struct Files(PathBuf);

// === impl Files ===

impl Files {
    fn of(name: &str) -> Result<Self> {
        let path = PathBuf::from("/etc/netns").join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _gone_already = fs::remove_dir_all(&self.0);
        // That of other namespaces stays where it has any.
        let _not_empty = fs::remove_dir("/etc/netns");
    }
}

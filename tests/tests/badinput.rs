//! Wrong input: one clear message, the documented exit code, and nothing changed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::cgroup::{Cgroup, mount_point};
use weir_tests::weir::{Daemon, verb};

/// The input was wrong and nothing was tried.
const USAGE: i32 = 2;
/// There is no weir to ask.
const NOT_RUNNING: i32 = 4;

/// Runs a verb that must be refused with the code and a message that has all the words.
#[track_caller]
fn refused(lab: &Lab, arguments: &[&str], code: i32, words: &[&str]) {
    let cgroups = cgroups();
    let finished = verb(&lab.client, arguments).expect("weir can be started");
    assert_eq!(finished.code(), code, "{arguments:?}: {}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in: {}", finished.stderr);
    }
    assert_eq!(finished.stdout, "", "stdout is for data");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(cgroups, self::cgroups(), "{arguments:?} made a cgroup");
}

/// Cgroups that `weir exec` makes; other tests of this file make none.
fn cgroups() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(mount_point().expect("cgroup2")).expect("readable");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.to_string_lossy().contains("weir-exec")).collect()
}

#[test]
fn port_lists_are_refused_with_the_place_of_the_mistake() -> Result<()> {
    let lab = Lab::new()?;
    for (list, column) in [("25,[4222]", "4"), ("70000", "1"), ("9-1", "1"), ("80,,443", "4")] {
        refused(
            &lab,
            &["exec", "--skip-outbound-ports", list, "--", "true"],
            USAGE,
            &[list, "column", column],
        );
        refused(&lab, &["ports", "skip", list], USAGE, &["column", column]);
    }
    Ok(())
}

#[test]
fn a_config_that_cannot_be_read_is_named() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("config")?);
    let group = cgroup.path().display().to_string();
    let missing = lab.dir().join("missing.toml").display().to_string();
    let words = ["cannot read config", "missing.toml"];
    refused(&lab, &["run", "--cgroup", &group, "--config", &missing], USAGE, &words);
    let directory = lab.dir().display().to_string();
    refused(
        &lab,
        &["run", "--cgroup", &group, "--config", &directory],
        USAGE,
        &["cannot read config"],
    );
    let wrong = lab.dir().join("wrong.toml");
    std::fs::write(&wrong, "[outbound]\nskip_prots = \"80\"\n")?;
    let wrong = wrong.display().to_string();
    refused(
        &lab,
        &["run", "--cgroup", &group, "--config", &wrong],
        USAGE,
        &["line 2", "skip_prots"],
    );
    std::fs::write(&wrong, [0xff, 0xfe, 0x00])?;
    refused(&lab, &["run", "--cgroup", &group, "--config", &wrong], USAGE, &["cannot read config"]);
    Ok(())
}

#[test]
fn a_cgroup_that_does_not_exist_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let control = lab.dir().join("c.sock").display().to_string();
    // One below a cgroup may still come into being, and is waited for.
    let missing = "/no-such-directory/no-such-group";
    let finished = verb(&lab.client, &["run", "--control", &control, "--cgroup", missing])?;
    assert!([1, 2, 3].contains(&finished.code()), "{}", finished.code());
    assert!(finished.stderr.contains(missing), "{}", finished.stderr);
    let plain = lab.dir().display().to_string();
    let finished = verb(&lab.client, &["run", "--control", &control, "--cgroup", &plain])?;
    assert!([1, 2, 3].contains(&finished.code()), "{}", finished.code());
    assert!(finished.stderr.contains("cgroup"), "{}", finished.stderr);
    assert!(!Path::new(&control).exists(), "the control socket was left");
    Ok(())
}

#[test]
fn verbs_without_a_running_weir_say_so() -> Result<()> {
    let lab = Lab::new()?;
    let control = lab.dir().join("nobody.sock").display().to_string();
    for line in [
        &["ports", "list"][..],
        &["ports", "skip", "80"],
        &["explain", "10.0.0.1:80"],
        &["stat"],
        &["status"],
    ] {
        let line = [line, &["--control", &control]].concat();
        refused(&lab, &line, NOT_RUNNING, &["nobody.sock"]);
    }
    refused(
        &lab,
        &["explain", "not an address", "--control", &control],
        USAGE,
        &["not an address"],
    );
    refused(&lab, &["no-such-verb"], USAGE, &["no-such-verb"]);
    Ok(())
}

#[test]
fn garbage_on_the_control_socket_changes_nothing() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("garbage")?);
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    let list = |daemon: &Daemon| daemon.verb(&lab, &["ports", "list", "-o", "json"])?.ok();
    let before = list(&daemon)?.stdout;
    let long = vec![b'x'; 4 << 20];
    let deep = [vec![b'['; 200_000], b"\n".to_vec()].concat();
    let noise: Vec<u8> = (0..100_000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    let wrong = b"{\"ports_set\":{\"ports\":\"9-1\",\"state\":\"skip\"}}\n".to_vec();
    for garbage in [
        b"\n".to_vec(),
        b"{}\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        wrong,
        long,
        deep,
        noise,
    ] {
        let mut stream = UnixStream::connect(daemon.control())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        // Hanging up on it is a fair answer too.
        let _hung_up = stream.write_all(&garbage);
        let _hung_up = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _hung_up = stream.take(1 << 20).read_to_end(&mut answer);
        assert!(answer.len() < 1 << 20, "the answer to garbage is short");
    }
    assert!(daemon.process.running()?, "{}", daemon.process.log());
    assert_eq!(list(&daemon)?.stdout, before);
    Ok(())
}

#[test]
fn the_control_socket_is_for_root_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("mode")?);
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mode = std::fs::metadata(daemon.control())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() -> Result<()> {
    let lab = Lab::new()?;
    // A copy that the user can reach: the target directory may be below /root. Another process makes
    // it: a child of another test would have it open for writing with us, until it execs.
    let copy = lab.dir().join("weir");
    let mut install = std::process::Command::new("install");
    install.arg(weir_tests::weir::binary()?).arg(&copy);
    weir_tests::process::run(&mut install, Duration::from_secs(20))?.ok()?;
    let mut command = lab.client.command_as("nobody", &copy)?;
    command.args(["exec", "--", "true"]);
    let finished = weir_tests::process::run(&mut command, Duration::from_secs(20))?;
    assert!([1, 3].contains(&finished.code()), "{}: {}", finished.code(), finished.stderr);
    let message = finished.stderr.to_lowercase();
    assert!(message.contains("root") || message.contains("cap_"), "{message}");
    Ok(())
}

/// Mistakes that are easy to make, each with what to write instead.
#[test]
fn what_is_written_otherwise_elsewhere_has_a_next_step() -> Result<()> {
    let lab = Lab::new()?;
    for (line, words) in [
        (&["run", "--admin", "localhost:80"][..], "write the address, such as 127.0.0.1:80"),
        (&["run", "--admin", "http://127.0.0.1:80/"], "is a URL"),
        (&["exec", "--admin", "127.0.0.1", "true"], "the port is missing"),
        (&["explain", "http://10.0.0.1:80/a"], "it is a URL; write its host and port alone"),
        (&["tap", "--protocol", "http"], "http1,http2"),
        (&["tap", "--protocol", "tcp,gRPC"], "write http2"),
        (&["tap", "--protocol", "https"], "write tls"),
        (&["exec", "--log-level", "lowd", "true"], "\"lowd\" is not a level"),
        (&["exec", "--record-format", "josn", "true"], "json"),
        (&["ports", "skip", "80", "--for", "forever"], "is not a duration"),
        (&["ports", "skip", "80", "--for", "900ms"], "1s to 720h"),
        (&["ports", "reset"], "--all"),
    ] {
        refused(&lab, line, USAGE, &[words]);
    }
    Ok(())
}

#[test]
fn values_in_the_file_that_are_out_of_range_have_line_and_column() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("range.toml");
    let path = file.display().to_string();
    for (text, words) in [
        ("[detect]\n\n  timeout = \"0s\"\n", &["line 3, column 13", "detect.timeout"][..]),
        ("[forward]\nmax_connections = 0\n", &["line 2, column 19", "from 1 to 10000000"]),
        ("[outbound]\nskip_ports = [80, 443]\n", &["line 2, column 14", "\"80,443,9000-9100\""]),
        ("[outbound]\nskip_ports = 80\n", &["line 2, column 14", "in one text"]),
        ("[outbound]\nskip_cidrs = [\"10.0.0.0/8\"]\n", &["column 14", "in one text"]),
        ("[drain]\ndeadline = 5\n", &["line 2, column 12", "\"500ms\""]),
        ("[drain]\ndeadline = \"1d\"\n", &["line 2, column 12", "(ms, s, m, h)"]),
        ("[admin]\naddress = \"localhost:4191\"\n", &["line 2, column 11", "127.0.0.1:4191"]),
        ("[log]\nlevel = \"lowd\"\n", &["line 2, column 9", "\"lowd\" is not a level"]),
    ] {
        std::fs::write(&file, text)?;
        refused(&lab, &["run", "--config", &path, "--print-config"], USAGE, words);
    }
    Ok(())
}

/// Guards against directories that a mistyped path leaves behind.
#[test]
fn a_mistyped_control_socket_creates_nothing() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("mistyped")?);
    let (group, directory) = (cgroup.path().display().to_string(), lab.dir().join("wier"));
    let control = directory.join("control.sock").display().to_string();
    let words = ["there is no directory", "wier", "--control"];
    refused(&lab, &["exec", "--control", &control, "true"], USAGE, &words);
    refused(&lab, &["run", "--cgroup", &group, "--control", &control], USAGE, &words);
    refused(&lab, &["status", "--control", &control], NOT_RUNNING, &["wier"]);
    assert!(!directory.exists());
    Ok(())
}

#[test]
fn a_cgroup_of_the_first_version_is_told_from_none() -> Result<()> {
    let lab = Lab::new()?;
    // Without one mounted there is none to be named by mistake.
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let first = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup"));
    let Some(point) = first.and_then(|line| line.split(' ').nth(1)) else { return Ok(()) };
    let below = format!("{point}/weirt-none");
    let control = lab.dir().join("first.sock").display().to_string();
    let instance = format!("weirt-{}-first", std::process::id());
    let run = ["run", "--control", &control, "--instance", &instance, "--cgroup"];
    let words = ["version 1", "findmnt -t cgroup2"];
    refused(&lab, &[&run[..], &[point]].concat(), USAGE, &words);
    refused(&lab, &[&run[..], &[&*below]].concat(), USAGE, &[&below]);
    Ok(())
}

#[test]
fn a_workload_below_another_is_refused_with_the_one_to_remove() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("nest")?);
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let below = cgroup.below("below")?;
    let path = below.path().display().to_string();
    let finished = daemon.ask(&["workload", "add", "inner", "--cgroup", &path])?;
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    for words in ["below cgroup", "captured twice", "weir workload remove"] {
        assert!(finished.stderr.contains(words), "no {words:?}: {}", finished.stderr);
    }
    Ok(())
}

/// What another user cannot see is not nothing.
#[test]
fn detach_as_another_user_says_what_is_missing() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("other")?);
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let copy = lab.dir().join("weir");
    let mut install = std::process::Command::new("install");
    install.arg(weir_tests::weir::binary()?).arg(&copy);
    weir_tests::process::run(&mut install, Duration::from_secs(20))?.ok()?;
    for flags in [&["--instance", daemon.instance().name()][..], &["--all"]] {
        let mut command = lab.client.command_as("nobody", &copy)?;
        command.arg("detach").args(flags);
        let finished = weir_tests::process::run(&mut command, Duration::from_secs(20))?;
        assert_eq!(finished.code(), 3, "{}", finished.stderr);
        assert!(finished.stderr.contains("run as root"), "{}", finished.stderr);
    }
    Ok(())
}

#[test]
fn a_log_filter_that_names_no_level_is_refused_by_a_running_weir() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("filter")?);
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let finished = daemon.ask(&["log-level", "lowd"])?;
    assert_eq!(finished.code(), USAGE, "{}", finished.stderr);
    assert!(finished.stderr.contains("is not a level"), "{}", finished.stderr);
    assert_eq!(daemon.ask(&["log-level"])?.ok()?.stdout, "info\n");
    Ok(())
}

//! What `weir exec` leaves for a build that runs it: a summary, an HTTP archive, an exit code.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{Finished, Process, run};
use weir_tests::weir::{Exec, binary};

const LIMIT: Duration = Duration::from_secs(60);
/// Where the server of a test listens, and where none does.
const HTTP: u16 = 8000;
const CLOSED: u16 = 8001;

/// A server of HTTP/1.1 with one file, `/file`.
fn server(lab: &Lab) -> Result<Process> {
    let files = lab.subdir("files")?;
    fs::write(files.join("file"), "content")?;
    let mut command = lab.server.command(PYTHON);
    command.args(["-m", "http.server", &HTTP.to_string(), "--protocol", "HTTP/1.1"]);
    command.args(["--bind", SERVER_V4, "--directory"]).arg(files);
    Process::serve("http", command, lab.dir(), (&lab.server, HTTP))
}

fn exec(lab: &Lab, flags: &[impl AsRef<OsStr>], script: &str) -> Result<Finished> {
    let mut command = lab.client.command(binary()?);
    command.arg("exec").args(flags).args(["--", "sh", "-c", script]).env_remove("SUDO_UID");
    run(&mut command, LIMIT)
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path)?;
    serde_json::from_str(&text).with_context(|| text)
}

fn curl(port: u16, path: &str) -> String {
    format!("curl -sS -o /dev/null -H 'Host: api.example' 'http://{SERVER_V4}:{port}{path}'")
}

#[test]
fn with_a_summary_stderr_is_the_commands() -> Result<()> {
    let lab = Lab::new()?;
    let _server = server(&lab)?;
    let script = format!("{}; echo mine >&2; exit 7", curl(HTTP, "/file"));
    let file = lab.dir().join("summary.json");
    let path = file.display().to_string();
    // What weir logs is in the summary too.
    let flags = ["--summary", &path, "--log-level", "debug", "--fail-if", "requests>0"];
    let seen = exec(&lab, &flags, &script)?;
    assert_eq!((seen.code(), seen.stderr.as_str()), (7, "mine\n"), "the command's code wins");
    let summary = read(&file)?;
    assert_eq!(summary["exit_code"], 7);
    assert_eq!(summary["command"][0], "sh");
    assert_eq!(summary["rows"][0]["requests"], 1, "{summary}");
    assert_eq!(summary["conditions"][0]["holds"], true);
    assert!(summary["log"].as_array().is_some_and(|lines| !lines.is_empty()), "{summary}");

    // Without one it is as ever.
    let seen = exec(&lab, &["-o", "json"], &script)?;
    assert!(seen.stderr.starts_with("mine\n{\"rows\":["), "{}", seen.stderr);

    let text = lab.dir().join("summary.txt");
    let outer = "file=$1; shift; exec \"$@\" 3>\"$file\"";
    let mut command = lab.client.command("sh");
    command.args(["-c", outer, "sh"]).arg(&text).arg(binary()?);
    command.args(["exec", "--summary", "3", "--", "sh", "-c", &curl(HTTP, "/file")]);
    let seen = run(&mut command, LIMIT)?.ok()?;
    assert_eq!(seen.stderr, "");
    let text = fs::read_to_string(text)?;
    assert!(text.contains(&format!("{SERVER_V4}:{HTTP}")), "{text}");

    for (name, words) in [("57", "descriptor 57"), ("/no/such/file", "/no/such/file")] {
        let seen = exec(&lab, &["--summary", name], "echo ran")?;
        assert_ne!(seen.code(), 0);
        assert_eq!(seen.stdout, "", "the command was not started");
        assert!(seen.stderr.contains(words), "{}", seen.stderr);
    }
    Ok(())
}

#[test]
fn requests_are_written_as_an_http_archive() -> Result<()> {
    let lab = Lab::new()?;
    let _server = server(&lab)?;
    let file = lab.dir().join("requests.har");
    let path = file.display().to_string();
    let script = format!("{}; {}", curl(HTTP, "/file?secret=1"), curl(HTTP, "/none"));
    let seen = exec(&lab, &["--har", &path, "--quiet"], &script)?.ok()?;
    assert_eq!(seen.stderr, "");
    let har = read(&file)?;
    assert_eq!(har["log"]["version"], "1.2");
    let entries = har["log"]["entries"].as_array().context("no entries")?;
    let of = |field: &str| -> Vec<&Value> {
        entries.iter().filter_map(|it| it.pointer(field)).collect()
    };
    assert_eq!(of("/request/url"), ["http://api.example/file", "http://api.example/none"]);
    assert_eq!(of("/response/status"), [200, 404]);
    assert_eq!(of("/response/content/size")[0], 7);
    assert_eq!(of("/serverIPAddress"), [SERVER_V4, SERVER_V4]);
    assert_eq!(of("/request/headers/0/value"), ["api.example", "api.example"]);
    for entry in entries {
        let number = |name: &str| entry["timings"][name].as_f64().context(name.to_owned());
        let sum = number("send")? + number("wait")? + number("receive")?;
        let time = entry["time"].as_f64().context("no time")?;
        assert!((sum - time).abs() < 1e-6, "{entry}");
    }
    Ok(())
}

#[test]
fn a_condition_that_holds_has_a_code_of_its_own() -> Result<()> {
    let lab = Lab::new()?;
    let _server = server(&lab)?;
    let (good, refused) = (curl(HTTP, "/file"), curl(CLOSED, "/file"));
    let both = format!("{good}; {refused} 2>/dev/null; true");
    let failing = format!("{refused} 2>/dev/null; exit 3");
    for (condition, script, code) in [
        ("failures>0", &good, 0),
        ("failures>0", &both, 99),
        ("failures>0", &failing, 3),
        ("requests<1", &both, 0),
        ("host(api.example)requests=1", &both, 99),
        ("host(other.example) requests > 0", &both, 0),
        ("p99>1h", &both, 0),
        ("max>0", &both, 99),
    ] {
        let seen = exec(&lab, &["--quiet", "--fail-if", condition], script)?;
        assert_eq!(seen.code(), code, "{condition}: {}", seen.stderr);
        assert_eq!(seen.stderr.contains("--fail-if"), code != 0, "{condition}: {}", seen.stderr);
    }
    let flags = ["--quiet", "--fail-if", "p99>1h", "--fail-if", "connections>1"];
    let seen = exec(&lab, &flags, &both)?;
    assert_eq!(seen.code(), 99);
    assert_eq!(seen.stderr, "weir: --fail-if connections>1: holds: 2\n");
    let seen = exec(&lab, &["--fail-if", "failures>many"], "echo ran")?;
    assert_eq!((seen.code(), seen.stdout.as_str()), (2, ""));
    assert!(seen.stderr.contains("column 10"), "{}", seen.stderr);
    Ok(())
}

/// A file system of a few pages, in a mount namespace that goes with weir.
#[test]
fn records_that_a_full_disk_has_no_room_for_are_reported_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let disk = lab.subdir("disk")?;
    let script = "mount -t tmpfs -o size=8k none \"$0\" && exec \"$@\"";
    let program = format!(
        "import socket\n\
         for _ in range(200): socket.create_connection(('{SERVER_V4}', 9000), 10).recv(99)"
    );
    let mut command = lab.client.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&disk).arg(binary()?);
    command.args(["exec", "--quiet", "--record"]).arg(disk.join("records.json"));
    command.args([PYTHON, "-c", &program]);
    let finished = run(&mut command, LIMIT)?.ok()?;
    for words in ["cannot write access records", "No space left", "lost="] {
        assert!(finished.stderr.contains(words), "no {words:?}: {}", finished.stderr);
    }
    let times = finished.stderr.matches("cannot write access records").count();
    assert_eq!(times, 1, "{}", finished.stderr);
    Ok(())
}

/// Decisions, dials and ends, of captured and of direct connections.
#[test]
fn the_log_at_level_debug_follows_connections() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let program = format!(
        "import socket\n\
         for port in (9000, 9000, 9001):\n\
         \x20   try: socket.create_connection(('{SERVER_V4}', port), 10).recv(99)\n\
         \x20   except OSError: pass"
    );
    let seen = Exec::new(&lab).flags(&["--log-level", "weir=debug"]).python(&program)?;
    let log = seen.finished.stderr;
    for words in [
        "connection captured",
        "upstream connected",
        "protocol decided",
        "connection ended",
        "close=\"finished\"",
        "close=\"connect_failed\"",
        "error=\"ECONNREFUSED\"",
    ] {
        assert!(log.contains(words), "no {words:?}: {log}");
    }
    Ok(())
}

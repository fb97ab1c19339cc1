//! The binary's behaviour on bad input and without a running weir: exit codes and error texts.

#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    io::Write,
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
};

use assert_cmd::cargo::CommandCargoExt;
use socket2::{Domain, SockAddr, Socket, Type};

fn weir(args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("weir").unwrap();
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn expect(args: &[&str], code: i32, stderr_parts: &[&str]) {
    let output = weir(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for part in stderr_parts {
        assert!(stderr.contains(part), "{args:?}: {part:?} is not in {stderr}");
    }
    if code != 0 {
        assert!(output.stdout.is_empty(), "{args:?}: stdout is data only");
    }
}

#[test]
fn bad_port_lists_name_their_column_and_end_with_2() {
    for (list, part) in [
        ("25,[4222]", "column 4: unexpected '['"),
        ("70000", "column 1: 70000 is not a port"),
        ("9-1", "range 9-1 is reversed; write 1-9"),
        ("80,,443", "column 4: empty item"),
        ("80,+443", "'+' is allowed only at the start"),
    ] {
        expect(&["ports", "skip", list], 2, &[part]);
        expect(&["run", "--skip-outbound-ports", list, "--print-config"], 2, &[part]);
        expect(&["exec", "--opaque-ports", list, "--", "true"], 2, &[part]);
    }
    expect(&["ports", "skip", "+80"], 2, &["cannot change ports", "remove the '+'"]);
    expect(&["ports", "skip", ""], 2, &["the list is empty"]);
    expect(&["ports", "skip", "80", "--inbound", "--outbound"], 2, &["cannot be used with"]);
}

#[test]
fn bad_flags_end_with_2() {
    expect(&[], 2, &["Usage"]);
    expect(&["frobnicate"], 2, &["unrecognized subcommand"]);
    expect(&["run", "--detect-timeout", "5", "--print-config"], 2, &["not a duration", "500ms"]);
    expect(&["run", "--skip-cidrs", "10.0.0.1/8"], 2, &["did you mean 10.0.0.0/8"]);
    expect(&["exec"], 2, &["<CMD>"]);
    expect(&["explain", "10.0.0.1"], 2, &["the port is missing"]);
    expect(&["explain", "10.0.0.1:70000"], 2, &["is not a port"]);
    expect(&["explain", "::1"], 2, &["such as 10.1.2.3:3306 or [::1]:80"]);
}

#[test]
fn without_a_running_weir_the_code_is_4() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let path = path.to_str().unwrap();
    for verb in [
        &["status"][..],
        &["stat"],
        &["ports", "list"],
        &["ports", "skip", "80"],
        &["explain", "10.0.0.1:80"],
    ] {
        let parts = ["cannot connect to weir at", path, "Start it with `weir run`"];
        expect(&[verb, &["--control", path]].concat(), 4, &parts);
    }
    // It was never listened at: a child of another test would have a listener open for a while.
    let stale = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    stale.bind(&SockAddr::unix(path).unwrap()).unwrap();
    drop(stale);
    expect(&["status", "--control", path], 4, &["Connection refused"]);
}

#[test]
fn something_else_behind_the_socket_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"", b"{\"version\":1}\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::BufRead::read_until(
                &mut std::io::BufReader::new(&stream),
                b'\n',
                &mut Vec::new(),
            )
            .unwrap();
            stream.write_all(answer).unwrap();
        }
    });
    for _ in 0..3 {
        expect(&["status", "--control", path.to_str().unwrap()], 1, &["invalid response"]);
    }
    server.join().unwrap();
}

#[test]
fn bad_configurations_end_with_2_and_say_where() {
    // The lead's `weir run` loads the configuration first; until it is merged there is no verb
    // that does.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[outbound]\nskip_ports = \"25,[4222]\"\n").unwrap();
    let error = weir::config::Config::load(file.path()).unwrap_err().to_string();
    assert!(error.contains("line 2, column 14") && error.contains("column 4"), "{error}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for args in [&["man"][..], &["completions", "bash"], &["--help"], &["exec", "--help"]] {
        let mut child = Command::cargo_bin("weir")
            .unwrap()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn check_reports_in_both_formats_and_ends_with_its_verdict() {
    let output = weir(&["check", "--no-proof", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ready = report["ready"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if ready { 0 } else { 3 }));
    let output = weir(&["check", "--no-proof"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("kernel") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn help_and_version_end_with_0() {
    for args in [&["--help"][..], &["--version"], &["help", "exec"], &["ports", "skip", "--help"]] {
        assert_eq!(weir(args).status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn deprecated_engine_names_print_as_the_current_ones() {
    for (deprecated, current) in [("observe", "passthrough"), ("route", "terminate")] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("[http]\nengine = \"{deprecated}\"\n")).unwrap();
        let path = file.path().to_str().unwrap();
        for flags in [["--http-engine", deprecated], ["--config", path]] {
            let output = weir(&[&["run", "--print-config"], &flags[..]].concat());
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(printed.contains(&format!("engine = \"{current}\"")), "{flags:?}: {printed}");
        }
    }
    expect(
        &["run", "--http-engine", "tcp"],
        2,
        &["[possible values: passthrough, terminate, tap]"],
    );
}

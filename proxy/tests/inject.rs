//! `weir inject` and `uninject` on the manifests in `inject/`, and with `--sidecar` on those in
//! `inject-sidecar/`. `NAME.in.yml` becomes `NAME.out.yml` with `NAME.report` on stderr, or is refused with `NAME.err`. Injecting twice changes nothing, and
//! uninjecting gives the input back to the byte; where it does not, `NAME.back.yml` says what.
//! `UPDATE_GOLDEN=1` writes what is expected from what is; `*.back.yml` are written by hand.

#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use assert_cmd::cargo::CommandCargoExt;

/// For every input.
const FLAGS: [&str; 2] = ["--skip-outbound-ports=4406", "--opaque-ports=+9000-9100"];
/// For every input of a sidecar.
const SIDECAR: [&str; 4] = ["--sidecar", "--image=registry.example/weir:1", FLAGS[0], FLAGS[1]];

fn folder() -> PathBuf {
    folder_of("inject")
}

fn folder_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn weir(args: &[&str], stdin: &[u8]) -> Output {
    weir_in(&folder(), args, stdin)
}

fn weir_in(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::cargo_bin("weir")
        .unwrap()
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What is refused by its flags does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn succeeds(args: &[&str], stdin: &[u8], what: &str) -> Output {
    let output = weir(args, stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{what}: {stderr}");
    output
}

#[track_caller]
fn same(got: &[u8], wanted: &[u8], what: &str) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(got == wanted, "{what}: got\n{}\nbut wanted\n{}", text(got), text(wanted));
}

#[track_caller]
fn golden(path: &Path, got: &[u8]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, got).unwrap();
    }
    let wanted = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    same(got, &wanted, &path.display().to_string());
}

#[test]
fn manifests_become_what_is_expected_and_themselves_again() {
    let [edited, refused] = all_of("inject", &FLAGS);
    assert!(edited >= 25 && refused >= 15, "{edited} edited, {refused} refused");
}

#[test]
fn sidecars_are_added_as_expected_and_taken_away_again() {
    let [edited, refused] = all_of("inject-sidecar", &SIDECAR);
    assert!(edited >= 18 && refused >= 9, "{edited} edited, {refused} refused");
}

/// Every manifest of a folder; how many were edited, and how many refused.
fn all_of(name: &str, flags: &[&str]) -> [usize; 2] {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let folder = folder_of(name);
    let mut seen = [0, 0];
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".in.yml") else { continue };
        let beside = |suffix: &str| folder.join(format!("{name}.{suffix}"));
        let input = fs::read(beside("in.yml")).unwrap();
        let output = weir_in(&folder, &injection(&file, flags), b"");
        let refused = if update { output.status.code() == Some(2) } else { beside("err").exists() };
        seen[usize::from(refused)] += 1;
        if refused {
            assert_eq!(output.status.code(), Some(2), "{name}");
            assert!(output.stdout.is_empty(), "{name}: nothing is written");
            golden(&beside("err"), &output.stderr);
            continue;
        }
        assert_eq!(
            output.status.code(),
            Some(0),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        golden(&beside("report"), &output.stderr);
        golden(&beside("out.yml"), &output.stdout);
        let again = succeeds(&injection("-", flags), &output.stdout, name);
        same(&again.stdout, &output.stdout, &format!("{name}: injected twice"));
        let back = succeeds(&["uninject", "-"], &output.stdout, name);
        let wanted = fs::read(beside("back.yml")).unwrap_or(input);
        same(&back.stdout, &wanted, &format!("{name}: uninjected"));
    }
    seen
}

fn injection<'a>(file: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["inject", file], flags].concat()
}

/// What the annotations' tests have seen of the world, with the sidecar.
#[test]
fn sidecars_come_and_go_in_the_manifests_of_the_other_folder() {
    let mut seen = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if !name.ends_with(".in.yml") {
            continue;
        }
        let input = fs::read(&path).unwrap();
        let output = weir(&["inject", "-", SIDECAR[0], SIDECAR[1]], &input);
        if output.status.code() == Some(2) {
            assert!(output.stdout.is_empty(), "{name}: nothing is written");
            continue;
        }
        let had_some = String::from_utf8_lossy(&input).contains("weir.dev/");
        if had_some || !String::from_utf8_lossy(&output.stderr).contains("injected") {
            continue;
        }
        seen += 1;
        let again = succeeds(&["inject", "-", SIDECAR[0], SIDECAR[1]], &output.stdout, &name);
        same(&again.stdout, &output.stdout, &format!("{name}: injected twice"));
        let back = succeeds(&["uninject", "-"], &output.stdout, &name);
        // The annotation that a sidecar comes with goes as the others go.
        let wanted = fs::read(name.replace(".in.yml", ".back.yml")).unwrap_or(input);
        same(&back.stdout, &wanted, &format!("{name}: uninjected"));
    }
    assert!(seen >= 25, "{seen}");
}

#[test]
fn another_image_replaces_the_one_that_is_there_and_the_default_does_not() {
    let input = fs::read(folder().join("deployment.in.yml")).unwrap();
    let first = succeeds(&["inject", "-", "--sidecar"], &input, "first");
    let text = String::from_utf8(first.stdout.clone()).unwrap();
    let default = format!("image: localhost/weir:{}\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&default), "{text}");
    let second =
        succeeds(&["inject", "-", "--sidecar", "--image=a/b@sha256:c"], &first.stdout, "2");
    let wanted = text.replace(&default, "image: a/b@sha256:c\n");
    assert_eq!(String::from_utf8(second.stdout.clone()).unwrap(), wanted);
    assert_eq!(second.stderr, b"deployment \"web\" updated\n");
    let third = succeeds(&["inject", "-", "--sidecar"], &second.stdout, "third");
    same(&third.stdout, &second.stdout, "without an image");
    // As weir made it before it wrote the annotation, which an update adds.
    let bare = text.replace("      annotations:\n        weir.dev/inject: sidecar\n", "");
    assert_ne!(bare, text);
    let updated = succeeds(&["inject", "-", "--sidecar"], bare.as_bytes(), "bare");
    assert_eq!(String::from_utf8(updated.stdout).unwrap(), text);
    assert_eq!(updated.stderr, b"deployment \"web\" updated\n");
    let back = succeeds(&["uninject", "-"], bare.as_bytes(), "bare");
    same(&back.stdout, &input, "bare, uninjected");
    // One way of capturing a pod at a time.
    let other = weir(&["inject", "-"], &third.stdout);
    let stderr = String::from_utf8(other.stderr).unwrap();
    assert!(other.status.code() == Some(2) && stderr.contains("has weir's sidecar"), "{stderr}");
}

#[test]
fn other_flags_replace_values_and_leave_the_rest() {
    let input = fs::read(folder().join("deployment.in.yml")).unwrap();
    let first = succeeds(&["inject", "-", "--skip-outbound-ports", "4406"], &input, "first");
    let second =
        succeeds(&["inject", "-", "--skip-outbound-ports=+25,80"], &first.stdout, "second");
    let text = String::from_utf8(second.stdout.clone()).unwrap();
    let wanted = String::from_utf8(first.stdout).unwrap().replace("\"4406\"", "\"+25,80\"");
    assert_eq!(text, wanted);
    assert_eq!(second.stderr, b"deployment \"web\" updated\n");
    let third = succeeds(&["inject", "-"], &second.stdout, "third");
    assert_eq!(third.stdout, second.stdout);
    assert_eq!(third.stderr, b"deployment \"web\" already injected\n");
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    for (args, part) in [
        (&["inject", "-", "--opaque-ports", "80,,443"][..], "column 4: empty item"),
        (&["inject", "-", "--skip-inbound-ports=+"], "the list is empty after '+'"),
        (&["inject", "-", "--skip-outbound-ports", "-5"], "a range needs a port on each side"),
        (&["inject", "-", "--image", "weir:1"], "--sidecar"),
        (&["inject", "-", "--sidecar", "--image", "a b"], "not an image name"),
        (&["inject", "missing.yml"], "cannot read missing.yml"),
        (&["uninject", "missing.yml"], "cannot read missing.yml"),
        (&["uninject", "-"], "cannot uninject stdin: line 1, column 7"),
        (&["inject"], "<FILE>"),
    ] {
        let output = weir(args, b"kind: [\n");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(part), "{args:?}: {stderr}");
    }
}

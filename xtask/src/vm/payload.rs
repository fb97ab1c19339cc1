//! What is tested, on a disk of its own: weir, the test programs, their fixtures, and the list of
//! tests to be run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Artifact, Message, TargetKind};

use super::image::Stage;
use super::output_of;
use super::protocol::Test;
use crate::{ebpf, image, test};

const RUN: &str = include_str!("guest/run.sh");

/// Where the guest finds the BPF object that was built on the host.
const OBJECT: &str = "/payload/weir.o";

/// The compiled test programs, and all tests in them.
pub(super) struct Built {
    programs: Vec<(String, PathBuf)>,
    /// Every test that there is.
    pub(super) tests: Vec<Test>,
    weir: PathBuf,
    load: PathBuf,
    object: Option<PathBuf>,
}

/// How the guest goes about it.
pub(super) struct Manner {
    /// By how much tests wait longer than on a machine that runs at its own speed.
    pub(super) patience: u32,
    /// Seconds that one test may take.
    pub(super) test_limit: u64,
    /// How many tests run at once.
    pub(super) jobs: u32,
}

// === impl Built ===

impl Built {
    /// Builds weir as it is in the image, and the tests.
    ///
    /// # Errors
    ///
    /// Fails when they do not compile.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let weir = image::build(root, image::Parts::All)?;
        let arguments = ["test", test::WORKSPACE, "--no-run", "--message-format=json"];
        let output = test::command(root, &arguments).stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "cargo {} ended with {}",
            arguments.join(" "),
            output.status
        );
        let messages = String::from_utf8_lossy(&output.stdout);
        let programs = programs(&messages, &TargetKind::Test);
        let load = programs_named(&messages, &TargetKind::Bin, "weir-load")?;
        let mut tests = Vec::new();
        for (target, path) in &programs {
            let list = output_of(Command::new(path).args(["--list", "--format", "terse"]))?;
            let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
            tests.extend(names.map(|name| Test { target: target.clone(), name: name.into() }));
        }
        tests.sort();
        ensure!(!tests.is_empty(), "the test programs list no test");
        Ok(Self { programs, tests, weir, load, object: ebpf::fresh_object(root)? })
    }

    /// Makes a disk that runs these tests.
    ///
    /// # Errors
    ///
    /// Fails when a file is missing or the disk cannot be made.
    pub(super) fn disk(&self, image: &Path, tests: &[Test], manner: &Manner) -> Result<()> {
        let cache = image.parent().context("the image lies in the cache")?;
        let stage = Stage::new(cache, "payload")?;
        let place = |path: &Path| -> Result<PathBuf> {
            let inside = stage.path().join(path.strip_prefix("/")?);
            fs::create_dir_all(inside.parent().unwrap_or(&inside))?;
            Ok(inside)
        };
        let fixtures = weir_tests::fixture::path("").components().collect::<PathBuf>();
        fs::create_dir_all(place(&fixtures)?)?;
        for fixture in super::image::glob(&fixtures, "")? {
            fs::copy(&fixture, place(&fixture)?)?;
        }
        let mut lines = String::new();
        for test in tests {
            let mut programs = self.programs.iter();
            let program = programs.find(|(target, _)| *target == test.target);
            let (_, program) = program.with_context(|| format!("no program has {test}"))?;
            lines.push_str(&format!("{} {} {}\n", test.target, program.display(), test.name));
        }
        for program in self.programs.iter().map(|(_, path)| path).chain([&self.weir, &self.load]) {
            // Their lines are of no use in the guest, and most of their size.
            let stripped = place(program)?;
            output_of(Command::new("strip").arg("-g").arg("-o").arg(stripped).arg(program))?;
        }
        let mut environment = format!(
            "WEIR_BIN={}\nWEIR_TEST_PATIENCE={}\nWEIR_VM_TEST_LIMIT={}\nWEIR_VM_JOBS={}\n",
            self.weir.display(),
            manner.patience,
            manner.test_limit,
            manner.jobs
        );
        if let Some(object) = &self.object {
            fs::copy(object, stage.path().join("weir.o"))?;
            environment.push_str(&format!("WEIR_BPF_OBJECT={OBJECT}\n"));
        }
        let mut binds = format!("{}\n", fixtures.display());
        for program in [&self.weir, &self.load] {
            let folder = program.parent().context("a program lies in a folder")?;
            binds.push_str(&format!("{}\n", folder.display()));
        }
        let files = [
            ("binds", binds),
            ("environment", environment),
            ("tests", lines),
            ("run.sh", RUN.into()),
        ];
        for (name, content) in files {
            fs::write(stage.path().join(name), content)?;
        }
        stage.image(image, 16 << 20)
    }
}

// === helpers ===

/// The package of the end-to-end tests.
const PACKAGE: &str = "weir-tests";

/// Name and path of the end-to-end tests' programs of a kind, from cargo's messages.
fn programs(messages: &str, kind: &TargetKind) -> Vec<(String, PathBuf)> {
    let artifacts =
        Message::parse_stream(messages.as_bytes()).filter_map(|message| match message {
            Ok(Message::CompilerArtifact(artifact)) => Some(artifact),
            _ => None,
        });
    let programs = artifacts.filter_map(|artifact| {
        let Artifact { package_id, target, profile, executable, .. } = artifact;
        // A program is also built with a harness around its unit tests.
        let wanted = package_id.repr.contains(&format!("#{PACKAGE}@"))
            && target.kind.contains(kind)
            && (*kind == TargetKind::Test) == profile.test;
        let path = executable.filter(|_| wanted)?;
        Some((target.name, path.into_std_path_buf()))
    });
    programs.collect()
}

fn programs_named(messages: &str, kind: &TargetKind, name: &str) -> Result<PathBuf> {
    match programs(messages, kind).into_iter().find(|(found, _)| found == name) {
        Some((_, path)) => Ok(path),
        None => bail!("cargo has built no {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let of_package = |package: &str, kind: &str, name: &str, test: bool, executable: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"path+file:///w/tests#{package}@0.1.0\",\
                 \"manifest_path\":\"/w/Cargo.toml\",\"target\":{{\"kind\":[\"{kind}\"],\
                 \"crate_types\":[\"bin\"],\"name\":\"{name}\",\"src_path\":\"/w/x.rs\",\
                 \"edition\":\"2024\",\"doc\":false,\"doctest\":false,\"test\":true}},\
                 \"profile\":{{\"opt_level\":\"0\",\"debuginfo\":1,\"debug_assertions\":true,\
                 \"overflow_checks\":true,\"test\":{test}}},\"features\":[],\"filenames\":[],\
                 \"executable\":{executable},\"fresh\":true}}\n"
            )
        };
        let message = |kind: &str, name: &str, test: bool, executable: &str| {
            of_package("weir-tests", kind, name, test, executable)
        };
        let messages = [
            of_package("weir", "test", "cli", true, "\"/t/cli\""),
            message("lib", "weir_tests", true, "\"/t/lib\""),
            message("test", "ports", true, "\"/t/ports\""),
            message("bin", "weir-load", true, "\"/t/unit\""),
            message("bin", "weir-load", false, "\"/t/weir-load\""),
            message("lib", "weir", false, "null"),
            "{\"reason\":\"build-finished\",\"success\":true}\n".into(),
        ]
        .concat();
        assert_eq!(programs(&messages, &TargetKind::Test), [("ports".into(), "/t/ports".into())]);
        assert_eq!(
            programs_named(&messages, &TargetKind::Bin, "weir-load").unwrap(),
            Path::new("/t/weir-load")
        );
        assert!(programs_named(&messages, &TargetKind::Bin, "weir").is_err());
    }
}

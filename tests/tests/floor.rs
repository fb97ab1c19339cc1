//! A kernel that is too old for weir: it says so, and changes nothing. `cargo xtask vm --kernel 5.10`
//! runs these; nothing else can.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::left::{leavings, pins};
use weir_tests::peer::Peer;
use weir_tests::process::{Finished, run, wait_until};
use weir_tests::visits::{Visitor, now};
use weir_tests::weir::{Exec, Instance, Run, verb};

/// The exit code for what the machine lacks.
const REQUIREMENT: i32 = 3;

fn assert_refusal(finished: &Finished) {
    assert_eq!(finished.code(), REQUIREMENT, "{finished:?}");
    let said = &finished.stderr;
    assert!(said.contains("too old") && said.contains("Linux 5.15 or later"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Kernels free programs after a grace period.
fn no_program_of_weir() -> Result<()> {
    wait_until("weir's programs to go", Duration::from_secs(10), || {
        let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
        Ok(!programs.any(|program| program.name_as_str().is_some_and(|n| n.starts_with("weir"))))
    })
}

#[test]
#[ignore = "needs a kernel older than 5.15: cargo xtask vm --kernel 5.10"]
fn check_says_what_is_missing() -> Result<()> {
    let lab = Lab::new()?;
    let finished = verb(&lab.client, &["check", "-o", "json"])?;
    assert_eq!(finished.code(), REQUIREMENT, "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    assert_eq!(report["ready"], false);
    for missing in ["kernel", "netns cookie in sockops"] {
        let findings = report["findings"].as_array().into_iter().flatten();
        let finding = findings.into_iter().find(|finding| finding["name"] == missing);
        let finding = finding.unwrap_or(&serde_json::Value::Null);
        assert_eq!(finding["level"], "fail", "{missing}: {report:#}");
        assert!(finding["hint"].to_string().contains("5.15"), "{missing}: {finding:#}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a kernel older than 5.15: cargo xtask vm --kernel 5.10"]
fn exec_refuses_and_does_not_run_the_command() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("ran");
    let (mut command, _) = Exec::new(&lab).command(&["touch".as_ref(), file.as_os_str()])?;
    let finished = run(&mut command, Duration::from_secs(20))?;
    assert_refusal(&finished);
    ensure!(!file.exists(), "the command ran");
    let group = weir_tests::cgroup::mount_point()?;
    let left = std::fs::read_dir(group)?.filter_map(Result::ok);
    let left: Vec<_> = left
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("weir-exec-"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    no_program_of_weir()
}

#[test]
#[ignore = "needs a kernel older than 5.15: cargo xtask vm --kernel 5.10"]
fn run_refuses_and_connections_go_direct() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("floor")?;
    let instance = Instance::new();
    let run = Run::new(&lab.client, lab.dir()).instance(&instance);
    assert_refusal(&run.workload("client", &cgroup, None).refused()?);
    ensure!(pins(&instance)?.is_empty(), "{:?}", pins(&instance)?);
    let left = leavings(&instance, &[&lab.client, &lab.server])?;
    ensure!(left.is_empty(), "{left:?}");
    no_program_of_weir()?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let from = now()?;
    let visits = Visitor::start(&lab, &cgroup, peer.port(), Duration::from_secs(1))?.finish()?;
    visits.assert_all_direct(from, u64::MAX);
    Ok(())
}

//! `weir check`: can this machine run weir? One line per requirement, a hint for each failure, and
//! at the end a proof: a connection that is really intercepted.

mod bpf;
mod coexistence;
mod kubernetes;
mod network;
mod system;

use std::{fs::File, os::fd::AsFd, path::PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::{Exit, output::OutputArgs, with_exit};
use crate::{
    check::proof::{self, Proof},
    host::cgroup,
};

/// Intercepts one connection of a throw-away workload and says what it saw, in a few words.
/// Takes at most a few seconds and leaves nothing behind.
pub type ProofRun = fn() -> Result<String, ProofFailure>;

/// Why the proof failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFailure {
    /// What happened.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo weir check
  sudo weir check --cgroup /sys/fs/cgroup/system.slice/shop.service --netns /run/netns/shop
  sudo weir check --kubernetes
  weir check -o json | jq -r '.findings[] | select(.level == \"fail\") | .hint'

Exits with 3 if a requirement is missing.")]
pub(super) struct Args {
    /// Do not attach BPF programs for a test connection
    #[arg(long)]
    no_proof: bool,
    /// Cgroup to be captured; lists other programs that process its connections
    /// [default: weir's own]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// File of the network namespace of its processes [default: weir's own]
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Also check for a Kubernetes node: its pods, and other programs that redirect their
    /// connections
    #[arg(long)]
    kubernetes: bool,
    /// Search the cgroups of pods below this one [default: every cgroup2 mount]
    #[arg(long, value_name = "PATH", requires = "kubernetes")]
    cgroup_root: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The name of the last line.
const PROOF: &str = "interception proof";

/// How a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// weir works, with less.
    Warn,
    /// weir does not work.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: String,
    level: Level,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// All lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Report {
    ready: bool,
    findings: Vec<Finding>,
}

pub(super) fn run(args: &Args, proof: Option<ProofRun>) -> anyhow::Result<Exit> {
    let netns = args.netns.clone().unwrap_or_else(|| "/proc/thread-self/ns/net".into());
    let netns = File::open(&netns)
        .with_context(|| format!("cannot open network namespace {}", netns.display()))
        .map_err(|error| with_exit(error, Exit::Usage))?;
    let cgroup = match &args.cgroup {
        Some(path) => cgroup::id(path).map(|_| Some(path.clone()))?,
        // Without one, the line about cgroup2 says so.
        None => cgroup::own().ok(),
    };
    let mut findings = system::findings();
    findings.extend(network::findings(netns.as_fd()));
    findings.extend(bpf::findings());
    findings
        .extend(cgroup.map(|path| coexistence::findings(&path, netns.as_fd())).unwrap_or_default());
    if args.kubernetes {
        if let Some(root) = &args.cgroup_root {
            cgroup::id(root)?;
        }
        findings.extend(kubernetes::findings(args.cgroup_root.as_deref()));
    }
    findings.push(if args.no_proof {
        Finding::warn(PROOF, "skipped (--no-proof)", "run without --no-proof")
    } else if cgroup::is_read_only() {
        untried(&findings)
    } else {
        prove(&findings, proof)
    });
    let report = Report::new(findings);
    args.output.print(&report, text)?;
    Ok(if report.ready { Exit::Success } else { Exit::Requirement })
}

/// The proof: a child's connection in a throw-away cgroup, really captured.
pub(super) fn interception() -> Result<String, ProofFailure> {
    match proof::run() {
        Ok(Proof { asked, captured }) if captured.destination == asked => Ok(format!(
            "a child's connection to {asked} reached the proxy with its original destination"
        )),
        Ok(Proof { asked, captured }) => Err(ProofFailure {
            problem: format!(
                "the child connected to {asked}, but the proxy read {}",
                captured.destination
            ),
            hint: "this is a bug of weir: please report it with `uname -a`".into(),
        }),
        Err(error) => Err(ProofFailure {
            problem: error.to_string(),
            hint: "see the lines above; `weir exec --bpf-log debug` shows the hook's decisions"
                .into(),
        }),
    }
}

/// The proof is only worth its time if nothing else is missing.
fn prove(so_far: &[Finding], proof: Option<ProofRun>) -> Finding {
    let missing = so_far.iter().filter(|finding| finding.level == Level::Fail).count();
    if missing > 0 {
        let detail = format!("skipped: {missing} of the requirements above are not met");
        return Finding::fail(PROOF, detail, "fix those first");
    }
    let Some(proof) = proof else {
        return Finding::warn(
            PROOF,
            "not part of this build",
            "try weir exec -- curl http://example.com/",
        );
    };
    match proof() {
        Ok(detail) => Finding::ok(PROOF, detail),
        Err(ProofFailure { problem, hint }) => Finding::fail(PROOF, problem, hint),
    }
}

/// A container without a cgroup of its own to make is no worse a place for a sidecar, which attaches to
/// the pod's: what the proof is made of has been tried above, piece by piece.
fn untried(so_far: &[Finding]) -> Finding {
    if so_far.iter().any(|finding| finding.level == Level::Fail) {
        return prove(so_far, None);
    }
    Finding::ok(PROOF, "skipped: it needs a new cgroup, and cgroups are read-only here")
}

fn text(report: &Report) -> String {
    let width = report.findings.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { name, level, detail, hint } in &report.findings {
        // `anstream` takes the colours away where they are not seen.
        let mark = match level {
            Level::Ok => "\u{1b}[32m✓\u{1b}[0m",
            Level::Warn => "\u{1b}[33m‼\u{1b}[0m",
            Level::Fail => "\u{1b}[31m×\u{1b}[0m",
        };
        out.push_str(&format!("{mark} {name:<width$}  {detail}\n"));
        if let Some(hint) = hint {
            out.push_str(&format!("  {:<width$}  hint: {hint}\n", ""));
        }
    }
    out.push_str(if report.ready { "weir can run here\n" } else { "weir cannot run here\n" });
    out
}

// === impl Report ===

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        Self { ready: findings.iter().all(|f| f.level != Level::Fail), findings }
    }
}

// === impl Finding ===

impl Finding {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), level: Level::Ok, detail: detail.into(), hint: None }
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, hint: Some(hint.into()), ..Self::ok(name, detail) }
    }

    fn fail(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, hint: Some(hint.into()), ..Self::ok(name, detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(outcome: Result<&str, ()>) -> ProofRun {
        match outcome {
            Ok(_) => || Ok("one connection intercepted".into()),
            Err(()) => || {
                Err(ProofFailure { problem: "it went direct".into(), hint: "send the log".into() })
            },
        }
    }

    #[test]
    fn the_report_reads_well() {
        let mut findings = vec![
            Finding::ok("kernel", "6.18.0"),
            Finding::warn("jit", "off", "sysctl net.core.bpf_jit_enable=1"),
        ];
        findings.push(prove(&findings, Some(proof(Ok("")))));
        let good = Report::new(findings.clone());
        findings.push(Finding::fail("capabilities", "CAP_BPF missing", "run as root"));
        findings.push(prove(&findings, Some(proof(Ok("")))));
        let bad = Report::new(findings);
        let strip = |text: String| anstream::adapter::strip_str(&text).to_string();
        insta::assert_snapshot!(strip(text(&good)) + "\n" + &strip(text(&bad)));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&bad).unwrap());
    }

    #[test]
    fn a_failed_proof_fails_the_check() {
        let finding = prove(&[], Some(proof(Err(()))));
        assert_eq!((finding.level, finding.hint.as_deref()), (Level::Fail, Some("send the log")));
        assert_eq!(prove(&[], None).level, Level::Warn);
        assert_eq!(untried(&[]).level, Level::Ok);
        let missing = [Finding::fail("capabilities", "CAP_BPF missing", "run as root")];
        assert_eq!(untried(&missing).level, Level::Fail);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        let mut findings = system::findings();
        findings.extend(network::findings(netns.as_fd()));
        findings.extend(bpf::findings());
        findings.extend(coexistence::findings(&cgroup::own().unwrap(), netns.as_fd()));
        assert!(findings.len() > 18);
        for finding in findings {
            assert_eq!(finding.hint.is_none(), finding.level == Level::Ok, "{finding:?}");
        }
    }
}

//! `weir run --sidecar` in a pod as the kubelet makes it: a pod's cgroup with one below it for each
//! container, and one network namespace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::cgroup::{Cgroup, within};
use weir_tests::daemon::Instance;
use weir_tests::lab::{CLIENT_V4, SERVER_V4};
use weir_tests::left::pins;
use weir_tests::peer::Peer;
use weir_tests::process::{Process, run, wait_until};
use weir_tests::visits::{Outcome, visit};
use weir_tests::weir::binary;
use weir_tests::{Lab, fixture};

const LIMIT: Duration = Duration::from_secs(60);
const READY: Duration = Duration::from_secs(20);
/// Where the server outside listens.
const PORT: u16 = 9000;
/// Where the application listens.
const SERVICE: u16 = 9100;
const ADMIN: u16 = 4191;

/// How a sidecar is started.
#[derive(Clone, Copy)]
enum Namespaces {
    /// As a privileged container: those of the node.
    Node,
    /// With a cgroup namespace of its own, in which the path of its cgroup is `/`.
    Cgroup,
    /// With a PID namespace too.
    CgroupAndPid,
}

/// A pod with its pause container.
struct Pod {
    _pause: Process,
    top: Cgroup,
    path: PathBuf,
    uid: String,
    /// What weir pins under the pod's name.
    instance: Arc<Instance>,
    lab: Lab,
}

/// A running sidecar.
struct Sidecar {
    process: Process,
    control: PathBuf,
    container: PathBuf,
}

// === impl Pod ===

impl Pod {
    fn new(role: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id());
        let (lab, top) = (Lab::new()?, Cgroup::new(role)?);
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let path = top.path().join("kubepods.slice/kubepods-burstable.slice").join(slice);
        let pause = container(&path)?;
        let mut sleep = lab.client.command_in(&pause, "sleep");
        sleep.arg("3600");
        let pause = Process::start("pause", sleep, lab.dir())?;
        let instance = Instance::called(&format!("pod-{uid}"));
        Ok(Self { _pause: pause, top, path, uid, instance, lab })
    }

    fn command(&self, namespaces: Namespaces) -> Result<Command> {
        let unshare: &[&str] = match namespaces {
            Namespaces::Node => return Ok(self.lab.client.command(binary()?)),
            Namespaces::Cgroup => &["--cgroup"],
            Namespaces::CgroupAndPid => &["--cgroup", "--pid", "--fork", "--mount-proc"],
        };
        let mut command = self.lab.client.command("unshare");
        command.args(unshare).arg(binary()?);
        Ok(command)
    }

    /// Starts weir in a container of its own and waits until the kubelet would go on.
    fn weir(&self, namespaces: Namespaces, flags: &[&str]) -> Result<Sidecar> {
        self.weir_in(container(&self.path)?, namespaces, flags)
    }

    fn weir_in(
        &self,
        container: PathBuf,
        namespaces: Namespaces,
        flags: &[&str],
    ) -> Result<Sidecar> {
        // The whole id would make a path too long for a socket.
        let id = container.file_stem().context("a name")?.to_string_lossy().into_owned();
        let control = self.lab.dir().join(&id[id.len() - 8..]).with_extension("sock");
        let mut command = self.command(namespaces)?;
        command.args(["run", "--sidecar", "--pod-uid", &self.uid]);
        command.arg(format!("--admin=0.0.0.0:{ADMIN}")).arg("--control").arg(&control).args(flags);
        let name = format!("weir-{}", control.file_stem().unwrap_or_default().to_string_lossy());
        let process = Process::start(&name, within(&container, &command), self.lab.dir())?;
        let mut sidecar = Sidecar { process, control, container };
        let log = |sidecar: &Sidecar| format!("log of weir:\n{}", sidecar.process.log());
        wait_until("the startup probe", READY, || {
            ensure!(sidecar.process.running()?, "weir ended");
            Ok(self.probe("/ready").is_ok_and(|answer| answer.contains(" 200 ")))
        })
        .with_context(|| log(&sidecar))?;
        Ok(sidecar)
    }

    /// What the admin port answers to a client outside, as the kubelet is.
    fn probe(&self, path: &str) -> Result<String> {
        let mut curl = self.lab.server.command("curl");
        curl.args(["-si", "--max-time", "5", &format!("http://{CLIENT_V4}:{ADMIN}{path}")]);
        Ok(run(&mut curl, LIMIT)?.ok()?.stdout)
    }

    /// One connection from a container to the server outside.
    fn visit(&self, container: &Path) -> Result<Outcome> {
        visit(&self.lab.client, container, (SERVER_V4, PORT), SERVER_V4)
    }

    /// A server in a container that tells who connects.
    fn server(&self, container: &Path) -> Result<Process> {
        let program = format!(
            "import socket\n\
             s = socket.create_server(('', {SERVICE}))\n\
             while True:\n\
             \x20c, peer = s.accept()\n\
             \x20c.sendall(f'{{peer[0]}} {{peer[1]}}\\n'.encode())\n\
             \x20c.close()"
        );
        let server = self.python("server", container, &program)?;
        wait_until("the server", READY, || self.lab.client.listens(SERVICE))?;
        Ok(server)
    }

    /// What that server tells a client outside.
    fn ask(&self) -> Result<String> {
        let program = format!(
            "import socket\n\
             print(socket.create_connection(('{CLIENT_V4}', {SERVICE})).makefile().readline())"
        );
        let mut client = self.lab.server.command(fixture::PYTHON);
        Ok(run(client.args(["-c", &program]), LIMIT)?.ok()?.stdout)
    }

    /// A Python program in a container.
    fn python(&self, name: &str, container: &Path, program: &str) -> Result<Process> {
        let mut python = self.lab.client.command_in(container, fixture::PYTHON);
        python.args(["-uc", program]);
        Process::start(name, python, self.lab.dir())
    }
}

// === impl Sidecar ===

impl Sidecar {
    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(binary()?);
        command.args(arguments).args(["-o", "json", "--control"]).arg(&self.control);
        let said = run(&mut command, LIMIT)?.ok()?.stdout;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    /// How many connections the kernel has decided about so.
    fn counted(&self, direction: &str, reason: &str) -> Result<u64> {
        let status = self.json(&["status"])?;
        let workloads = status["kernel"]["workloads"].as_object().context("no counters")?;
        Ok(workloads.values().filter_map(|all| all[direction][reason].as_u64()).sum())
    }

    /// SIGTERM, which must be a success long before the drain deadline of ten minutes.
    fn terminate(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(LIMIT);
        let status = status.with_context(|| format!("log of weir:\n{}", self.process.log()))?;
        ensure!(status.success(), "weir ended with {status}:\n{}", self.process.log());
        Ok(())
    }
}

// === helpers ===

/// A new container's cgroup, named as containerd names it.
fn container(pod: &Path) -> Result<PathBuf> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = pod.join(format!("cri-containerd-{number:064x}.scope"));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn in_namespaces(role: &str, namespaces: Namespaces) -> Result<()> {
    let pod = Pod::new(role)?;
    let _server = Peer::whoami(&pod.lab.server, PORT)?;
    let weir = pod.weir(namespaces, &[])?;
    let app = container(&pod.path)?;
    assert_eq!(pod.visit(&app)?, Outcome::Proxied);
    assert_eq!(pod.visit(&weir.container)?, Outcome::Direct, "from weir's own container");
    assert!(weir.counted("outbound", "own_traffic")? > 0);
    assert_eq!(weir.counted("outbound", "redirected")?, 1, "weir's own connection is not captured");
    assert_eq!(pins(&pod.instance)?.len(), 1, "pinned under the pod's name");
    Ok(())
}

// === what is captured ===

#[test]
fn the_application_is_captured_and_weir_itself_is_not() -> Result<()> {
    in_namespaces("node", Namespaces::Node)
}

#[test]
fn a_container_with_a_cgroup_namespace_finds_its_pod() -> Result<()> {
    in_namespaces("cgroupns", Namespaces::Cgroup)
}

#[test]
fn a_container_that_sees_no_other_process_finds_its_pod() -> Result<()> {
    in_namespaces("pidns", Namespaces::CgroupAndPid)
}

#[test]
fn connections_to_the_application_are_captured_and_those_to_the_admin_port_are_not() -> Result<()> {
    let pod = Pod::new("inbound")?;
    let weir = pod.weir(Namespaces::Node, &[])?;
    let app = container(&pod.path)?;
    let _app = pod.server(&app)?;
    let seen = pod.ask()?;
    ensure!(!seen.starts_with(SERVER_V4), "the application saw its client itself: {seen}");
    assert_eq!(weir.counted("inbound", "redirected")?, 1);
    let before = weir.counted("inbound", "skip_port")?;
    assert!(pod.probe("/metrics")?.contains("weir_"));
    assert_eq!(weir.counted("inbound", "skip_port")?, before + 1);
    assert_eq!(weir.counted("inbound", "redirected")?, 1, "no probe is captured");
    Ok(())
}

#[test]
fn what_listens_in_weirs_own_container_is_left_alone() -> Result<()> {
    let pod = Pod::new("own")?;
    let own = container(&pod.path)?;
    let _server = pod.server(&own)?;
    let weir = pod.weir_in(own, Namespaces::Node, &[])?;
    let seen = pod.ask()?;
    ensure!(seen.starts_with(SERVER_V4), "it was captured: {seen}");
    assert_eq!(weir.counted("inbound", "redirected")?, 0);
    Ok(())
}

// === how it ends ===

#[test]
fn after_kill_9_connections_go_direct_and_the_next_container_finds_everything() -> Result<()> {
    let pod = Pod::new("restart")?;
    let _server = Peer::whoami(&pod.lab.server, PORT)?;
    let mut weir = pod.weir(Namespaces::Cgroup, &[])?;
    let app = container(&pod.path)?;
    weir.json(&["ports", "skip", "9001", "--outbound"])?;
    assert_eq!(pod.visit(&app)?, Outcome::Proxied);
    weir.process.kill_hard()?;
    assert_eq!(pod.visit(&app)?, Outcome::Direct);
    // The kubelet starts another container: with another cgroup, and so another id to exempt.
    let before = weir.container.clone();
    drop(weir);
    std::fs::remove_dir(before)?;
    let weir = pod.weir(Namespaces::Cgroup, &[])?;
    assert_eq!(pod.visit(&app)?, Outcome::Proxied);
    assert_eq!(pod.visit(&weir.container)?, Outcome::Direct);
    let explained = weir.json(&["explain", &format!("{SERVER_V4}:9001")])?.to_string();
    ensure!(explained.contains("skip"), "the port is no longer as it was set: {explained}");
    Ok(())
}

#[test]
fn an_idle_sidecar_ends_at_once() -> Result<()> {
    let pod = Pod::new("idle")?;
    let _server = Peer::whoami(&pod.lab.server, PORT)?;
    let weir = pod.weir(Namespaces::Node, &["--drain-deadline", "10m"])?;
    let app = container(&pod.path)?;
    assert_eq!(pod.visit(&app)?, Outcome::Proxied);
    weir.terminate()?;
    assert_eq!(pod.visit(&app)?, Outcome::Direct);
    assert_eq!(pins(&pod.instance)?, [] as [PathBuf; 0], "nothing is left on the node");
    Ok(())
}

/// A sidecar that is restarted for itself (by a liveness probe, say), with the application at work.
#[test]
fn a_busy_connection_is_finished() -> Result<()> {
    let pod = Pod::new("busy")?;
    let (_server, _echo) =
        (Peer::whoami(&pod.lab.server, PORT)?, Peer::echo(&pod.lab.server, PORT + 1)?);
    let mut weir = pod.weir(Namespaces::Node, &["--drain-deadline", "10m"])?;
    let app = container(&pod.path)?;
    let go = pod.lab.dir().join("go");
    // It says a line a moment; told to, a last one.
    let program = format!(
        "import os, socket, time\n\
         c = socket.create_connection(('{SERVER_V4}', {}))\n\
         f = c.makefile('rw')\n\
         n = 0\n\
         while True:\n\
         \x20last = os.path.exists('{}')\n\
         \x20n += 1\n\
         \x20f.write(f'line {{n}}\\n'); f.flush()\n\
         \x20assert f.readline() == f'line {{n}}\\n'\n\
         \x20print(n)\n\
         \x20if last: break\n\
         \x20time.sleep(0.05)",
        PORT + 1,
        go.display()
    );
    let mut client = pod.python("app", &app, &program)?;
    wait_until("the connection", READY, || Ok(client.log().lines().count() > 3))?;
    weir.process.signal(Signal::SIGTERM)?;
    let visitor = container(&pod.path)?;
    wait_until("new connections to go direct", READY, || {
        Ok(pod.visit(&visitor)? == Outcome::Direct)
    })?;
    // Four seconds: longer than what a pod without its application gets.
    let lines = client.log().lines().count();
    wait_until("the old one to go on", READY, || Ok(client.log().lines().count() > lines + 80))?;
    ensure!(weir.process.running()?, "it did not wait for the connection");
    std::fs::write(&go, "")?;
    ensure!(client.wait(LIMIT)?.success(), "the connection broke:\n{}", client.log());
    let status = weir.process.wait(LIMIT)?;
    ensure!(status.success(), "weir ended with {status}:\n{}", weir.process.log());
    Ok(())
}

/// A job: its container has ended, and a server that it spoke to has not noticed. No process in the
/// pod waits for that server.
#[test]
fn a_job_that_is_over_is_not_held_up() -> Result<()> {
    let pod = Pod::new("job")?;
    // It never closes.
    let open = Mutex::new(Vec::new());
    let _server = Peer::start(&pod.lab.server, PORT, move |stream| {
        open.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(())
    })?;
    let weir = pod.weir(Namespaces::Cgroup, &["--drain-deadline", "10m"])?;
    let app = container(&pod.path)?;
    let program = format!(
        "import socket\n\
         socket.create_connection(('{SERVER_V4}', {PORT})).sendall(b'a job')"
    );
    let mut job = pod.python("job", &app, &program)?;
    ensure!(job.wait(LIMIT)?.success(), "the job failed:\n{}", job.log());
    wait_until("the connection", READY, || {
        let open = weir.json(&["status"])?;
        Ok(open.to_string().contains("\"open_connections\":1"))
    })
    .with_context(|| format!("{}", weir.json(&["status"]).unwrap_or_default()))?;
    weir.terminate()
}

/// A weir that is killed with its pod cannot remove its pins.
#[test]
fn what_a_pod_that_is_gone_has_left_is_removed_by_the_next_sidecar() -> Result<()> {
    let gone = Pod::new("gone")?;
    let mut weir = gone.weir(Namespaces::Node, &[])?;
    weir.process.kill_hard()?;
    let left = Arc::clone(&gone.instance);
    assert_eq!(pins(&left)?.len(), 1);
    let other = Pod::new("stays")?;
    let first = other.weir(Namespaces::Node, &[])?;
    assert_eq!(pins(&left)?.len(), 1, "its pod is still there, and may get another sidecar");
    drop(gone.top);
    first.terminate()?;
    let _second = other.weir(Namespaces::Node, &[])?;
    assert_eq!(pins(&left)?, [] as [PathBuf; 0]);
    Ok(())
}

// === what is refused ===

#[test]
fn a_container_that_does_not_see_its_pod_is_told_what_to_mount() -> Result<()> {
    let pod = Pod::new("blind")?;
    let weir = container(&pod.path)?;
    let refused = |flags: &[&str], namespaces| -> Result<String> {
        let mut command = pod.command(namespaces)?;
        command.args(["run", "--sidecar"]).args(flags);
        let finished = run(&mut within(&weir, &command), LIMIT)?;
        ensure!(finished.code() == 3, "code {}: {}", finished.code(), finished.stderr);
        Ok(finished.stderr)
    };
    let other = refused(&["--pod-uid", "00000000-0000-4000-8000-0000000000ff"], Namespaces::Node)?;
    ensure!(other.contains("mount the node's /sys/fs/cgroup"), "{other}");
    // Not in any pod.
    let mut command = pod.command(Namespaces::Node)?;
    command.args(["run", "--sidecar", "--pod-uid", &pod.uid]);
    let finished = run(&mut command, LIMIT)?;
    ensure!(finished.stderr.contains("does not contain weir"), "{}", finished.stderr);
    // Only its own cgroup is mounted, as containers have it that are not privileged.
    let mount = weir_tests::cgroup::mount_point()?;
    let script = format!(
        "umount {0} && mount -t cgroup2 none {0} && exec {1} run --sidecar --pod-uid {2}",
        mount.display(),
        binary()?.display(),
        pod.uid
    );
    let mut command = pod.lab.client.command("unshare");
    command.args(["--cgroup", "--mount", "sh", "-c", &script]);
    let finished = run(&mut within(&weir, &command), LIMIT)?;
    if finished.code() != 3 || !finished.stderr.contains("mount the node's /sys/fs/cgroup") {
        bail!("code {}: {}", finished.code(), finished.stderr);
    }
    Ok(())
}

/// Cgroups that are mounted read-only, and sysctls that only the machine's own network namespace has, are
/// what every container has that is not privileged: nothing is wrong with it.
#[test]
fn weir_check_does_not_complain_of_what_a_container_cannot_have() -> Result<()> {
    let pod = Pod::new("check")?;
    let weir = container(&pod.path)?;
    let script = format!(
        "mount -o remount,bind,ro {} && exec {} check -o json",
        weir_tests::cgroup::mount_point()?.display(),
        binary()?.display()
    );
    let mut command = pod.lab.client.command("unshare");
    command.args(["--cgroup", "--mount", "sh", "-c", &script]);
    let said = run(&mut within(&weir, &command), LIMIT)?.ok()?.stdout;
    let report: Value = serde_json::from_str(&said)?;
    ensure!(report["ready"] == true, "{report:#}");
    let findings = report["findings"].as_array().context("no findings")?;
    for name in ["jit", "interception proof"] {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        ensure!(finding.is_some_and(|it| it["level"] == "ok"), "{name}: {report:#}");
    }
    Ok(())
}

#[test]
fn the_pod_is_found_without_its_uid_too() -> Result<()> {
    let pod = Pod::new("nouid")?;
    let weir = container(&pod.path)?;
    let mut command = pod.command(Namespaces::CgroupAndPid)?;
    command.args(["run", "--sidecar", "--print-config", "--admin", "0.0.0.0:4191"]);
    let printed = run(&mut within(&weir, &command), LIMIT)?.ok()?.stdout;
    for part in [
        format!("cgroup = \"{}\"", pod.path.display()),
        format!("instance = \"pod-{}\"", pod.uid),
        "skip_ports = \"4191\"".to_owned(),
    ] {
        ensure!(printed.contains(&part), "no {part} in\n{printed}");
    }
    Ok(())
}

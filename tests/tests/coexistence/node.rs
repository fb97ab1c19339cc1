//! `weir check --kubernetes` on nodes of cgroups as a kubelet makes them, with others' programs and
//! rules.

use super::*;

/// Of a pod, in the cgroupfs driver's form.
const UID: &str = "0ff2a1b8-3c4d-4e5f-8a9b-c0d1e2f30415";

/// What a line says.
#[derive(Debug)]
struct Line {
    level: String,
    detail: String,
    hint: String,
}

/// A command in front of a command that may not trace.
const LESS: [&str; 3] = ["setpriv", "--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace"];

/// A pod of one container with a process, in the lab's client namespace.
fn pod(place: &Place, driver: &str, container: &str) -> Result<Process> {
    let pod = match driver {
        "systemd" => format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_")),
        _ => format!("kubelet/kubepods/burstable/pod{UID}"),
    };
    let container = place.top.path().join(pod).join(container);
    std::fs::create_dir_all(&container)?;
    // As in a container that may not trace.
    let mut sleep = place.lab.client.command_in(&container, LESS[0]);
    sleep.args(&LESS[1..]).args(["sleep", "3600"]);
    let app = Process::start("app", sleep, place.lab.dir())?;
    wait_until("the process, with no more than it keeps", PATIENCE, || {
        let names =
            place.top.processes().into_iter().map(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
            });
        Ok(names.collect::<Vec<_>>() == ["sleep\n"])
    })?;
    Ok(app)
}

/// What the check, run in a cgroup and behind a command, says by name, and its exit code.
fn check(place: &Place, own: &Path, wrapper: &[&str]) -> Result<(i32, Vec<(String, Line)>)> {
    let mut command = Command::new("env");
    command.args(wrapper).arg(binary()?);
    command.args(["check", "--no-proof", "-o", "json", "--kubernetes", "--cgroup-root"]);
    command.arg(place.top.path());
    let finished = run(&mut within(own, &command), LIMIT)?;
    let report: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("no report: {}", finished.stderr))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |finding: &Value| {
        let [level, detail, hint] = ["level", "detail", "hint"].map(|key| text(&finding[key]));
        (text(&finding["name"]), Line { level, detail, hint })
    };
    let findings = report["findings"].as_array().context("no findings")?;
    Ok((finished.code(), findings.iter().map(line).collect()))
}

#[track_caller]
fn assert_line(lines: &[(String, Line)], name: &str, level: &str, words: &[&str]) {
    let found = lines.iter().find(|(found, _)| found == name);
    let (_, line) = found.unwrap_or_else(|| panic!("no {name} in {lines:#?}"));
    let text = format!("{} {}", line.detail, line.hint);
    let says = line.level == level && words.iter().all(|word| text.contains(word));
    assert!(says, "{name} is not {level} with {words:?}: {line:#?}");
}

/// Long enough for a container's id.
fn id() -> String {
    "5e".repeat(32)
}

#[test]
fn driver_runtime_and_processes_of_a_node_are_told() -> Result<()> {
    for (driver, container, runtime) in [
        ("systemd", format!("cri-containerd-{}.scope", id()), "containerd: 1"),
        ("systemd", format!("crio-{}.scope", id()), "CRI-O: 1"),
        ("cgroupfs", format!("crio-{}", id()), "CRI-O: 1"),
        ("cgroupfs", id(), "cgroupfs names): 1"),
    ] {
        let place = Place::new("node")?;
        let _app = pod(&place, driver, &container)?;
        let (_, lines) = check(&place, &place.own(), &[])?;
        let driver = format!("(cgroup driver {driver})");
        assert_line(&lines, "pods", "ok", &["1 pod below", &driver]);
        assert_line(&lines, "container runtime", "ok", &[runtime]);
        assert_line(&lines, "host PID namespace", "ok", &["all 1 processes"]);
        assert_line(&lines, "network namespaces", "ok", &["of all 1 visible"]);
        assert_line(&lines, "socket load balancer", "ok", &["no program of Cilium"]);
        assert_line(&lines, "another mesh", "ok", &["in 1 pods"]);
        let pid = ["unshare", "--pid", "--fork", "--mount-proc"];
        let (code, lines) = check(&place, &place.own(), &pid)?;
        assert_line(&lines, "host PID namespace", "fail", &["none of the 1", "hostPID: true"]);
        assert_eq!(code, 3);
        // It may look at those who may no more than itself, which process 1 is not.
        let (_, lines) = check(&place, &place.own(), &LESS)?;
        let words = ["of all 1 visible", "not that of process 1"];
        assert_line(&lines, "network namespaces", "warn", &words);
        let least = ["setpriv", "--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace,-sys_time"];
        let (code, lines) = check(&place, &place.own(), &least)?;
        assert_line(&lines, "network namespaces", "fail", &["of 1 of 1", "CAP_SYS_PTRACE"]);
        assert_eq!(code, 3);
    }
    Ok(())
}

#[test]
fn a_machine_without_pods_is_no_node() -> Result<()> {
    let place = Place::new("nonode")?;
    let (code, lines) = check(&place, &place.own(), &[])?;
    assert_line(&lines, "pods", "fail", &["no kubepods cgroup", "mount the node's /sys/fs/cgroup"]);
    assert_eq!(code, 3);
    Ok(())
}

#[test]
fn ciliums_load_balancer_is_named_and_whether_weir_is_under_it() -> Result<()> {
    let place = Place::new("cilium")?;
    let _app = pod(&place, "systemd", &format!("cri-containerd-{}.scope", id()))?;
    let balancer = Program::balancer("cil_sock4_conne", octets(SERVICE)?, octets(SERVER_V4)?)?;
    let _link = balancer.link(place.top.path())?;
    let (_, lines) = check(&place, &place.own(), &[])?;
    assert_line(&lines, "socket load balancer", "ok", &["cil_sock4_conne", "runs after weir's"]);
    let (_, lines) = check(&place, &elsewhere()?, &[])?;
    assert_line(&lines, "socket load balancer", "warn", &["does not see weir's own connections"]);
    Ok(())
}

#[test]
fn another_meshs_rules_in_a_pod_are_named() -> Result<()> {
    let place = Place::new("mesh")?;
    let _app = pod(&place, "systemd", &format!("cri-containerd-{}.scope", id()))?;
    let chain = |name: &str| {
        format!(
            "table ip nat\ndelete table ip nat\ntable ip nat {{\n chain {name} {{\n \
             meta l4proto tcp redirect to :4140\n }}\n chain OUTPUT {{\n \
             type nat hook output priority -100;\n jump {name}\n }}\n}}\n"
        )
    };
    for (name, mesh) in [("PROXY_INIT_OUTPUT", "Linkerd"), ("ISTIO_OUTPUT", "Istio")] {
        place.nft(&place.lab.client, &chain(name))?;
        assert_mesh(&place, mesh)?;
    }
    Ok(())
}

/// Linkerd's init container uses old iptables unless it is told otherwise.
#[test]
fn another_meshs_rules_of_old_iptables_are_named() -> Result<()> {
    for (family, name, mesh) in
        [("iptables", "PROXY_INIT_OUTPUT", "Linkerd"), ("ip6tables", "ISTIO_OUTPUT", "Istio")]
    {
        let place = Place::new("oldmesh")?;
        let _app = pod(&place, "systemd", &format!("cri-containerd-{}.scope", id()))?;
        place.iptables(family, &["-N", "other"])?;
        let (_, lines) = check(&place, &place.own(), &[])?;
        assert_line(&lines, "another mesh", "ok", &["no rules of Istio or Linkerd in 1 pods"]);
        let redirect = ["-p", "tcp", "-j", "REDIRECT", "--to-port", "4140"];
        place.iptables(family, &["-N", name])?;
        place.iptables(family, &[&["-A", name][..], &redirect].concat())?;
        place.iptables(family, &["-A", "OUTPUT", "-j", name])?;
        assert_mesh(&place, mesh)?;
    }
    Ok(())
}

fn assert_mesh(place: &Place, mesh: &str) -> Result<()> {
    let (_, lines) = check(place, &place.own(), &[])?;
    let said = format!("{mesh} in 1 of 1 pods");
    assert_line(&lines, "another mesh", "warn", &[&said, "weir.dev/inject: disabled"]);
    Ok(())
}

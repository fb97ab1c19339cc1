//! Requirements that are read off /proc and /sys.

use std::{fs, path::Path};

use super::Finding;

/// Everything that needs no loading, in the order in which it is worth reading.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut findings = vec![
        kernel(&release),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        cgroup2(&mounts),
        bpffs(&mounts),
        capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref()),
        jit(&read("/proc/sys/net/core/bpf_jit_enable")),
        loopback(&read("/sys/class/net/lo/flags")),
    ];
    if version(&release).is_some_and(|version| version < (5, 11)) {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        findings.push(memlock(&limits));
    }
    findings
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel(release: &str) -> Finding {
    let name = "kernel";
    match version(release) {
        Some(version) if version < (5, 15) => Finding::fail(
            name,
            format!("{release} is too old"),
            "use 5.15 or later (netns cookies in sockops); 6.1 or later is recommended",
        ),
        Some(version) if version < (6, 1) => {
            Finding::warn(name, release, "works; 6.1 or later is recommended")
        }
        Some(_) => Finding::ok(name, release),
        None => Finding::warn(
            name,
            format!("version {release:?} not understood"),
            "5.15 or later is needed",
        ),
    }
}

/// Major and minor number of a release such as `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// weir's object needs no relocation against it; only some tools around it do.
fn btf(there: bool) -> Finding {
    if there {
        Finding::ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        Finding::warn("btf", "none", "weir does without; bpftool shows less")
    }
}

fn cgroup2(mounts: &str) -> Finding {
    match mount_point(mounts, "cgroup2") {
        Some(path) => Finding::ok("cgroup2", path),
        None => Finding::fail(
            "cgroup2",
            "not mounted",
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1; \
             in a container mount the host's /sys/fs/cgroup",
        ),
    }
}

fn bpffs(mounts: &str) -> Finding {
    match mount_point(mounts, "bpf") {
        Some(path) => Finding::ok("bpffs", path),
        None => Finding::warn(
            "bpffs",
            "not mounted: port changes do not survive a restart",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

/// The first mount point of a file system type (proc_pid_mountinfo(5)): fields of the mount, a
/// lone hyphen, type, source, options. Blanks in paths are written as `\040`.
fn mount_point(mounts: &str, kind: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let found = file_system.split(' ').next()? == kind;
        found.then(|| mount.split(' ').nth(4).map(|path| path.replace("\\040", " ")))?
    })
}

/// Number, name, and what weir needs it for (`include/uapi/linux/capability.h`).
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (39, "CAP_BPF", "loads programs and maps"),
    (12, "CAP_NET_ADMIN", "attaches to cgroups' sockets"),
    (21, "CAP_SYS_ADMIN", "enters network namespaces"),
];

fn capabilities(status: &str) -> Finding {
    let name = "capabilities";
    let hint = "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN";
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(effective) = effective else {
        return Finding::fail(name, "/proc/self/status does not tell them", hint);
    };
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| effective & (1 << bit) == 0)
        .map(|(_, name, what)| format!("{name} ({what})"))
        .collect();
    if missing.is_empty() {
        Finding::ok(name, "CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN")
    } else {
        Finding::fail(name, format!("missing {}", missing.join(", ")), hint)
    }
}

/// The active mode stands in brackets: `none [integrity] confidentiality`. No file: no lockdown.
fn lockdown(modes: Option<&str>) -> Finding {
    let active = modes.and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0));
    match active {
        Some("confidentiality") => Finding::warn(
            "lockdown",
            "confidentiality: the kernel may refuse to read its memory for BPF",
            "if loading fails, boot with lockdown=integrity",
        ),
        Some(mode) => Finding::ok("lockdown", mode),
        None => Finding::ok("lockdown", "none"),
    }
}

fn jit(enable: &str) -> Finding {
    match enable {
        "1" | "2" => Finding::ok("jit", "on"),
        "0" => Finding::warn(
            "jit",
            "off: every hook is interpreted",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        // Only root of the first network namespace may read it on older kernels.
        _ => Finding::warn("jit", "not known", "sysctl net.core.bpf_jit_enable should be 1"),
    }
}

/// Captured connections are redirected to a listener on loopback.
fn loopback(flags: &str) -> Finding {
    let up = flags.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
    match up {
        Some(flags) if flags & 1 == 1 => Finding::ok("loopback", "up"),
        Some(_) => Finding::fail("loopback", "down", "ip link set lo up"),
        None => Finding::warn("loopback", "not known", "is /sys mounted? ip link show lo"),
    }
}

/// Before 5.11 the memory of maps counts against RLIMIT_MEMLOCK.
fn memlock(limits: &str) -> Finding {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => Finding::ok("memlock", "unlimited"),
        Some(soft) => Finding::warn("memlock", format!("{soft} bytes"), "ulimit -l unlimited"),
        None => Finding::warn("memlock", "not known", "ulimit -l unlimited"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn kernels_are_told_apart() {
        for (release, level) in [
            ("4.19.0-26-amd64", Level::Fail),
            ("5.14.21", Level::Fail),
            ("5.15.0-91-generic", Level::Warn),
            ("6.1.0-13-amd64", Level::Ok),
            ("10.0.0", Level::Ok),
            ("6.18.44-fc-v657", Level::Ok),
            ("", Level::Warn),
            ("six", Level::Warn),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn mounts_are_found_wherever_they_are() {
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup/my\\040unified rw shared:9 - cgroup2 cgroup2 rw\n\
31 24 0:27 / /run/bpf rw - bpf none rw\n\
32 24 0:28 / /a rw shared:9 master:1 - tmpfs cgroup2 rw\n";
        assert_eq!(mount_point(mounts, "cgroup2").unwrap(), "/sys/fs/cgroup/my unified");
        assert_eq!(mount_point(mounts, "bpf").unwrap(), "/run/bpf");
        assert_eq!(mount_point(mounts, "ext4"), None);
        assert_eq!(mount_point("garbage - \n - - -", "bpf"), None);
        assert_eq!(cgroup2("").level, Level::Fail);
        assert_eq!(bpffs("").level, Level::Warn);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").level, Level::Ok);
        let finding = capabilities("CapEff:\t0000000000201000\n");
        assert_eq!(finding.detail, "missing CAP_BPF (loads programs and maps)");
        assert_eq!(capabilities("CapEff:\t0\n").level, Level::Fail);
        assert_eq!(capabilities("").level, Level::Fail);
    }

    #[test]
    fn other_files_are_read_as_the_kernel_writes_them() {
        assert_eq!(lockdown(Some("[none] integrity confidentiality\n")).detail, "none");
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).level, Level::Warn);
        assert_eq!(lockdown(None).level, Level::Ok);
        assert_eq!(loopback("0x9").level, Level::Ok);
        assert_eq!(loopback("0x8").level, Level::Fail);
        assert_eq!(jit("0").level, Level::Warn);
        let limits = "Max locked memory         65536                65536                bytes\n";
        assert_eq!(memlock(limits).detail, "65536 bytes");
    }
}

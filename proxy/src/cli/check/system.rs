//! Requirements that are read off /proc and /sys.

use std::{fs, io, path::Path};

use super::Finding;
use crate::{
    capture::hold,
    privileges::{CANNOT_FOLLOW, CONNECTS_AT_ONCE, NEEDS, NOT_THE_OWNERS, Need},
};

/// Everything about the machine that needs no loading, in the order in which it is worth reading.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut findings = vec![
        kernel(&release),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        cgroup2(&mounts),
        bpffs(&mounts),
        capabilities(&status),
        tracing(&status),
        connect(),
        owners(&status),
        lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref()),
        jit(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable"), is_first_netns()),
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
            format!("cannot parse version {release:?}"),
            "Linux 5.15 or later is required",
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
        Finding::warn("btf", "none", "works without; bpftool shows less")
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
    match mount(mounts, "bpf") {
        Some((path, true)) => Finding::ok("bpffs", path),
        Some((path, false)) => Finding::warn(
            "bpffs",
            format!("{path} is read-only: port changes do not survive a restart"),
            format!("mount -o remount,rw {path}; in a container mount the host's /sys/fs/bpf"),
        ),
        None => Finding::warn(
            "bpffs",
            "not mounted: port changes do not survive a restart",
            "mount -t bpf bpf /sys/fs/bpf; in a container mount the host's /sys/fs/bpf",
        ),
    }
}

fn mount_point(mounts: &str, kind: &str) -> Option<String> {
    mount(mounts, kind).map(|(path, _)| path)
}

/// A mount of a file system type and whether it can be written, the first that can rather than the
/// first (proc_pid_mountinfo(5)): fields of the mount with its options sixth, a lone hyphen, type,
/// source, options of the file system. Blanks in paths are written as `\040`.
fn mount(mounts: &str, kind: &str) -> Option<(String, bool)> {
    let mut found: Vec<_> = mounts
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut file_system = file_system.split(' ');
            (file_system.next()? == kind).then_some(())?;
            let mut fields = mount.split(' ').skip(4);
            let path = fields.next()?.replace("\\040", " ");
            let writes = |options: &str| options.split(',').any(|option| option == "rw");
            Some((path, writes(fields.next()?) && file_system.nth(1).is_none_or(writes)))
        })
        .collect();
    // Stable: among equals the first stays first.
    found.sort_by_key(|(_, writable)| !writable);
    found.into_iter().next()
}

/// Whether servers that were there first can be followed to their end.
fn tracing(status: &str) -> Finding {
    let name = "servers from before";
    let lacking = |need: &Need| need.without == CANNOT_FOLLOW;
    let missing = missing(effective(status).unwrap_or(0), lacking);
    if missing.is_empty() {
        return Finding::ok(name, "listening sockets from before the start can be followed");
    }
    let detail = format!("missing {}: {CANNOT_FOLLOW}", missing.join(", "));
    Finding::warn(name, detail, "grant them, or start weir before the servers")
}

/// Whether upstream sockets belong to whom the application's do.
fn owners(status: &str) -> Finding {
    let name = "owners of sockets";
    let lacking = |need: &Need| need.without == NOT_THE_OWNERS;
    let missing = missing(effective(status).unwrap_or(0), lacking);
    if missing.is_empty() {
        return Finding::ok(name, "upstream sockets have the user of the application");
    }
    let detail = format!("missing {}: {NOT_THE_OWNERS}", missing.join(", "));
    Finding::warn(name, detail, "grant them where there are such rules")
}

/// Whether connect(2) can wait for destinations.
fn connect() -> Finding {
    let name = "connect(2)";
    match hold::support() {
        Ok(()) => Finding::ok(name, "has the result of the destination"),
        Err(error) => {
            Finding::warn(name, format!("{CONNECTS_AT_ONCE}: {error}"), "grant CAP_NET_RAW")
        }
    }
}

/// The capabilities in effect, from `/proc/PID/status` (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Those of the meant that are not in effect, each with what weir needs it for.
fn missing(effective: u64, meant: impl Fn(&Need) -> bool) -> Vec<String> {
    NEEDS
        .iter()
        .filter(|need| meant(need) && effective & need.capability.bitmask() == 0)
        .map(|need| format!("{} ({})", need.capability, need.reason))
        .collect()
}

fn capabilities(status: &str) -> Finding {
    let name = "capabilities";
    let hint = "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN";
    let Some(effective) = effective(status) else {
        return Finding::fail(name, "not in /proc/self/status", hint);
    };
    let missing = missing(effective, |need| need.required);
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

/// Whether this is the network namespace that the machine has begun with: no other has this sysctl
/// (`net_core_table` in net/core/sysctl_net_core.c), nor that of the JIT.
fn is_first_netns() -> bool {
    Path::new("/proc/sys/net/core/netdev_max_backlog").exists()
}

fn jit(enable: io::Result<String>, first_netns: bool) -> Finding {
    let name = "jit";
    match enable.as_deref().map(str::trim) {
        Ok("1" | "2") => Finding::ok(name, "on"),
        Ok("0") => Finding::warn(
            name,
            "off: BPF programs are interpreted",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        // A container cannot have it, and what it cannot see it need not mend.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !first_netns => {
            Finding::ok(name, "unknown: visible only in the initial network namespace")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::warn(
            name,
            "not in this kernel: BPF programs are interpreted",
            "use a kernel with CONFIG_BPF_JIT",
        ),
        // Only root may read it on older kernels.
        _ => Finding::warn(name, "unknown", "sysctl net.core.bpf_jit_enable should be 1"),
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
        None => Finding::warn("memlock", "unknown", "ulimit -l unlimited"),
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
    fn a_bpffs_that_can_be_written_is_preferred() {
        let read_only = "31 24 0:27 / /sys/fs/bpf ro,nosuid shared:1 - bpf bpf rw,mode=700\n";
        let writable = "32 24 0:28 / /run/bpf rw,nosuid - bpf bpf rw\n";
        let frozen = "33 24 0:29 / /mnt rw - bpf bpf ro\n";
        assert_eq!(bpffs(&[read_only, writable].concat()).detail, "/run/bpf");
        let finding = bpffs(&[read_only, frozen].concat());
        assert_eq!(
            (finding.level, finding.hint.unwrap().as_str()),
            (
                Level::Warn,
                "mount -o remount,rw /sys/fs/bpf; in a container mount the host's /sys/fs/bpf"
            )
        );
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").level, Level::Ok);
        let finding = capabilities("CapEff:\t0000000000201000\n");
        assert_eq!(finding.detail, "missing CAP_BPF (loads programs and maps)");
        assert_eq!(capabilities("CapEff:\t0\n").level, Level::Fail);
        assert_eq!(tracing("CapEff:\t0000000000080004\n").level, Level::Ok);
        assert_eq!(tracing("CapEff:\t0000000000200000\n").level, Level::Warn);
        assert_eq!(owners("CapEff:\t00000000000000c0\n").level, Level::Ok);
        assert_eq!(owners("CapEff:\t0000000000000040\n").level, Level::Warn);
        assert_eq!(capabilities("").level, Level::Fail);
    }

    #[test]
    fn other_files_are_read_as_the_kernel_writes_them() {
        assert_eq!(lockdown(Some("[none] integrity confidentiality\n")).detail, "none");
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).level, Level::Warn);
        assert_eq!(lockdown(None).level, Level::Ok);
        let none = || Err(io::ErrorKind::NotFound.into());
        for (enable, first_netns, level) in [
            (Ok("1\n".to_owned()), true, Level::Ok),
            (Ok("0\n".to_owned()), true, Level::Warn),
            (none(), true, Level::Warn),
            (none(), false, Level::Ok),
            (Err(io::ErrorKind::PermissionDenied.into()), true, Level::Warn),
        ] {
            assert_eq!(jit(enable, first_netns).level, level);
        }
        let limits = "Max locked memory         65536                65536                bytes\n";
        assert_eq!(memlock(limits).detail, "65536 bytes");
    }
}

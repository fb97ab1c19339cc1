//! The Debian packages that the demo, the tests and the benchmark need: real servers, their real
//! clients, other proxies, and a virtual machine.

/// What `cargo xtask demo` starts and drives.
pub(crate) const DEMO: &[&str] = &[
    "curl",
    "iproute2",
    "mariadb-client",
    "mariadb-server",
    "nghttp2-client",
    "nginx-light",
    "openssl",
    "opensmtpd",
    "python3",
    "python3-grpcio",
    "redis-server",
    "redis-tools",
    "swaks",
    "util-linux",
];

/// What `cargo xtask test` needs beside those.
pub(crate) const TESTS: &[&str] = &[
    "chromium",
    "g++",
    "iptables",
    "lftp",
    "nats-server",
    "nftables",
    "nghttp2-server",
    "openssh-client",
    "openssh-server",
    "postgresql",
    "prometheus",
    "python3-venv",
    "python3-websockets",
    "vsftpd",
];

/// What `cargo xtask bench proxies` needs: the other proxies, and clients that make load.
pub(crate) const BENCH: &[&str] = &[
    "haproxy",
    "iperf3",
    "iproute2",
    "iptables",
    "libnginx-mod-stream",
    "nghttp2-client",
    "nginx-light",
    "util-linux",
    "wrk",
];

/// What `cargo xtask vm` needs beside what the tests do.
pub(crate) const VM: &[&str] = &[
    "binutils",
    "busybox-static",
    "cpio",
    "debian-archive-keyring",
    "e2fsprogs",
    "kmod",
    "procps",
    "qemu-system-x86",
    "xz-utils",
    "zstd",
];

/// What `cargo xtask package --check` needs.
pub(crate) const PACKAGE: &[&str] =
    &["binutils", "debootstrap", "systemd", "systemd-container", "util-linux"];

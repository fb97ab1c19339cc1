#!/bin/sh
# What README.md and docs/INSTALL.md say, from a Debian package, in a root of its own:
#   docs/tour.sh weir_VERSION_ARCHITECTURE.deb
# As root, with /proc, /sys (cgroup2 and a bpffs in it) and /dev. It makes a cgroup, and removes it.
# `cargo xtask package --check` runs it in a fresh Debian.
set -eu

package=$1
group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/weir-tour-$$
work=$(mktemp -d)
started=

step() {
    printf '\n+ %s\n' "$*"
}

fail() {
    printf 'tour: %s\n' "$*" >&2
    exit 1
}

# Waits until a command succeeds.
until_ok() {
    tries=0
    until "$@" >"$work/last" 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            cat "$work/last" >&2
            fail "in vain: $*"
        fi
        sleep 0.1
    done
}

clean() {
    for pid in $started; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    rmdir "$group" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT

step "dpkg -i"
dpkg -i "$package"
for file in /usr/bin/weir /etc/weir/weir.toml /usr/lib/systemd/system/weir.service \
    /usr/share/man/man1/weir-exec.1.gz /usr/share/bash-completion/completions/weir; do
    [ -e "$file" ] || fail "the package has no $file"
done

step "weir --version"
weir --version
weir --version | grep -q '^BPF object: sha256:' || fail "no digest of the BPF object"
[ "$(weir -V | wc -l)" = 1 ] || fail "-V is not one line"

step "weir run --print-config: the file of the package is the defaults"
weir run --print-config >"$work/defaults"
weir run --config /etc/weir/weir.toml --print-config | cmp - "$work/defaults"

step "weir check"
ip link set lo up
weir check

step "a server, and weir exec"
mkdir "$work/site"
echo hello >"$work/site/index.html"
python3 -m http.server --directory "$work/site" --bind 127.0.0.1 8000 >/dev/null 2>&1 &
started="$started $!"
until_ok curl -sf http://127.0.0.1:8000/
weir exec --record "$work/out.jsonl" -- curl -s http://127.0.0.1:8000/ >"$work/page" 2>"$work/table"
cat "$work/table"
[ "$(cat "$work/page")" = hello ] || fail "the page is another one"
grep -q 'http1' "$work/table" || fail "the table has no HTTP connection"
grep -q '"kind":"request".*"status":200' "$work/out.jsonl" || fail "no record of the request"

step "weir run, as the unit runs it"
mkdir "$group"
cat >/etc/weir/weir.toml <<EOF
[workload]
name = "shop"
cgroup = "$group"

[outbound]
capture_loopback = true

[admin]
address = "127.0.0.1:4191"
EOF
mkdir -p /run/weir
weir run --config /etc/weir/weir.toml 2>"$work/log" &
weir=$!
started="$started $weir"
until_ok curl -sf http://127.0.0.1:4191/ready
weir status

inside() {
    sh -c "echo \$\$ >'$group/cgroup.procs'; exec \"\$@\"" sh "$@"
}

inside curl -s http://127.0.0.1:8000/ | grep -q hello || fail "a captured client gets another page"
weir stat | grep '127.0.0.1:8000' || fail "weir stat does not have the connection"
curl -s http://127.0.0.1:4191/metrics | grep '^request_total{.*workload="shop"' ||
    fail "no metric of the request"

step "weir ports skip, weir explain, and the port detected again"
weir ports skip 8000 --outbound
weir explain 127.0.0.1:8000
weir explain 127.0.0.1:8000 | grep -q 'skip (cli)' || fail "the port is not skipped"
inside curl -s http://127.0.0.1:8000/ >/dev/null
weir ports detect 8000 --outbound

step "reload, and a stop with a drain"
kill -HUP "$weir"
until_ok grep -q 'configuration reloaded' "$work/log"
kill "$weir"
wait "$weir" || fail "weir ended with an error: $(cat "$work/log")"
inside curl -s http://127.0.0.1:8000/ | grep -q hello || fail "without weir, connections fail"

step "weir inject"
cat >"$work/pod.yaml" <<EOF
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  containers: []
EOF
weir inject "$work/pod.yaml" --skip-outbound-ports=4406 >"$work/injected.yaml"
weir uninject "$work/injected.yaml" | cmp - "$work/pod.yaml"

step "manual pages"
man -l /usr/share/man/man1/weir-exec.1.gz >"$work/manual"
grep -q 'weir exec' "$work/manual" || fail "the manual page is empty"

step "dpkg --purge"
dpkg --purge weir
[ ! -e /usr/bin/weir ] && [ ! -e /etc/weir/weir.toml ] || fail "something of the package is left"
if ls -d /sys/fs/bpf/weir/* 2>/dev/null; then
    fail "something of weir is left in the kernel"
fi

printf '\nthe tour is made\n'

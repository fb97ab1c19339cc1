# Second part of the guest: mounts what a running system has, then runs the tests one process each.
# Told by files in /payload: `environment`, `binds`, `tests`. Reports by lines that begin with ##weir.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /run/sshd /run/lock /run/mysqld
chmod 1777 /run/lock
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
# udev would make these.
ln -s /proc/self/fd /dev/fd
for fd in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${fd%:*}" "/dev/${fd#*:}"
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
hostname -F /etc/hostname
# The set-up of vsftpd, and of a network, would make these.
mkdir -p /srv/ftp
touch /etc/resolv.conf
ulimit -n 65536
ulimit -l unlimited

# What is under these paths on the host is under them here.
while read -r path; do
    mkdir -p "$path"
    mount --bind "/payload$path" "$path"
done </payload/binds
set -a
. /payload/environment
set +a

say() {
    # One line at a time: two tests may report at once.
    flock /run/report printf '##weir %s\n' "$*" >/dev/ttyS1
}

one() {
    local target=$1 binary=$2 test=$3 log begin code outcome
    log=$(mktemp)
    begin=$EPOCHREALTIME
    say "begin $target $test"
    timeout -k 5 "$WEIR_VM_TEST_LIMIT" "$binary" --exact "$test" --include-ignored --test-threads 1 \
        >"$log" 2>&1
    code=$?
    if [ $code = 0 ] && ! grep -q '^test result: ok. 1 passed' "$log"; then
        outcome=missing
    elif [ $code = 0 ]; then
        outcome=ok
    elif [ $code = 124 ] || [ $code = 137 ]; then
        outcome=hung
    else
        outcome=failed
    fi
    if [ $outcome != ok ]; then
        # Enough to see the reason; a verifier's log can be long.
        (head -n 60 "$log"; [ "$(wc -l <"$log")" -gt 120 ] && echo …; tail -n +61 "$log" | tail -n 60) |
            cut -c 1-400 | sed "s,^,##weir said $target $test |," | flock /run/report cat >/dev/ttyS1
    fi
    say "end $target $test $outcome $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))"
    rm -f "$log"
}
export -f say one

say "check $(timeout 120 "$WEIR_BIN" check -o json 2>/run/check | tr -d '\n')"
say "checked $? $(tr '\n' ' ' </run/check)"
xargs -r -P "$WEIR_VM_JOBS" -L 1 bash -c 'one "$@"' one </payload/tests
say "done"
sync
busybox poweroff -f

#!/bin/sh
# In a machine that systemd has booted, from check.rs: does the unit of the package work as it is?
# The last line of /root/boot.log is "the unit works" where it does.
exec >/root/boot.log 2>&1
set -ex
trap 'journalctl -u weir --no-pager | tail -40; systemctl poweroff --force --force' EXIT

is() {
    [ "$(systemctl show weir -p "$1" --value)" = "$2" ]
}

until_ok() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ]
        sleep 0.1
    done 2>/dev/null >/dev/null
}

captures() {
    weir status | grep -A1 'workload  *shop' | grep -q 'state  *capturing'
}

inside() {
    sh -c "echo \$\$ >/sys/fs/cgroup$shop/cgroup.procs; exec \"\$@\"" sh "$@"
}

ip link set lo up
mkdir -p /sys/fs/bpf
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
dpkg -i /weir.deb
cat >/etc/weir/weir.toml <<EOF
[workload]
name = "shop"
cgroup = "/sys/fs/cgroup/system.slice/shop.service"

[outbound]
capture_loopback = true

[record]
file = "/var/log/weir/records.jsonl"

[admin]
address = "127.0.0.1:4191"
EOF

# It starts before its workload.
systemctl start weir
is ActiveState active
is StatusText 'no workload yet'
systemctl start shop
until_ok captures
shop=$(systemctl show shop -p ControlGroup --value)
until_ok curl -sf http://127.0.0.1:8000/
inside curl -sf http://127.0.0.1:8000/ >/dev/null
weir stat | grep '127.0.0.1:8000'
grep '"status":200' /var/log/weir/records.jsonl

systemctl reload weir
is ActiveState active
until_ok is StatusText 'workloads: shop'

# One that hangs is ended by the watchdog and started again; before that, connections go direct once its
# heartbeat is old.
first=$(systemctl show weir -p MainPID --value)
kill -STOP "$first"
until_ok inside curl -sf -m 1 http://127.0.0.1:8000/
is NRestarts 0
until_ok is NRestarts 1
until_ok is ActiveState active
[ "$(systemctl show weir -p MainPID --value)" != "$first" ]
until_ok captures

# A service that is restarted has another cgroup.
systemctl restart shop
until_ok captures

systemctl stop weir
is Result success

# What does not mend itself is not tried again.
echo 'cgroup = 1' >>/etc/weir/weir.toml
if systemctl start weir; then false; fi
is ActiveState failed
is ExecMainStatus 2

dpkg --purge weir
[ ! -e /usr/bin/weir ]
trap - EXIT
echo 'the unit works'
systemctl poweroff --force --force

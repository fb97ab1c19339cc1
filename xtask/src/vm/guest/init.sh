#!/bin/busybox sh
# First process of the guest: loads the modules, mounts the root file system, goes on there.
# What it says goes to the second serial port; the first is the kernel's console.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS1 2>&1

end() {
    echo "##weir fatal $*"
    $b poweroff -f
}

echo "##weir alive $($b uname -r)"
if $b grep -q weir.probe /proc/cmdline; then
    $b poweroff -f
fi
while read -r module; do
    $b insmod "/modules/$module" || echo "##weir note module $module does not load"
done </order
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vdb ] && break
    $b sleep 1
done
$b mount -t ext4 /dev/vda /new || end "no root file system"
$b mount -t ext4 -o ro /dev/vdb /new/payload || end "no payload"
for dir in proc sys dev; do
    $b mount --move "/$dir" "/new/$dir"
done
exec $b switch_root /new /bin/bash /payload/run.sh || end "no shell"

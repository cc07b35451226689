#!/bin/sh
# Persistence, crashes and real drivers in a virtual machine: Debian 12 with systemd, irqbalance, fq, NICs with rings and
# interrupts (e1000e, vmxnet3, virtio_net), NVMe, two memory nodes. Not part of the default tests: it needs root,
# debootstrap and qemu-system-x86, and takes ten minutes or more.
#
#   tuning/tests/guest/run.sh [FOLDER]     FOLDER keeps the Debian tree for the next time (default /var/tmp/culvert-guest)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-/var/tmp/culvert-guest}
packages=systemd,systemd-sysv,udev,kmod,iproute2,linux-image-amd64,irqbalance,ethtool,procps,dbus
for program in debootstrap qemu-system-x86_64 mke2fs cargo; do
    command -v $program > /dev/null || { echo "skipped: $program is not installed"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: not root"; exit 0; }
mkdir -p "$folder"
[ -e "$folder/root/etc/debian_version" ] || debootstrap --variant=minbase --include=$packages bookworm "$folder/root"

cd "$here/../../.."
cargo build -p culvert-tuning --example tune
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
rm -rf "$folder/tree"
cp -a "$folder/root" "$folder/tree"
cp "$target/debug/examples/tune" "$folder/tree/usr/bin/culvert-tune"
cp "$here/inside.sh" "$folder/tree/usr/bin/guest-test"
chmod 755 "$folder/tree/usr/bin/culvert-tune" "$folder/tree/usr/bin/guest-test"
cat > "$folder/tree/etc/systemd/system/guest-test.service" <<UNIT
[Unit]
Description=The test
After=multi-user.target culvert-tune.service
[Service]
ExecStart=/usr/bin/guest-test
TimeoutStartSec=infinity
UNIT
mkdir -p "$folder/tree/etc/systemd/system/multi-user.target.wants"
ln -sf ../guest-test.service "$folder/tree/etc/systemd/system/multi-user.target.wants/guest-test.service"
echo guest > "$folder/tree/etc/hostname"
rm -f "$folder/disk" "$folder/nvme"
mke2fs -q -t ext4 -d "$folder/tree" "$folder/disk" 3G
truncate -s 256M "$folder/nvme"
rm -rf "$folder/tree"

kernel=$(ls "$folder"/root/boot/vmlinuz-* | tail -1)
initrd=$(ls "$folder"/root/boot/initrd.img-* | tail -1)
# KVM inside of some virtual machines hangs, so it is only used when asked for: GUEST_ACCELERATOR=kvm.
accelerate="-accel ${GUEST_ACCELERATOR:-tcg} -cpu max"
# shellcheck disable=SC2086
timeout 3600 qemu-system-x86_64 $accelerate -machine q35 -smp 4 -m 2G -nographic -no-user-config -nodefaults -serial stdio \
    -object memory-backend-ram,size=1G,id=m0 -object memory-backend-ram,size=1G,id=m1 \
    -numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,cpus=2-3,memdev=m1 \
    -kernel "$kernel" -initrd "$initrd" \
    -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.show_status=false panic=-1" \
    -drive "file=$folder/disk,if=none,id=d0,format=raw,cache=unsafe" -device virtio-blk-pci,drive=d0 \
    -drive "file=$folder/nvme,if=none,id=d1,format=raw,cache=unsafe" -device nvme,drive=d1,serial=guest \
    -netdev hubport,id=n0,hubid=0 -device e1000e,romfile=,netdev=n0 \
    -netdev hubport,id=n1,hubid=0 -device vmxnet3,romfile=,netdev=n1 \
    -netdev hubport,id=n2,hubid=0 -device virtio-net-pci,romfile=,netdev=n2 < /dev/null | tee "$folder/console"
grep -q GUEST-OK "$folder/console" && ! grep -q GUEST-FAILED "$folder/console"

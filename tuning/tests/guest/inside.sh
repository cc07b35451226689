#!/bin/sh
# Runs inside the guest of run.sh as a service, once per boot; each boot is a step. Prints what it sees on the console,
# ends every step with "STEP n done", and the last with "GUEST-OK". Any failure prints "GUEST-FAILED" and stops.
set -u
here=/var/lib/guest-test
state=/var/lib/culvert/tuning
tune="/usr/bin/culvert-tune --state $state tune"
site=/etc/culvert/tuning.toml
mkdir -p "$here"
step=$(cat "$here/step" 2>/dev/null || echo 1)

say() { echo "guest: $*" > /dev/console; }
fail() { say "GUEST-FAILED in step $step: $*"; sync; systemctl poweroff --force --force; sleep 60; exit 1; }
check() { what=$1; shift; if "$@" > "$here/out" 2>&1; then say "ok: $what"; else cat "$here/out" > /dev/console; fail "$what"; fi; }
refused() { what=$1 wanted=$2; shift 2; "$@" > "$here/out" 2>&1; got=$?; [ "$got" = "$wanted" ] || { cat "$here/out" > /dev/console; fail "$what: exit $got, not $wanted"; }; say "ok: $what"; }
next() { echo $((step + 1)) > "$here/step"; sync; say "STEP $step done"; }

# What tuning can see, without what changes by itself, without the module of fq, which stays loaded, and without the
# numbers and affinities of interrupts: each boot gives other numbers, and irqbalance, once it is started again, moves them.
picture() {
    $tune facts | grep -vE '"(collected_unix_s|available_bytes|memory_bytes|processed|dropped|time_squeeze|error_max_us|error_estimated_us|synchronized|rx_packets|rx_dropped|rx_missed|rx_errors|tx_dropped|pid|effective|free|index|NET_SCH_FQ|affinity|irq)"'
}
same_as_before() { picture > "$here/now"; diff "$here/before" "$here/now"; }
# Links that were reset need a moment for their carrier, and services for their start.
check_same() { soon "$1" same_as_before; }
soon() { what=$1; shift; i=0; until "$@" > "$here/out" 2>&1; do i=$((i + 1)); [ $i -gt 120 ] && { cat "$here/out" > /dev/console; fail "$what"; }; sleep 0.5; done; say "ok: $what"; }
reads() { [ "$(cat "$1")" = "$2" ] || { echo "$1 is $(cat "$1"), not $2"; return 1; }; }
fq_at() { tc qdisc show dev "$1" | grep -q '^qdisc fq .* root' || { tc qdisc show dev "$1"; return 1; }; }
ring_of() { ethtool -g "$1" | awk '/^Current/ {now = 1} now && /^RX:/ {print $2}'; }
ring_is() { [ "$(ring_of "$1")" = "$2" ] || { ethtool -g "$1"; return 1; }; }
no_files() { ! ls /etc/sysctl.d/90-culvert.conf /etc/udev/rules.d/90-culvert.rules /etc/systemd/system/culvert-tune.service /etc/systemd/system/multi-user.target.d/90-culvert-tune.conf 2>/dev/null | grep .; }
settled() { $tune status --json | grep -q '"drifted": \[\]' && [ "$($tune status --json | grep -c '"held": 0')" = 0 ]; }

first=$(ls /sys/class/net | grep -v '^lo$' | sed -n 1p)
links=$(ls /sys/class/net | grep -v '^lo$')
driver() { basename "$(readlink "/sys/class/net/$1/device/driver")"; }
link_of() { for l in $links; do [ "$(driver "$l")" = "$1" ] && echo "$l"; done; }
for l in $links; do ip link set "$l" up; done
e1000e=$(link_of e1000e) vmxnet3=$(link_of vmxnet3) virtio=$(link_of virtio_net)
say "step $step, kernel $(uname -r), e1000e $e1000e, vmxnet3 $vmxnet3, virtio_net $virtio, irqbalance $(systemctl is-active irqbalance)"

case $step in
1)  # A site file, and everything as it is before.
    mkdir -p /etc/culvert
    { echo 'storage_bytes_per_second = 1000000'; echo 'enable = ["nic.busy_poll", "cpu.c_states"]'
      for l in $links; do echo "[links.$l]"; echo 'data = true'; [ "$l" = "$e1000e" ] && echo 'mtu = 4000'; done; } > $site
    sleep 5
    picture > "$here/before"
    $tune audit > /dev/console
    check "a plan" $tune plan --profile dtn-100g --all
    cat "$here/out" > /dev/console
    # Nothing is confirmed: the guard undoes it, files and all.
    check "apply without confirming" $tune apply --profile dtn-100g --persist --timeout 3
    check "fq hangs at the e1000e" fq_at "$e1000e"
    check "the ring is larger" ring_is "$e1000e" 4096
    check "no file yet" no_files
    soon "the guard rolls back" sh -c "$tune status | grep -q ': rolled back: '"
    check_same "the host is as it was"
    # The power fails while changes wait to be confirmed.
    check "apply again" $tune apply --profile dtn-100g --persist --timeout 10m
    next; sync
    echo b > /proc/sysrq-trigger; sleep 60 ;;
2)  # After the crash nothing is left, and the next command closes the journal.
    sleep 5
    check_same "nothing outlived the crash"
    check "no file" no_files
    check "the journal is closed" sh -c "$tune status 2>&1 | grep -q 'restarted before it was confirmed'"
    check "apply" $tune apply --profile dtn-100g --persist --timeout 10m
    check "confirm" $tune confirm
    refused "applied already" 9 $tune apply --profile dtn-100g --persist
    check "the units are in order" systemd-analyze verify --man=no culvert-tune.service
    check "the service runs" systemctl is-active culvert-tune.service
    check "irqbalance is stopped" sh -c '! systemctl is-active irqbalance'
    # A driver that starts anew forgets its ring, its interrupts and its queueing discipline.
    ring=$(ring_of "$e1000e")
    ethtool -G "$e1000e" rx 256; tc qdisc del dev "$e1000e" root; systemctl start irqbalance
    soon "the watcher sets the ring again" ring_is "$e1000e" "$ring"
    soon "the watcher hangs fq again" fq_at "$e1000e"
    soon "the watcher stops irqbalance again" sh -c '! systemctl is-active irqbalance'
    soon "everything holds" settled
    journalctl -u culvert-tune --no-pager | tail -20 > /dev/console
    next; systemctl reboot ;;
3)  # After a restart everything is there again: by sysctl.d, udev, and the service.
    soon "everything holds after the restart" settled
    check "sysctl" sh -c '[ "$(sysctl -n net.core.rmem_max)" = 2147483647 ]'
    check "fq" fq_at "$e1000e"
    check "the ring" ring_is "$e1000e" 4096
    check "the MTU" reads "/sys/class/net/$e1000e/mtu" 4000
    check "read-ahead" reads /sys/block/nvme0n1/queue/read_ahead_kb 4096
    check "irqbalance is stopped" sh -c '! systemctl is-active irqbalance'
    # And goes away again.
    check "rollback" $tune rollback
    cat "$here/out" > /dev/console
    check "no file" no_files
    next; systemctl reboot ;;
4)  # After another restart nothing tells that anything was ever done.
    sleep 5
    check "no file" no_files
    check "no service" sh -c '! systemctl cat culvert-tune.service'
    check "irqbalance runs again" systemctl is-active irqbalance
    check_same "the host is as it was"
    say "GUEST-OK"; sync; systemctl poweroff ;;
esac

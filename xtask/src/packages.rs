//! Distribution packages used by tests and benchmarks if they are installed.
//!
//! Building and running Culvert does not need them. If they cannot be installed, their users print
//! `skipped: why`.

use std::process::{Command, Stdio};

/// Programs used by the tests, and the packages that contain them on Debian and derivatives.
pub const OF_TESTS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("promtool", "prometheus"),
    ("b3sum", "b3sum"),
    ("tshark", "tshark"),
    ("python3", "python3-venv"),
    ("iperf3", "iperf3"),
    ("systemd-analyze", "systemd"),
    ("systemd-socket-activate", "systemd"),
    ("dpkg-deb", "dpkg"),
    ("debootstrap", "debootstrap"),
    ("mandoc", "mandoc"),
    ("strip", "binutils"),
    ("lintian", "lintian"),
    ("man", "man-db"),
    ("nft", "nftables"),
    ("strace", "strace"),
    ("faketime", "faketime"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("setpriv", "util-linux"),
    ("zsh", "zsh"),
    ("fish", "fish"),
    // The portal's counterparts. A client of PostgreSQL alone has no `pg_ctlcluster`.
    ("pg_ctlcluster", "postgresql"),
    ("nginx", "nginx-light"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("chromium", "chromium"),
];

/// Programs that a package is built with.
pub const OF_PACKAGING: &[(&str, &str)] = &[("dpkg-deb", "dpkg"), ("strip", "binutils")];

/// Programs of the virtual machine.
pub const OF_THE_MACHINE: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ip", "iproute2"),
    ("apt-get", "apt"),
    ("dpkg", "dpkg"),
    ("xz", "xz-utils"),
    ("ldd", "libc-bin"),
    ("timeout", "coreutils"),
];

/// Programs of the benchmarks.
pub const OF_BENCHMARKS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("taskset", "util-linux"),
    ("iperf3", "iperf3"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("rsync", "rsync"),
    ("rclone", "rclone"),
    ("openssl", "openssl"),
    ("xrootd", "xrootd-server"),
    ("xrdcp", "xrootd-client"),
    ("globus-gridftp-server", "globus-gridftp-server-progs"),
    ("globus-url-copy", "globus-gass-copy-progs"),
];

/// Installs what is missing, if this is root on a machine with apt-get; reports what is still
/// missing.
pub fn install_missing(wanted: &[(&str, &str)]) {
    let mut missing: Vec<&str> = missing(wanted);
    if missing.is_empty() {
        return;
    }
    if rustix::process::geteuid().is_root() && is_installed("apt-get") {
        println!("installing {}", missing.join(" "));
        apt_get(&["update"]);
        // A package that a distribution lacks must not prevent the others from being installed.
        for package in &missing {
            apt_get(&["install", "--no-install-recommends", package]);
        }
        missing = self::missing(wanted);
    }
    if !missing.is_empty() {
        println!("without {}: what needs them will be skipped", missing.join(", "));
    }
}

/// Whether a program is installed, for users or for root.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn missing<'a>(wanted: &[(&str, &'a str)]) -> Vec<&'a str> {
    wanted.iter().filter(|(program, _)| !is_installed(program)).map(|&(_, package)| package).collect()
}

fn apt_get(arguments: &[&str]) {
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("apt-get {} failed", arguments.join(" "));
    }
}

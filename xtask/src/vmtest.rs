//! AF_XDP on a real driver in zero-copy mode: a virtual machine with two `virtio_net` NICs, on a kernel whose driver has it (6.13 or later).
//!
//! The kernel is Debian's, downloaded and unpacked and not installed. The root file system is an archive in memory with the few programs that the
//! guest runs; its first process is `culvert-guest` (`tests/src/bin/culvert-guest.rs`), which does everything and prints the verdict. QEMU emulates
//! in software, so any machine can run it.

mod initramfs;
mod kernel;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::packages::{OF_THE_MACHINE, install_missing, is_installed};
use initramfs::Initramfs;
use kernel::Kernel;

/// The machine is given up after this many seconds. It takes about a minute on an idle machine with two cores.
const PATIENCE_SECONDS: u32 = 480;
/// Without `iommu_platform` the zero-copy bind has no device to map memory for; with a guest offload switched on, the driver refuses XDP.
const NIC_OPTIONS: &str = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,csum=off,gso=off,\
                           iommu_platform=on,disable-legacy=on,rx_queue_size=1024,romfile=";

/// Runs the machine; says why not where it cannot.
pub fn run() -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        println!("skipped: the virtual machine's kernel is for x86_64");
        return Ok(());
    }
    install_missing(OF_THE_MACHINE);
    if let Some((program, package)) = OF_THE_MACHINE.iter().find(|(program, _)| !is_installed(program)) {
        println!("skipped: the virtual machine needs {program} ({package})");
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vmtest");
    std::fs::create_dir_all(&folder)?;
    let kernel = match Kernel::find(&folder) {
        Ok(kernel) => kernel,
        Err(error) => {
            println!("skipped: the virtual machine has no kernel: {error:#}");
            return Ok(());
        }
    };
    crate::steps::cargo(&["build", "--locked", "--package", "culvert", "--package", "culvert-tests", "--bins"], &[])?;
    let archive = folder.join("initramfs");
    pack(&kernel, &folder, &archive)?;
    boot(&kernel.image, &archive)
}

/// The guest's root file system.
fn pack(kernel: &Kernel, folder: &Path, archive: &Path) -> anyhow::Result<()> {
    // This task was built beside them.
    let task = std::env::current_exe()?;
    let programs = task.parent().context("a program lies in a folder")?;
    let mut files = Initramfs::new();
    for (from, to) in [("culvert-guest", "/init"), ("culvert", "/bin/culvert")] {
        let slim = folder.join(from);
        // Without its line tables the program is a tenth, and so is the time to load it.
        let stripped = Command::new("strip").args(["--strip-debug", "-o"]).arg(&slim).arg(programs.join(from)).status();
        if !stripped.is_ok_and(|status| status.success()) {
            std::fs::copy(programs.join(from), &slim)?;
        }
        files.program(&slim, to)?;
    }
    files.program(&installed("ip")?, "/bin/ip")?;
    for module in &kernel.modules {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        files.file(&format!("/modules/{}", name.trim_end_matches(".xz")), 0o644, &kernel::unpacked(module)?);
    }
    std::fs::write(archive, files.finish())?;
    Ok(())
}

fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed"))
}

/// Boots, shows what the guest says, and believes its last line.
fn boot(image: &Path, archive: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut machine = Command::new("timeout");
    machine.arg(PATIENCE_SECONDS.to_string()).arg("qemu-system-x86_64");
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-no-reboot"]);
    machine.args(["-nodefaults", "-nographic", "-serial", "stdio"]);
    machine.arg("-kernel").arg(image).arg("-initrd").arg(archive);
    // What the kernel does not know becomes the first process's environment.
    machine.args(["-append", "console=ttyS0 panic=-1 quiet PATH=/bin CULVERT_BIN=/bin/culvert"]);
    for number in ["0", "1"] {
        machine.args(["-netdev", &format!("hubport,id=h{number},hubid=0")]);
        machine.args(["-device", &format!("virtio-net-pci,netdev=h{number},{NIC_OPTIONS}")]);
    }
    let mut child =
        machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the virtual machine does not start")?;
    let mut console = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no console")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim().to_owned();
        if line.contains("guest: ") {
            println!("{line}");
        }
        console.push(line);
    }
    child.wait()?;
    if console.iter().any(|line| line.contains("GUEST-OK")) {
        println!("the virtual machine took {:.0} s", began.elapsed().as_secs_f64());
        return Ok(());
    }
    let last = console.len().saturating_sub(60);
    bail!("the virtual machine failed; the end of its console:\n{}", console[last..].join("\n"))
}

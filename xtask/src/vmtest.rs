//! AF_XDP on a real driver in zero-copy mode: a virtual machine with two `virtio_net` NICs, on a
//! kernel whose driver has it (6.13 or later), and two more with two queues each and a receive
//! hash, where taps and a bridge can be made for them.
//!
//! The kernel is Debian's, downloaded and unpacked and not installed. The root file system is an
//! archive in memory with the few programs that the guest runs; its first process is
//! `culvert-guest` (`tests/src/bin/culvert-guest.rs`), which does everything and prints the
//! verdict. QEMU emulates in software, so any machine can run it.

mod initramfs;
mod kernel;
mod switch;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::packages::{OF_THE_MACHINE, install_missing, is_installed};
use initramfs::Initramfs;
use kernel::Kernel;
use switch::{QUEUES, Switch};

/// The machine is stopped after this many seconds. It takes a minute or two on an idle machine with
/// two cores, and eight on one with six times its capacity in work.
const PATIENCE_SECONDS: u32 = 1_200;
/// Without `iommu_platform` the zero-copy bind has no device to map memory for; with a guest
/// offload switched on, the driver refuses XDP.
const NIC_OPTIONS: &str = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,csum=off,gso=off,\
                           iommu_platform=on,disable-legacy=on,rx_queue_size=1024,romfile=";

/// Runs the machine; says why not if it cannot.
pub fn run(release: bool) -> anyhow::Result<()> {
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
    let mut build = vec!["build", "--locked", "--package", "culvert", "--package", "culvert-tests", "--bins"];
    build.extend(release.then_some("--release"));
    crate::steps::cargo(&build, &[])?;
    // This task was built beside the programs of the dev build.
    let task = std::env::current_exe()?;
    let programs = task.parent().context("a program lies in a folder")?;
    let programs = if release { programs.join("../release") } else { programs.to_owned() };
    let archive = folder.join("initramfs");
    pack(&kernel, &programs, &folder, &archive)?;
    boot(&kernel.image, &archive)
}

/// The guest's root file system.
fn pack(kernel: &Kernel, programs: &Path, folder: &Path, archive: &Path) -> anyhow::Result<()> {
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

/// Boots, prints the guest's output, and uses its last line as the verdict.
fn boot(image: &Path, archive: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let switch = Switch::new();
    if let Err(error) = &switch {
        println!("skipped: NICs with several queues in the virtual machine: {error:#}");
    }
    let mut machine = switch.as_ref().map_or_else(|_| Command::new("timeout"), |switch| switch.command("timeout"));
    machine.arg(PATIENCE_SECONDS.to_string()).arg("qemu-system-x86_64");
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-no-reboot"]);
    machine.args(["-nodefaults", "-nographic", "-serial", "stdio"]);
    machine.arg("-kernel").arg(image).arg("-initrd").arg(archive);
    // What the kernel does not know becomes the first process's environment.
    let queues = if switch.is_ok() { QUEUES } else { 1 };
    machine.arg("-append");
    machine.arg(format!("console=ttyS0 panic=-1 quiet PATH=/bin CULVERT_BIN=/bin/culvert QUEUES={queues}"));
    for number in ["0", "1"] {
        machine.args(["-netdev", &format!("hubport,id=h{number},hubid=0")]);
        machine.args(["-device", &format!("virtio-net-pci,netdev=h{number},{NIC_OPTIONS}")]);
    }
    for (number, tap) in switch.iter().flat_map(Switch::taps).enumerate() {
        let backend = format!("tap,id=t{number},ifname={tap},queues={QUEUES},script=no,downscript=no,vhost=off");
        // Two vectors for each queue pair, one for the control queue and one for changes of the
        // configuration.
        let vectors = 2 * QUEUES + 2;
        let device = format!(
            "virtio-net-pci,netdev=t{number},mq=on,rss=on,vectors={vectors},mac=02:00:00:00:00:1{number},{NIC_OPTIONS}"
        );
        machine.args(["-netdev", &backend, "-device", &device]);
    }
    machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = machine.spawn().context("the virtual machine does not start")?;
    // QEMU warns about much that is normal; its output matters only if the guest failed.
    let mut said = child.stderr.take().context("no standard error")?;
    let warnings = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = said.read_to_string(&mut text);
        text
    });
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
    let warnings = warnings.join().unwrap_or_default();
    bail!("the virtual machine failed; the end of its console:\n{}\n{warnings}", console[last..].join("\n"))
}

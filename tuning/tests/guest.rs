//! Persistence, a crash of the whole host, and real drivers, in a virtual machine with systemd:
//! `tests/guest/run.sh`.
//!
//! Outside of the default run, since it installs a Debian and restarts it three times:
//! `cargo test -p culvert-tuning --test guest -- --ignored --nocapture`

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
#[ignore = "a virtual machine with Debian: needs root, debootstrap and qemu, and takes ten minutes or more: cargo test -p culvert-tuning --test guest -- --ignored --nocapture"]
fn settings_outlive_restarts_and_go_without_a_trace() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/run.sh");
    let output = Command::new("sh").arg(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    if console.starts_with("skipped: ") {
        eprintln!("{}", console.trim());
        return;
    }
    let told: Vec<&str> = console.lines().filter(|line| line.contains("guest: ")).collect();
    eprintln!("{}", told.join("\n"));
    assert!(output.status.success(), "{console}");
}

//! Two taps with several queues each and a bridge between them, in a network namespace of their
//! own: what NICs with several queues are plugged into. QEMU's own hub has one queue.

use std::process::{Command, Stdio};

use anyhow::bail;

/// Queues of each tap.
pub const QUEUES: u32 = 2;

/// The namespace; it goes with this value.
#[derive(Debug)]
pub struct Switch {
    namespace: String,
}

impl Switch {
    /// Makes it.
    ///
    /// # Errors
    /// Without the privilege, or a kernel that has no taps or bridges.
    pub fn new() -> anyhow::Result<Self> {
        let switch = Self { namespace: format!("culvertvm{}", std::process::id()) };
        ip(&["netns", "add", &switch.namespace])?;
        let inside = |words: &[&str]| ip(&[&["-n", &switch.namespace], words].concat());
        inside(&["link", "add", "bridge", "type", "bridge"])?;
        inside(&["link", "set", "bridge", "up"])?;
        for tap in switch.taps() {
            inside(&["tuntap", "add", tap, "mode", "tap", "multi_queue"])?;
            inside(&["link", "set", tap, "master", "bridge", "up"])?;
        }
        Ok(switch)
    }

    /// The taps.
    pub const fn taps(&self) -> [&'static str; 2] {
        ["tap0", "tap1"]
    }

    /// A command that runs beside them.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

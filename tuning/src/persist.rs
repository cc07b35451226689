//! Files that preserve held settings across a reboot.
//!
//! sysctl.d and udev rules set what they can early in the boot. A service that runs the watcher
//! sets the rest (interrupts, queueing disciplines, rings). No `.link` file is written: the first
//! one that matches a NIC hides all others, and with them the distribution's names
//! (`docs/decisions/0012-persistence.md`). Every file starts with a line that marks it as
//! Culvert's.

use std::collections::BTreeMap;
use std::fmt::Write;

use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, HostError, OWNED_FILE_FIRST_LINE};

use crate::transaction::Intent;

/// The file for sysctls.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/90-culvert.conf";
/// The file for disk attributes.
pub const UDEV_FILE: &str = "/etc/udev/rules.d/90-culvert.rules";
/// The service that runs the watcher.
pub const SERVICE_FILE: &str = "/etc/systemd/system/culvert-tune.service";
/// The drop-in that starts the service at boot. A link created by `systemctl enable` could not
/// carry the mark of Culvert's files.
pub const WANTS_FILE: &str = "/etc/systemd/system/multi-user.target.d/90-culvert-tune.conf";
/// The service's name.
pub const SERVICE: &str = "culvert-tune.service";

/// The files needed for `wanted` to survive a reboot, as intents; only those that differ from what
/// exists.
///
/// `watch_command` is the program that runs the watcher, with an absolute path, and its arguments.
///
/// # Errors
/// [`HostError`] if a file of that name is not Culvert's, or cannot be read.
pub fn intents(
    wanted: &BTreeMap<Setting, Value>,
    watch_command: &[&str],
    host: &mut dyn Host,
) -> Result<Vec<Intent>, HostError> {
    let files = [
        (SYSCTL_FILE, sysctl_file(wanted)),
        (UDEV_FILE, udev_file(wanted)),
        (SERVICE_FILE, Some(service_file(watch_command))),
        (WANTS_FILE, Some(wants_file())),
    ];
    let mut intents = Vec::new();
    for (path, content) in files {
        let intent = Intent::file(path, content);
        if host.read(&intent.setting)? != intent.to {
            intents.push(intent);
        }
    }
    Ok(intents)
}

fn sysctl_file(wanted: &BTreeMap<Setting, Value>) -> Option<String> {
    let mut text = String::new();
    for (setting, value) in wanted {
        let _ = match setting {
            Setting::Sysctl { key } => writeln!(text, "{key} = {value}"),
            Setting::DirtyLimit { background } => {
                let name = if *background { "vm.dirty_background" } else { "vm.dirty" };
                let (kind, number) = value.text().split_once(' ').unwrap_or(("ratio", value.text()));
                writeln!(text, "{name}_{kind} = {number}")
            }
            _ => Ok(()),
        };
    }
    (!text.is_empty()).then(|| format!("{OWNED_FILE_FIRST_LINE}{text}"))
}

fn udev_file(wanted: &BTreeMap<Setting, Value>) -> Option<String> {
    let mut text = String::new();
    for (setting, value) in wanted {
        let Setting::KernelFile { path } = setting else { continue };
        let Some((disk, attribute)) = path.strip_prefix("/sys/block/").and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        let _ = writeln!(
            text,
            "ACTION==\"add|change\", SUBSYSTEM==\"block\", KERNEL==\"{disk}\", ATTR{{{attribute}}}=\"{value}\""
        );
    }
    (!text.is_empty()).then(|| format!("{OWNED_FILE_FIRST_LINE}{text}"))
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines").
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c));
    if is_plain { escaped } else { format!("\"{escaped}\"") }
}

fn service_file(watch_command: &[&str]) -> String {
    let watch_command: Vec<String> = watch_command.iter().map(|word| quoted(word)).collect();
    let watch_command = watch_command.join(" ");
    format!(
        "{OWNED_FILE_FIRST_LINE}\
         [Unit]\n\
         Description=Culvert host tuning: sets what was confirmed and keeps it\n\
         Documentation=man:culvert-tune(1)\n\
         After=systemd-sysctl.service network.target irqbalance.service tuned.service\n\
         \n\
         [Service]\n\
         ExecStart={watch_command}\n\
         Restart=on-failure\n\
         RestartSec=10\n"
    )
}

fn wants_file() -> String {
    format!("{OWNED_FILE_FIRST_LINE}[Unit]\nWants={SERVICE}\n")
}

#[cfg(test)]
mod tests {
    use culvert_host::fake::FakeHost;

    use super::*;

    const WATCH: [&str; 5] = ["/usr/bin/culvert", "--state", "/srv/a state/100%", "tune", "watch"];

    fn wanted() -> BTreeMap<Setting, Value> {
        BTreeMap::from([
            (Setting::sysctl("net.ipv4.tcp_rmem"), Value::new("4096 87380 33554432")),
            (Setting::DirtyLimit { background: true }, Value::new("bytes 5000")),
            (Setting::kernel_file("/sys/block/nvme0n1/queue/scheduler"), Value::new("none")),
            (Setting::Rings { link: "a".to_owned() }, Value::new("rx 1 tx 1")),
        ])
    }

    #[test]
    fn files_say_what_is_wanted() {
        let mut host = FakeHost::default();
        let intents = intents(&wanted(), &WATCH, &mut host).unwrap();
        let text = |path: &str| {
            let setting = Setting::OwnedFile { path: path.to_owned() };
            intents.iter().find(|intent| intent.setting == setting).unwrap().to.text().to_owned()
        };
        assert!(intents.iter().all(|intent| intent.to.text().starts_with("# Written by culvert tune")));
        assert!(text(SYSCTL_FILE).contains("net.ipv4.tcp_rmem = 4096 87380 33554432\n"));
        assert!(text(SYSCTL_FILE).contains("vm.dirty_background_bytes = 5000\n"));
        assert!(text(UDEV_FILE).contains("KERNEL==\"nvme0n1\", ATTR{queue/scheduler}=\"none\""));
        assert!(text(SERVICE_FILE).contains("ExecStart=/usr/bin/culvert --state \"/srv/a state/100%%\" tune watch\n"));
        assert!(text(WANTS_FILE).contains("Wants=culvert-tune.service"));
    }

    #[test]
    fn files_that_are_right_are_left_alone() {
        let mut host = FakeHost::default();
        for intent in intents(&wanted(), &WATCH, &mut host).unwrap() {
            host.write(&intent.setting, &intent.to).unwrap();
        }
        assert!(intents(&wanted(), &WATCH, &mut host).unwrap().is_empty());
    }
}

//! Services: recognized by their process, started and stopped by systemd.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{HostError, RealHost, malformed};
use crate::setting::{Setting, Value};

/// The kernel truncates a process name to 15 bytes.
const COMM_BYTES: usize = 15;
/// The time within which a service's process must appear or end after systemctl returned.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

impl RealHost {
    /// Whether a process of the service runs.
    fn runs(&self, unit: &str) -> bool {
        let comm = &unit[..unit.len().min(COMM_BYTES)];
        let mut pids = self.files.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
        pids.any(|pid| self.files.text(&format!("/proc/{pid}/comm")).as_deref() == Some(comm))
    }

    pub(super) fn read_service(&self, unit: &str) -> Value {
        Value::new(if self.runs(unit) { "running" } else { "stopped" })
    }

    pub(super) fn may_start_and_stop(&self, setting: &Setting) -> Result<(), HostError> {
        if !self.files.is_host() || !self.files.exists("/run/systemd/system") {
            let reason = "systemd is not running here: start and stop it the way this system does".to_owned();
            return Err(HostError::Unsupported { setting: setting.to_string(), reason });
        }
        if !rustix::process::geteuid().is_root() {
            let reason = "it takes root".to_owned();
            return Err(HostError::NotPermitted { setting: setting.to_string(), reason });
        }
        Ok(())
    }

    pub(super) fn write_service(&self, setting: &Setting, unit: &str, value: &Value) -> Result<(), HostError> {
        let verb = match value.text() {
            "running" => "start",
            "stopped" => "stop",
            _ => return Err(malformed(setting, value, "running or stopped")),
        };
        self.may_start_and_stop(setting)?;
        let output =
            Command::new("systemctl").args([verb, &format!("{unit}.service")]).stdin(Stdio::null()).output().map_err(
                |error| HostError::Unsupported {
                    setting: setting.to_string(),
                    reason: format!("systemctl could not be run: {error}"),
                },
            )?;
        if !output.status.success() {
            return Err(HostError::Refused {
                setting: setting.to_string(),
                value: value.to_string(),
                reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        let began = Instant::now();
        while self.read_service(unit) != *value && began.elapsed() < SEEN_WITHIN {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

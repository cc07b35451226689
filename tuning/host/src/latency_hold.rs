//! Limits the wake-up latency of CPUs while transfers run, which keeps them out of deep idle states
//! (`Documentation/power/pm_qos_interface.rst`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The kernel's file for the limit.
const FILE: &str = "/dev/cpu_dma_latency";

/// The limit holds until this is dropped or the process dies.
#[derive(Debug)]
pub struct LatencyHold {
    _file: File,
}

impl LatencyHold {
    /// Requests that no CPU takes longer than `latency_us` to wake up.
    ///
    /// # Errors
    /// The kernel's: only root may open the file unless the host's admin gave others access.
    pub fn acquire(latency_us: u32) -> io::Result<Self> {
        Self::acquire_at(Path::new(FILE), latency_us)
    }

    fn acquire_at(path: &Path, latency_us: u32) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let limit = i32::try_from(latency_us).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        file.write_all(&limit.to_ne_bytes())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_four_native_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hold = LatencyHold::acquire_at(file.path(), 10).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), 10_i32.to_ne_bytes());
        drop(hold);
        assert!(LatencyHold::acquire_at(Path::new("/nonexistent"), 10).is_err());
    }
}

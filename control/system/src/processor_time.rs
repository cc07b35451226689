//! Processor time of this node's two processes, for the result's cost per byte.

use rustix::process::Pid;

/// Measures processor time from a starting point.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    data_plane: u32,
    begun_us: u64,
}

impl CpuMeter {
    /// Starts the measurement; `data_plane` is the data plane's process ID.
    #[must_use]
    pub fn begin(data_plane: u32) -> Self {
        Self { data_plane, begun_us: cpu_us(data_plane) }
    }

    /// Processor time of both processes since the start, in microseconds. Concurrent transfers
    /// share it.
    #[must_use]
    pub fn elapsed_us(&self) -> u64 {
        cpu_us(self.data_plane).saturating_sub(self.begun_us)
    }
}

/// The processors' clock in hertz, from `/proc/cpuinfo`; 0 if it is not there.
#[must_use]
pub fn nominal_hertz() -> f64 {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let megahertz = info.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok());
    megahertz.unwrap_or(0.0) * 1e6
}

/// Thousandths of a clock cycle per byte.
#[must_use]
pub fn millicycles_per_byte(cpu_us: u64, bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { (cpu_us as f64 / 1e6 * nominal_hertz() * 1e3 / bytes as f64) as u64 }
}

fn cpu_us(data_plane: u32) -> u64 {
    let own = std::process::id();
    process_cpu_us(own) + process_cpu_us(data_plane)
}

/// User and system time of a process from `/proc/PID/stat` (proc(5), fields 14 and 15).
fn process_cpu_us(process: u32) -> u64 {
    if Pid::from_raw(process as i32).is_none() {
        return 0;
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return 0 };
    // The second field is the program's name in parentheses and may contain anything.
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_is_seen() {
        let meter = CpuMeter::begin(0);
        let mut sum = 0u64;
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(60) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(std::hint::black_box(sum) != 1);
        assert!(meter.elapsed_us() > 0);
    }
}

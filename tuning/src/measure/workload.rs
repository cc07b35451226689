//! The measured workload: a command that prints its rate, or TCP over loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The size of one write of the loopback workload.
const WRITE_BYTES: usize = 128 << 10;
/// The longest output of a command that is parsed.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// JSON fields with the rate: those of Culvert's result and of iperf3's report (`iperf3 -J`).
const RATE_FIELDS: [&str; 4] =
    ["/goodput_bps", "/end/sum_received/bits_per_second", "/end/sum/bits_per_second", "/bits_per_second"];

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WorkloadError(pub String);

/// A program that moves data and reports its rate.
pub trait Workload {
    /// Its name, for the ledger.
    fn name(&self) -> String;

    /// Runs for about `duration` and returns bits per second.
    ///
    /// # Errors
    /// [`WorkloadError`], with what failed.
    fn run(&mut self, duration: Duration) -> Result<f64, WorkloadError>;
}

/// A command whose output, or last line of it, is JSON with a rate in a field of Culvert or iperf3,
/// or a plain number of bits per second.
#[derive(Clone, Debug)]
pub struct CommandWorkload {
    words: Vec<String>,
}

impl CommandWorkload {
    /// A program with its arguments.
    ///
    /// # Errors
    /// [`WorkloadError`] if `words` is empty.
    pub fn new(words: Vec<String>) -> Result<Self, WorkloadError> {
        if words.is_empty() {
            return Err(WorkloadError("the command is empty: write a program after --".to_owned()));
        }
        Ok(Self { words })
    }
}

impl Workload for CommandWorkload {
    fn name(&self) -> String {
        self.words.join(" ")
    }

    fn run(&mut self, _: Duration) -> Result<f64, WorkloadError> {
        let error = |why: String| WorkloadError(format!("{}: {why}", self.name()));
        let output = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::null())
            .output()
            .map_err(|why| error(why.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("it printed nothing on standard error");
            return Err(error(format!("{}: {said}", output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(OUTPUT_BYTES_MAX)]).into_owned();
        rate_of(&text).ok_or_else(|| {
            error("its output is neither a number nor JSON with goodput_bps or iperf3's bits_per_second".to_owned())
        })
    }
}

/// TCP streams from memory to memory over loopback. They show the effect of sysctls and CPU
/// settings, but not of NICs.
#[derive(Clone, Debug)]
pub struct LoopbackWorkload {
    streams: usize,
}

impl LoopbackWorkload {
    /// With this many concurrent streams.
    #[must_use]
    pub fn new(streams: usize) -> Self {
        Self { streams: streams.clamp(1, 64) }
    }
}

impl Workload for LoopbackWorkload {
    fn name(&self) -> String {
        format!("{} TCP streams over loopback", self.streams)
    }

    fn run(&mut self, duration: Duration) -> Result<f64, WorkloadError> {
        let error = |why: std::io::Error| WorkloadError(format!("TCP over loopback: {why}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        let received = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..self.streams {
            let mut sender = TcpStream::connect(address).map_err(error)?;
            let (mut receiver, _) = listener.accept().map_err(error)?;
            let ends = over.clone();
            threads.push(std::thread::spawn(move || {
                let bytes = vec![0x5a_u8; WRITE_BYTES];
                while !ends.load(Ordering::Relaxed) && sender.write_all(&bytes).is_ok() {}
            }));
            let count = received.clone();
            threads.push(std::thread::spawn(move || {
                let mut bytes = vec![0_u8; WRITE_BYTES];
                while let Ok(read @ 1..) = receiver.read(&mut bytes) {
                    count.fetch_add(read as u64, Ordering::Relaxed);
                }
            }));
        }
        let began = Instant::now();
        std::thread::sleep(duration);
        let (bytes, took) = (received.load(Ordering::Relaxed), began.elapsed());
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            let _ = thread.join();
        }
        Ok(bytes as f64 * 8.0 / took.as_secs_f64())
    }
}

/// The rate in a command's output.
fn rate_of(text: &str) -> Option<f64> {
    let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let of_json = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        RATE_FIELDS.iter().find_map(|field| value.pointer(field)?.as_f64())
    };
    let rate = last.trim().parse().ok().or_else(|| of_json(last)).or_else(|| of_json(text))?;
    Some(rate).filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_tools_are_read() {
        assert_eq!(rate_of("9.4e9\n"), Some(9.4e9));
        assert_eq!(rate_of("progress\n{\"goodput_bps\": 5000000000}\n"), Some(5e9));
        let iperf3 = "{\n \"end\": {\n  \"sum_received\": {\"bits_per_second\": 123.5}\n }\n}\n";
        assert_eq!(rate_of(iperf3), Some(123.5));
        for nothing in ["", "done", "{}", "nan", "-5", "0"] {
            assert_eq!(rate_of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let run = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            CommandWorkload::new(words).unwrap().run(Duration::ZERO)
        };
        assert_eq!(run(&["echo", "42"]), Ok(42.0));
        assert!(run(&["sh", "-c", "echo broken >&2; exit 3"]).unwrap_err().0.contains("broken"));
        assert!(run(&["/nonexistent/tool"]).unwrap_err().0.contains("/nonexistent/tool"));
        assert!(run(&["true"]).unwrap_err().0.contains("neither a number nor JSON"));
        assert!(CommandWorkload::new(Vec::new()).is_err());
    }

    #[test]
    fn loopback_moves_bytes() {
        let rate = LoopbackWorkload::new(2).run(Duration::from_millis(50)).unwrap();
        assert!(rate > 0.0);
    }
}

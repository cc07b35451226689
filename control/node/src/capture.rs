//! Captures lanes' packets as the bytes of a pcap file.
//!
//! ```text
//!  lane ── Tap ──> ring ──┐
//!  lane ── Tap ──> ring ──┴─> Capture::next ── headers, pcap ──> the API's answer ──> `culvert capture` ──> file
//! ```
//!
//! The rings are read every few milliseconds. If the bytes are consumed too slowly, the rings
//! become full, and the lanes drop and count packets; nothing grows. Dropping a [`Capture`] ends it
//! in the lanes too.

mod headers;
mod pcap;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use culvert_link::capture::{CAPTURE_BYTES, Packet, Reader, SNAP_BYTES_MAX, State};
use culvert_link::messages::ToDataPlane;
use culvert_link::shared_memory::SharedMemory;
use culvert_plane::{DataPlane, DataPlaneError};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::capture::headers::Headers;
use crate::capture::pcap::Packets;

/// Default number of bytes kept of each packet: all headers, including that of Culvert's datagrams.
/// The payload that follows is encrypted.
pub const SNAP_BYTES_DEFAULT: usize = 128;
/// How often the rings are read.
const INTERVAL: Duration = Duration::from_millis(10);
/// Records that are read from all rings at once: 2 MiB.
const RECORDS_PER_READ: usize = 128;
/// How long a lane may take to start or end a capture; one that takes longer hangs.
const LANE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a lane's state is polled.
const STATE_INTERVAL: Duration = Duration::from_millis(1);

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptureOptions {
    /// The lane to capture; `None` for all.
    #[serde(default)]
    pub lane: Option<u16>,
    /// Bytes to keep of each packet.
    #[serde(default)]
    pub snap_bytes: Option<usize>,
    /// Number of packets after which the capture ends.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Seconds after which the capture ends.
    #[serde(default)]
    pub seconds: Option<f64>,
}

impl CaptureOptions {
    /// Checks what does not depend on the data plane; returns how long the capture lasts.
    ///
    /// # Errors
    /// [`CaptureError::Option`].
    pub fn check(&self) -> Result<Option<Duration>, CaptureError> {
        let refuse = |text: String| Err(CaptureError::Option(text));
        match self.snap_bytes {
            Some(bytes) if !(1..=SNAP_BYTES_MAX).contains(&bytes) => {
                return refuse(format!("--snap {bytes}: 1 to {SNAP_BYTES_MAX} bytes of a packet"));
            }
            _ if self.packets == Some(0) => return refuse("--packets 0: a capture of nothing".to_owned()),
            _ => {}
        }
        let seconds = self.seconds.map(Duration::try_from_secs_f64).transpose();
        match seconds {
            Ok(Some(Duration::ZERO)) => refuse("--seconds 0: a capture of nothing".to_owned()),
            Ok(seconds) => Ok(seconds),
            Err(error) => refuse(format!("--seconds: {error}")),
        }
    }
}

/// Why a capture did not start.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// An option is out of bounds.
    #[error("{0}")]
    Option(String),
    /// Another capture of the data plane is running.
    #[error(
        "another capture of this data plane is running: wait until it ends, or stop it with \
        Ctrl-C where it was started"
    )]
    Busy,
    /// Shared memory could not be allocated.
    #[error("cannot allocate the memory of the capture: {0}")]
    Memory(#[from] io::Error),
    /// The data plane failed.
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    /// A lane did not start capturing.
    #[error("lane {0} did not start capturing; the node's standard error may say why")]
    NoBegin(u16),
}

/// The outcome of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Captured packets.
    pub packets: u64,
    /// Packets dropped because a ring was full.
    pub dropped: u64,
    /// Why the capture ended early, if it did.
    pub cut_short: Option<String>,
}

/// Ends a capture from another task. Packets captured until then are still delivered.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Ends the capture.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    plane: Arc<DataPlane>,
    lanes: Vec<(u16, Reader)>,
    headers: Headers,
    packets: Packets,
    packets_max: u64,
    ends: Option<Instant>,
    stop: Stop,
    stopped: watch::Receiver<bool>,
    phase: Phase,
    cut_short: Option<String>,
    _permit: OwnedSemaphorePermit,
}

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The file's header comes next.
    Header,
    /// The lanes capture.
    Running,
    /// The lanes have stopped, and the rings are read to their end.
    Draining,
    Ended,
}

impl Capture {
    /// Starts a capture; returns when its lanes are capturing.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub async fn begin(plane: Arc<DataPlane>, options: &CaptureOptions) -> Result<Self, CaptureError> {
        let seconds = options.check()?;
        let lanes = lanes_of(plane.lanes().len(), options.lane)?;
        let snap_bytes = options.snap_bytes.unwrap_or(SNAP_BYTES_DEFAULT);
        let permit = plane.capture_place().ok_or(CaptureError::Busy)?;
        let (stop, stopped) = watch::channel(false);
        let mut capture = Self {
            headers: Headers::new(plane.bind()),
            plane,
            lanes: Vec::new(),
            packets: Packets::new(snap_bytes),
            packets_max: options.packets.unwrap_or(u64::MAX),
            ends: None,
            stop: Stop(Arc::new(stop)),
            stopped,
            phase: Phase::Header,
            cut_short: None,
            _permit: permit,
        };
        for lane in lanes {
            let memory = Arc::new(SharedMemory::create("culvert-capture", CAPTURE_BYTES, false)?);
            let pieces: Vec<_> = memory.fds().collect();
            capture.plane.tell(&ToDataPlane::BeginCapture { lane, snap_bytes }, &pieces)?;
            capture.lanes.push((lane, Reader::new(memory)));
        }
        if let Some(lane) = capture.lane_before(State::Running).await {
            let how = capture.plane.ended();
            return Err(how.map_or(CaptureError::NoBegin(lane), |how| DataPlaneError::Died(how).into()));
        }
        // A time beyond the clock's range never comes.
        capture.ends = seconds.and_then(|seconds| Instant::now().checked_add(seconds));
        Ok(capture)
    }

    /// The captured lanes.
    pub fn lanes(&self) -> impl Iterator<Item = u16> + '_ {
        self.lanes.iter().map(|(lane, _)| *lane)
    }

    /// A handle that ends the capture.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The outcome so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // The lanes write the counts, so their sum may be anything.
        let dropped = self.lanes.iter().fold(0u64, |sum, (_, reader)| sum.saturating_add(reader.dropped()));
        Summary { packets: self.packets.written(), dropped, cut_short: self.cut_short.clone() }
    }

    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        if self.phase == Phase::Header {
            self.phase = Phase::Running;
            return Some(self.packets.file_header());
        }
        while self.phase != Phase::Ended {
            if self.phase == Phase::Running && self.is_over() {
                self.phase = Phase::Draining;
                self.end_lanes().await;
            }
            let (bytes, has_more) = self.read_rings();
            if self.phase == Phase::Draining && !has_more {
                self.phase = Phase::Ended;
            }
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if !has_more && self.phase == Phase::Running {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    _ = self.stopped.changed() => {}
                }
            }
        }
        None
    }

    fn is_over(&mut self) -> bool {
        if let Some(how) = self.plane.ended()
            && self.cut_short.is_none()
        {
            self.cut_short = Some(format!("the data plane process ended ({how})"));
        }
        self.cut_short.is_some()
            || *self.stopped.borrow()
            || self.ends.is_some_and(|ends| ends <= Instant::now())
            || self.packets.written() >= self.packets_max
    }

    /// Reads packets from the rings and sorts them by time. Returns the file's bytes, and whether
    /// the rings may contain more.
    fn read_rings(&mut self) -> (Vec<u8>, bool) {
        let records_max = RECORDS_PER_READ.div_ceil(self.lanes.len().max(1));
        let mut has_more = false;
        for (lane, reader) in &mut self.lanes {
            let each = |packet: &Packet<'_>| {
                let room = self.packets.begin();
                let synthesized = self.headers.write(*lane, packet, room);
                room.extend_from_slice(packet.bytes);
                self.packets.end(packet.time_ns, synthesized + packet.whole_bytes);
            };
            match reader.drain(records_max, each) {
                Ok(records) => has_more |= records == records_max,
                Err(broken) => {
                    self.cut_short = Some(format!("lane {lane}: {broken}"));
                    // The summary reports it too.
                    let _ = self.plane.nonsense("a capture holds what is no packet");
                }
            }
        }
        (self.packets.take(self.packets_max), has_more && self.cut_short.is_none())
    }

    /// Stops capturing, and waits until all lanes have stopped.
    async fn end_lanes(&mut self) {
        self.send_end();
        // From a lane that does not respond, nothing more is expected.
        let _ = self.lane_before(State::Ended).await;
    }

    fn send_end(&self) {
        for (lane, _) in &self.lanes {
            // If the data plane is gone, its captures have ended.
            let _ = self.plane.tell(&ToDataPlane::EndCapture { lane: *lane }, &[]);
        }
    }

    /// Waits until all lanes have reached `state`; returns one that has not within
    /// [`LANE_TIMEOUT`].
    async fn lane_before(&self, state: State) -> Option<u16> {
        let deadline = Instant::now() + LANE_TIMEOUT;
        loop {
            let late = self.lanes.iter().find(|(_, reader)| (reader.state() as u64) < state as u64);
            match late {
                Some(&(lane, _)) if Instant::now() >= deadline || !self.plane.is_alive() => return Some(lane),
                Some(_) => tokio::time::sleep(STATE_INTERVAL).await,
                None => return None,
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.send_end();
    }
}

/// The lanes to capture, out of `count`.
fn lanes_of(count: usize, only: Option<u16>) -> Result<Vec<u16>, CaptureError> {
    let all = 0..count as u16;
    match only {
        Some(lane) if !all.contains(&lane) => Err(CaptureError::Option(format!(
            "there is no lane {lane}: the data plane has {count}, numbered from 0 ('culvert status' shows them)"
        ))),
        Some(lane) => Ok(vec![lane]),
        None => Ok(all.collect()),
    }
}

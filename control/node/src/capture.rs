//! A capture: the packets that lanes show, as the bytes of a pcap file.
//!
//! ```text
//!  lane ── Tap ──> ring ──┐
//!  lane ── Tap ──> ring ──┴─> Capture::next ── headers, pcap ──> the API's answer ──> `culvert capture` ──> file
//! ```
//!
//! The rings are looked into every few milliseconds. Whoever takes the bytes too slowly makes the
//! rings full, and their lanes drop and count; nothing grows. A capture that is dropped ends in the
//! lanes too.

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

/// Bytes of each packet unless more are asked for: all headers and the header of Culvert's
/// datagrams. What follows is sealed.
pub const SNAP_BYTES_DEFAULT: usize = 128;
/// How often the rings are looked into.
const INTERVAL: Duration = Duration::from_millis(10);
/// Records that are taken out of all rings at once: 2 MiB.
const RECORDS_PER_LOOK: usize = 128;
/// A lane that takes longer to begin or to end hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a lane is asked whether it has begun or ended.
const STATE_INTERVAL: Duration = Duration::from_millis(1);

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptureOptions {
    /// The only lane; `None` for all.
    #[serde(default)]
    pub lane: Option<u16>,
    /// Bytes of each packet.
    #[serde(default)]
    pub snap_bytes: Option<usize>,
    /// Ends after so many packets.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Ends after so many seconds.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// An option is out of bounds.
    #[error("{0}")]
    Option(String),
    /// The data plane is captured already.
    #[error(
        "another capture of this data plane is running: wait until it ends, or stop it with \
        Ctrl-C where it was started"
    )]
    Busy,
    /// No memory.
    #[error("cannot allocate the memory of the capture: {0}")]
    Memory(#[from] io::Error),
    /// The data plane.
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    /// A lane does nothing.
    #[error("lane {0} did not start capturing; the node's standard error may say why")]
    NoBegin(u16),
}

/// What a capture came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Packets that were captured.
    pub packets: u64,
    /// Packets dropped because a ring was full.
    pub dropped: u64,
    /// What ended the capture without a request.
    pub cut_short: Option<String>,
}

/// Ends a capture from elsewhere; what the lanes have shown by then still comes.
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
    has_begun: bool,
    is_ending: bool,
    has_ended: bool,
    cut_short: Option<String>,
    _place: OwnedSemaphorePermit,
}

impl Capture {
    /// Begins a capture; returns when its lanes show their packets.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub async fn begin(plane: Arc<DataPlane>, options: &CaptureOptions) -> Result<Self, CaptureError> {
        let lanes = lanes_of(plane.lanes().len(), options.lane)?;
        let snap_bytes = options.snap_bytes.unwrap_or(SNAP_BYTES_DEFAULT);
        if !(1..=SNAP_BYTES_MAX).contains(&snap_bytes) {
            return Err(CaptureError::Option(format!("--snap {snap_bytes}: 1 to {SNAP_BYTES_MAX} bytes of a packet")));
        }
        let seconds = options.seconds.map(Duration::try_from_secs_f64).transpose();
        let seconds = seconds.map_err(|error| CaptureError::Option(format!("--seconds: {error}")))?;
        let place = plane.capture_place().ok_or(CaptureError::Busy)?;
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
            has_begun: false,
            is_ending: false,
            has_ended: false,
            cut_short: None,
            _place: place,
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
        // A time beyond the clock's is no end.
        capture.ends = seconds.and_then(|seconds| Instant::now().checked_add(seconds));
        Ok(capture)
    }

    /// The lanes.
    pub fn lanes(&self) -> impl Iterator<Item = u16> + '_ {
        self.lanes.iter().map(|(lane, _)| *lane)
    }

    /// What ends the capture.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What it has come to by now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // The lanes write the counts.
        let dropped = self.lanes.iter().fold(0u64, |sum, (_, reader)| sum.saturating_add(reader.dropped()));
        Summary { packets: self.packets.written(), dropped, cut_short: self.cut_short.clone() }
    }

    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        if !self.has_begun {
            self.has_begun = true;
            return Some(self.packets.file_header());
        }
        while !self.has_ended {
            if !self.is_ending && self.is_over() {
                self.is_ending = true;
                self.end_lanes().await;
            }
            let (bytes, has_more) = self.look();
            self.has_ended = self.is_ending && !has_more;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if !has_more && !self.has_ended {
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

    /// Takes what lies in the rings, in the order of time. Returns the file's bytes, and whether
    /// there may be more at once.
    fn look(&mut self) -> (Vec<u8>, bool) {
        let records_max = RECORDS_PER_LOOK.div_ceil(self.lanes.len().max(1));
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
                    // The capture itself reports it.
                    let _ = self.plane.nonsense("a capture holds what is no packet");
                }
            }
        }
        (self.packets.take(self.packets_max), has_more && self.cut_short.is_none())
    }

    /// Makes the lanes show no more, and waits until the last of them has said so.
    async fn end_lanes(&mut self) {
        self.tell_end();
        // One that says nothing has shown all that it will.
        let _ = self.lane_before(State::Ended).await;
    }

    fn tell_end(&self) {
        for (lane, _) in &self.lanes {
            // A data plane that is gone has ended everything.
            let _ = self.plane.tell(&ToDataPlane::EndCapture { lane: *lane }, &[]);
        }
    }

    /// Waits until all lanes are as far as `state`; returns one that is not after all.
    async fn lane_before(&self, state: State) -> Option<u16> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let late = self.lanes.iter().find(|(_, reader)| (reader.state() as u64) < state as u64);
            match late {
                Some(&(lane, _)) if Instant::now() >= patience || !self.plane.is_alive() => return Some(lane),
                Some(_) => tokio::time::sleep(STATE_INTERVAL).await,
                None => return None,
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.tell_end();
    }
}

/// The lanes to capture of `count`.
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

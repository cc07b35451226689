//! The data plane process: sets lanes up, locks itself in, and attends to them.
//!
//! The main thread is the *coordinator*. It receives what needs a descriptor, a secret or an
//! allocation, prepares it, and hands it to the lane; it makes keys ahead of time; it frees what
//! lanes are done with. When the control process is gone, or sends something invalid, this process
//! ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use culvert_link::capture::{CAPTURE_BYTES, Tap};
use culvert_link::clock::{monotonic_ns, wire_us};
use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::counters::FlowBlock;
use culvert_link::doorbell::{doorbell, silence};
use culvert_link::kernel_bypass::Mode;
use culvert_link::kernel_bypass::ProgramCounters;
use culvert_link::layout::{FLOWS_PER_LANE, LaneLayout};
use culvert_link::messages::{FromDataPlane, LaneReady, OpenReceive, OpenSend, Start, ToDataPlane};
use culvert_link::process_name;
use culvert_link::say_aside;
use culvert_link::shared_memory::SharedMemory;
use culvert_link::socket::LinkSocket;
use culvert_link::udp_port::UdpPort;
use culvert_protocol::destination::Destination;
use culvert_protocol::keys::{Direction, KeySchedule};
use culvert_protocol::path_mtu::PathMtuSearch;
use culvert_protocol::receiver_flow::{ReceiverConfig, ReceiverFlow};
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::STRIDE_MIN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::buffers::Buffers;
use crate::datapath::Datapath;
use crate::datapath::af_xdp::ladder::{self, LaneDatapath, Opened};
use crate::datapath::af_xdp::rules::Rules;
use crate::datapath::af_xdp::rules::kept::RuleGuard;
use crate::datapath::af_xdp::steering::Steering;
use crate::datapath::udp::source::SourceSocket;
use crate::datapath::udp::{OpenError, UdpDatapath};
use crate::disk::Disk;
use crate::disk::files::FileTable;
pub use crate::kernel_calls::{ignore_file_size_signal, start_beyond_terminal};
use crate::lane::handoff::{FromLane, Handoff, ToLane};
use crate::lane::lane_link::LaneLink;
use crate::lane::receiving::ReceiveFlow;
use crate::lane::sending::SendFlow;
use crate::lane::{Lane, runner};
use crate::sandbox;

/// Payload that every IPv6 path carries in one datagram.
const DATAGRAM_BYTES_ORDINARY: u16 = 1_232;
/// Pieces of all operations that a lane's buffers can have at once: 16 MiB chunks in 256 KiB
/// pieces.
const PIECES_PER_BUFFER: usize = 64;
/// Chunks that one flow has memory for; with chunks of 4 MiB a gigabyte, more than the buffers of
/// any lane so far.
const CHUNKS_PER_FLOW_MAX: usize = 256;

/// How often to check whether files that were removed while in use can be closed.
const RETIRED_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Why the data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control process did not say how.
    #[error("this process is started by 'culvert node' or 'culvert send' and is not meant to be run directly: {0}")]
    NoStart(String),
    /// A lane has no socket.
    #[error(transparent)]
    Socket(#[from] OpenError),
    /// Fewer ports are free than there are lanes.
    #[error("{error}")]
    Ports {
        /// How many are.
        free: usize,
        /// Why the first of the others is not.
        error: OpenError,
    },
    /// The control process was told why, and reports it to the user.
    #[error("the data plane could not start")]
    Told,
    /// A lane has no disk ring.
    #[error(
        "io_uring is not available ({0}): allow it in the container's system call filter, or set the sysctl kernel.io_uring_disabled to 0"
    )]
    NoRing(io::Error),
    /// Something else that the operating system refuses.
    #[error("cannot {what}: {error}")]
    Os {
        /// The operation that failed.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl StartError {
    fn free_ports(&self) -> Option<usize> {
        match self {
            Self::Ports { free, .. } => Some(*free),
            _ => None,
        }
    }
}

/// Runs the data plane over the link that the control process left as standard input; returns when
/// that process is gone.
///
/// # Errors
/// [`StartError`], after the control process was told too.
pub fn run() -> Result<(), StartError> {
    // A panic anywhere leaves transfers waiting forever: exit, and be restarted.
    process_name::set(process_name::DATA_PLANE);
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report_panic(panic);
        std::process::abort();
    }));
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(|error| StartError::NoStart(error.to_string()))?;
    let link = LinkSocket::from_fd(input);
    let started = start(&link);
    if let Err(error) = &started {
        let text = error.to_string();
        let told = link.send(&FromDataPlane::CannotStart { text, free_ports: error.free_ports() }, &[]);
        if told.is_ok() {
            return Err(StartError::Told);
        }
    }
    started?.serve(&link);
    Ok(())
}

fn start(link: &LinkSocket) -> Result<Coordinator, StartError> {
    let no_start = |what: &str| StartError::NoStart(what.to_owned());
    let (message, descriptors) = match link.receive::<ToDataPlane>() {
        Ok(Some(received)) => received,
        Ok(None) => return Err(no_start("the link is closed")),
        Err(error) => return Err(no_start(&error.to_string())),
    };
    let ToDataPlane::Start(start) = message else { return Err(no_start("the first message is not a start")) };
    let mut coordinator = Coordinator::new(&start, descriptors)?;
    let lanes = coordinator.start_lanes(&start)?;

    let (af_xdp, refusals) = (coordinator.mode(), std::mem::take(&mut coordinator.refusals));
    let mut sandbox_gaps = coordinator.kept.sandbox_gaps().to_vec();
    sandbox_gaps.extend(sandbox::drop_capabilities().err());
    sandbox_gaps.extend(sandbox::confine_system_calls().err());
    let process_id = std::process::id();
    let has_all_rules = coordinator.kept.rules.is_complete();
    link.send(&FromDataPlane::Ready { process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals }, &[])
        .map_err(|error| StartError::Os { what: "answer the control process", error })?;
    Ok(coordinator)
}

/// What a lane's thread needs.
struct LaneParts {
    number: usize,
    core: Option<usize>,
    datapath: LaneDatapath,
    buffers: Buffers,
    files: Arc<FileTable>,
    link: LaneLink,
    handoff: Arc<Handoff>,
}

/// The main thread's state.
struct Coordinator {
    link_memory: Arc<SharedMemory>,
    files: Arc<FileTable>,
    bell: OwnedFd,
    handoffs: Vec<Arc<Handoff>>,
    parts: Vec<LaneParts>,
    piece_bytes: usize,
    buffers_per_lane: usize,
    buffer_bytes: usize,
    schedules: Schedules,
    /// The program that directs packets to the lanes, for as long as this process lives.
    steering: Option<(Steering, Mode)>,
    /// The NIC's rules, and the process that removes them.
    kept: RuleGuard,
    refusals: Vec<String>,
}

/// A message that the control process never sends: this process ends, and the control process
/// starts another.
struct Nonsense;

/// The key schedules of open flows, by lane and slot.
#[derive(Default)]
struct Schedules {
    sends: HashMap<(u16, SendSlot), KeySchedule>,
    receives: HashMap<(u16, ReceiveSlot), KeySchedule>,
}

/// A socket for each lane, on the ports that are free of those given.
fn open_sockets(start: &Start) -> Result<Vec<UdpDatapath>, StartError> {
    let mut ports = start.ports.iter();
    let mut sockets = Vec::with_capacity(start.cores.len());
    let mut in_use = None;
    while sockets.len() < start.cores.len() {
        let port = match ports.next() {
            Some(&port) => port,
            None if start.ports.is_empty() => 0,
            None => {
                let error = in_use.unwrap_or(OpenError::TooFewPorts { lanes: start.cores.len() });
                return Err(StartError::Ports { free: sockets.len(), error });
            }
        };
        match UdpDatapath::open(start.bind, port, start.socket_buffer_bytes) {
            Ok(socket) => sockets.push(socket),
            Err(error @ OpenError::PortInUse { .. }) => in_use = Some(in_use.unwrap_or(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sockets)
}

impl Coordinator {
    /// Maps the memory and opens the sockets, while the process still may.
    fn new(start: &Start, descriptors: Vec<OwnedFd>) -> Result<Self, StartError> {
        let os = |what| move |error| StartError::Os { what, error };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| StartError::NoStart("descriptors are missing".into()));
        let mut map = |bytes: usize, what: &'static str| {
            let pieces =
                (0..bytes.div_ceil(start.piece_bytes.max(1))).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
            SharedMemory::from_fds(pieces, bytes, start.piece_bytes).map_err(os(what))
        };
        let link_memory = Arc::new(map(start.link_bytes, "map the link's memory")?);
        let buffer_memory = (0..start.cores.len())
            .map(|_| map(start.buffer_memory_bytes, "map the chunk buffers"))
            .collect::<Result<Vec<_>, _>>()?;
        let control_bell = next()?;
        let bell = doorbell().map_err(os("make an eventfd"))?;
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(os("duplicate a descriptor"));
        let files = Arc::new(FileTable::default());
        let (mut handoffs, mut parts) = (Vec::new(), Vec::new());
        let sockets = open_sockets(start)?;
        let Opened { lanes, steering, refusals } = match &start.af_xdp {
            Some(af_xdp) => ladder::open(af_xdp, sockets).map_err(os("wait for sockets"))?,
            None => Opened::udp(sockets),
        };
        let kept = match (&start.af_xdp, &steering) {
            (Some(af_xdp), Some(_)) => RuleGuard::set(af_xdp, start.bind, &lanes),
            _ => RuleGuard::default(),
        };
        for (((number, &core), datapath), buffer_memory) in start.cores.iter().enumerate().zip(lanes).zip(buffer_memory)
        {
            let lane_bell = next()?;
            let handoff = Arc::new(Handoff::new(clone(&lane_bell)?, clone(&bell)?));
            let layout = LaneLayout::of(number);
            parts.push(LaneParts {
                number,
                core,
                datapath,
                buffers: Buffers::new(Arc::new(buffer_memory), start.buffer_bytes),
                files: files.clone(),
                link: LaneLink::new(link_memory.clone(), &layout, lane_bell, clone(&control_bell)?),
                handoff: handoff.clone(),
            });
            handoffs.push(handoff);
        }
        Ok(Self {
            link_memory,
            files,
            bell,
            handoffs,
            parts,
            piece_bytes: start.piece_bytes,
            buffers_per_lane: start.buffer_memory_bytes / start.buffer_bytes,
            buffer_bytes: start.buffer_bytes,
            schedules: Schedules::default(),
            steering,
            kept,
            refusals,
        })
    }

    /// How AF_XDP moves packets, if it does.
    fn mode(&self) -> Option<Mode> {
        self.steering.as_ref().map(|&(_, mode)| mode)
    }

    /// Directs a flow's packets to its lane. If that fails, they are dropped before the lane, and
    /// the flow's probes stay unanswered.
    fn steer_flow(&mut self, lane: u16, flow_id: u32) {
        if let Some((steering, _)) = &mut self.steering
            && let Err(error) = steering.add_flow(lane, flow_id)
        {
            say_aside!("culvert dataplane: {error}");
        }
    }

    fn unsteer_flow(steering: &mut Option<(Steering, Mode)>, lane: u16, flow_id: u32) {
        if let Some((steering, _)) = steering {
            steering.remove_flow(lane, flow_id);
        }
    }

    /// Starts a thread for each lane and waits until all of them run.
    fn start_lanes(&mut self, start: &Start) -> Result<Vec<LaneReady>, StartError> {
        let (ready, is_ready) = mpsc::channel();
        for parts in self.parts.drain(..) {
            let ready = ready.clone();
            std::thread::Builder::new()
                .name(format!("lane {}", parts.number))
                .spawn(move || lane_thread(parts, &ready))
                .map_err(|error| StartError::Os { what: "start a lane's thread", error })?;
        }
        drop(ready);
        let mut lanes: Vec<(usize, LaneReady)> = Vec::new();
        for result in is_ready.iter().take(start.cores.len()) {
            lanes.push(result?);
        }
        lanes.sort_by_key(|(number, _)| *number);
        Ok(lanes.into_iter().map(|(_, lane)| lane).collect())
    }

    /// Serves the control process and the lanes until the control process is gone or sends
    /// nonsense, to this thread or to a lane.
    fn serve(&mut self, link: &LinkSocket) {
        loop {
            let (bell, socket) = (self.bell.as_fd(), link.as_fd());
            let mut fds = [bell, socket].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            // Removed files that lanes still use are checked again soon.
            let patience = self.files.close_retired().then_some(&RETIRED_INTERVAL);
            if poll(&mut fds, patience).is_err() {
                continue;
            }
            let (has_departures, has_message) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if has_departures {
                silence(self.bell.as_fd());
                self.take_departures();
            }
            if let Some(lane) = self.handoffs.iter().position(|handoff| handoff.has_given_up()) {
                say_aside!("culvert dataplane: the control process sent lane {lane} an invalid command");
                return;
            }
            if has_message {
                let Ok(Some((message, descriptors))) = link.receive::<ToDataPlane>() else { return };
                let Ok(answer) = self.handle(message, descriptors) else { return };
                if let Some(answer) = answer {
                    // If the control process is gone, the next look at the link shows it.
                    let _ = link.send(&answer, &[]);
                }
            }
        }
    }

    /// Does what a message says; the answer, if it has one.
    fn handle(&mut self, message: ToDataPlane, descriptors: Vec<OwnedFd>) -> Result<Option<FromDataPlane>, Nonsense> {
        Ok(match message {
            // A control process starts this one once; a second start is ignored.
            ToDataPlane::Start(_) => None,
            ToDataPlane::InstallFile { slot, direct } => {
                let mut descriptors = descriptors.into_iter();
                let installed = descriptors.next().is_some_and(|buffered| {
                    let direct = if direct { descriptors.next() } else { None };
                    self.files.install(slot, buffered, direct)
                });
                Some(if installed {
                    FromDataPlane::FileInstalled { slot }
                } else {
                    FromDataPlane::FileNotInstalled { slot }
                })
            }
            ToDataPlane::RemoveFile { slot } => {
                self.files.remove(slot);
                None
            }
            ToDataPlane::OpenSend(open) => self.open_send(open)?,
            ToDataPlane::OpenReceive(open) => self.open_receive(&open)?,
            ToDataPlane::SetSource { lane, slot, port, is_v6 } => {
                if let (Some(handoff), Some(fd)) =
                    (self.handoffs.get(usize::from(lane)), descriptors.into_iter().next())
                {
                    // A full queue means that a lane hangs; the flow continues from where it was.
                    let source = SourceSocket::new(UdpPort::from_fd(fd, is_v6), port);
                    let _ = handoff.deliver(ToLane::Source { slot, source });
                }
                None
            }
            ToDataPlane::SetNextHop { lane, to, hop } => {
                if let Some(handoff) = self.handoffs.get(usize::from(lane)) {
                    // A full queue means that a lane hangs; it continues on its UDP socket.
                    let _ = handoff.deliver(ToLane::NextHop { to, hop });
                }
                None
            }
            ToDataPlane::BeginCapture { lane, snap_bytes } => {
                self.begin_capture(lane, descriptors, snap_bytes);
                None
            }
            ToDataPlane::EndCapture { lane } => {
                self.deliver_tap(lane, None);
                None
            }
            ToDataPlane::TakeCensus => {
                let counted = self.steering.as_ref().map(|(steering, _)| steering.census()).unwrap_or_default();
                let Rules { set, missing } = self.kept.rules.clone();
                Some(FromDataPlane::ProgramCounters(ProgramCounters { rules: set, rules_missing: missing, ..counted }))
            }
        })
    }

    fn begin_capture(&self, lane: u16, pieces: Vec<OwnedFd>, snap_bytes: usize) {
        match SharedMemory::from_fds(pieces, CAPTURE_BYTES, self.piece_bytes) {
            Ok(memory) => self.deliver_tap(lane, Some(Box::new(Tap::new(Arc::new(memory), snap_bytes)))),
            // The process that waits for the capture to start gives up after a while.
            Err(error) => say_aside!("culvert dataplane: cannot map the memory of a capture: {error}"),
        }
    }

    fn deliver_tap(&self, lane: u16, tap: Option<Box<Tap>>) {
        if let Some(handoff) = self.handoffs.get(usize::from(lane)) {
            // A full queue is a lane that hangs; it shows no packets either.
            let _ = handoff.deliver(ToLane::Tap(tap));
        }
    }

    /// The way to a lane that is to take a flow into a slot. The control process names both, so
    /// they are checked.
    fn way_to(&self, lane: u16, slot: u16, is_in_use: bool) -> Result<Arc<Handoff>, Nonsense> {
        let handoff = self.handoffs.get(usize::from(lane)).filter(|_| slot < FLOWS_PER_LANE && !is_in_use);
        handoff.cloned().ok_or_else(|| {
            say_aside!(
                "culvert dataplane: the control process opened a flow in slot {slot} of lane {lane}, which is not free"
            );
            Nonsense
        })
    }

    /// Opens a flow. Without an answer, the control process gives this one up after a while.
    fn open_send(&mut self, open: OpenSend) -> Result<Option<FromDataPlane>, Nonsense> {
        // Flows that lanes are done with free their slots.
        self.take_departures();
        let at = (open.lane, open.slot);
        let handoff = self.way_to(open.lane, open.slot.0, self.schedules.sends.contains_key(&at))?;
        let Some(challenge_key) = challenge_key() else { return Ok(None) };
        let schedule = |direction| KeySchedule::new(open.cipher, &open.secret, open.flow_id, direction);
        let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
        // The window is sized for what all but the most unusual paths carry; on those, fewer
        // packets are in flight.
        let smallest = open.probe_datagram_bytes.iter().rev().find(|&&bytes| bytes >= DATAGRAM_BYTES_ORDINARY);
        let smallest = smallest.or(open.probe_datagram_bytes.first()).copied().unwrap_or(0);
        let config = SenderConfig {
            flow_id: open.flow_id,
            stride: PathMtuSearch::stride_of(smallest).unwrap_or(STRIDE_MIN),
            chunk_bytes_max: open.chunk_bytes.min(self.buffer_bytes as u32),
            chunks_max: self.buffers_per_lane.min(CHUNKS_PER_FLOW_MAX) as u32,
        };
        let protocol = SenderFlow::new(&config, &mut forward, &mut reverse, monotonic_ns());
        let layout = LaneLayout::of(open.lane.into());
        let block = FlowBlock::new(self.link_memory.clone(), &layout, open.slot.0);
        let probes = open.probe_datagram_bytes;
        let destination = Destination::new(open.partner, challenge_key);
        let flow = SendFlow::new(open.slot, protocol, destination, block, probes, open.checksum, open.chunk_bytes)
            .of_holder(open.holder);
        self.steer_flow(open.lane, open.flow_id);
        if !handoff.deliver(ToLane::Send(Box::new(flow))) {
            Self::unsteer_flow(&mut self.steering, open.lane, open.flow_id);
            return Ok(None);
        }
        self.schedules.sends.insert(at, forward);
        Ok(Some(FromDataPlane::SendOpened { lane: open.lane, slot: open.slot }))
    }

    /// See [`Coordinator::open_send`].
    fn open_receive(&mut self, open: &OpenReceive) -> Result<Option<FromDataPlane>, Nonsense> {
        self.take_departures();
        let at = (open.lane, open.slot);
        let handoff = self.way_to(open.lane, open.slot.0, self.schedules.receives.contains_key(&at))?;
        let schedule = |direction| KeySchedule::new(open.cipher, &open.secret, open.flow_id, direction);
        let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
        let buffers = self.buffers_per_lane.min(CHUNKS_PER_FLOW_MAX) as u32;
        let config = ReceiverConfig {
            flow_id: open.flow_id,
            chunk_count: open.chunk_count,
            chunk_bytes_max: open.chunk_bytes.min(self.buffer_bytes as u32),
            // The lane shares its buffers out when it takes the flow over; until then the flow
            // grants nothing.
            allowance: 0,
            assemblies_max: buffers,
        };
        let protocol = ReceiverFlow::new(&config, &mut forward, &mut reverse, wire_us(monotonic_ns()));
        let flow =
            ReceiveFlow::new(open.slot, protocol, open.partner, open.interval_us, open.checksum, open.chunk_bytes)
                .of_holder(open.holder);
        self.steer_flow(open.lane, open.flow_id);
        if !handoff.deliver(ToLane::Receive(Box::new(flow))) {
            Self::unsteer_flow(&mut self.steering, open.lane, open.flow_id);
            return Ok(None);
        }
        self.schedules.receives.insert(at, forward);
        Ok(Some(FromDataPlane::ReceiveOpened { lane: open.lane, slot: open.slot }))
    }

    /// Makes the keys that lanes want and frees the flows that they are done with.
    fn take_departures(&mut self) {
        for (lane, handoff) in (0u16..).zip(&self.handoffs) {
            while let Some(departure) = handoff.next_departure() {
                match departure {
                    FromLane::Send(flow) => {
                        Self::unsteer_flow(&mut self.steering, lane, flow.protocol.flow_id());
                        self.schedules.sends.remove(&(lane, flow.slot));
                    }
                    FromLane::Receive(flow) => {
                        Self::unsteer_flow(&mut self.steering, lane, flow.protocol.flow_id());
                        self.schedules.receives.remove(&(lane, flow.slot));
                    }
                    FromLane::Tap(tap) => drop(tap),
                    FromLane::WantsSendKey { slot, epoch } => {
                        if let Some(key) =
                            self.schedules.sends.get_mut(&(lane, slot)).and_then(|keys| keys.key_of(epoch))
                        {
                            let _ = handoff.deliver(ToLane::SendKey { slot, epoch, key });
                        }
                    }
                    FromLane::WantsReceiveKey { slot, epoch } => {
                        if let Some(key) =
                            self.schedules.receives.get_mut(&(lane, slot)).and_then(|keys| keys.key_of(epoch))
                        {
                            let _ = handoff.deliver(ToLane::ReceiveKey { slot, epoch, key });
                        }
                    }
                }
            }
        }
    }
}

/// The key from which the tokens of a flow's challenges are computed, from the kernel's random
/// number generator. Once that is initialized, it does not fail.
fn challenge_key() -> Option<[u8; 32]> {
    let mut key = [0; 32];
    match rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()) {
        Ok(bytes) if bytes == key.len() => Some(key),
        failed => {
            say_aside!(
                "culvert dataplane: the kernel provides no random numbers ({failed:?}), so no flow can be opened"
            );
            None
        }
    }
}

type Ready = mpsc::Sender<Result<(usize, LaneReady), StartError>>;

/// A lane's thread: pins itself, makes the disk ring, which belongs to the thread, and runs.
fn lane_thread(parts: LaneParts, ready: &Ready) {
    let LaneParts { number, core, datapath, buffers, files, link, handoff } = parts;
    let pinned = core.is_some_and(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
    // Sleeps end when they should: the default slack of 50 µs is a super-buffer at 10 Gb/s.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let lane_ready = LaneReady {
        port: datapath.udp().port().unwrap_or(0),
        gso: datapath.udp().segments_runs(),
        gro: datapath.udp().has_gro(),
        receive_buffer_bytes: datapath.udp().receive_buffer_bytes(),
        pinned,
    };
    // The ring is made before capabilities go, so that CAP_IPC_LOCK, where it was there, spares the
    // memory-lock limit.
    let disk = match Disk::new(&buffers, buffers.count() * PIECES_PER_BUFFER, Some(link.bell())) {
        Ok(disk) => disk,
        Err(error) => {
            let _ = ready.send(Err(StartError::NoRing(error)));
            return;
        }
    };
    // A gap is reported by the main thread, which meets the same one.
    let _ = sandbox::drop_capabilities();
    let is_ready = || drop(ready.send(Ok((number, lane_ready))));
    match datapath {
        LaneDatapath::Udp(udp) => run_lane(Lane::new(udp, disk, buffers, files, link, handoff), is_ready),
        LaneDatapath::AfXdp(rings) => run_lane(Lane::new(*rings, disk, buffers, files, link, handoff), is_ready),
    }
}

fn run_lane<D: Datapath>(mut lane: Lane<D>, is_ready: impl FnOnce()) {
    is_ready();
    runner::run(&mut lane, &AtomicBool::new(false));
}

#[cfg(test)]
mod tests;

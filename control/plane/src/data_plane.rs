//! One run of the data plane process: what it has, what it is told, and how it ended.
//!
//! [`starting`] makes it. From then on three tasks serve it: [`watching`] takes the process's
//! confirmations and notices its end, [`event_routing`] hands the lanes' events to the transfers,
//! and [`next_hop_updates`] keeps the lanes on AF_XDP informed of next hops.

mod event_routing;
pub(crate) mod files;
mod flows;
mod next_hop_updates;
pub(crate) mod starting;
mod watching;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use culvert_link::command_rings::Commands;
use culvert_link::commands::{self, DiskError, FileSlot, ReceiveSlot, SendSlot};
use culvert_link::counters::{FlowBlock, LaneCounters};
use culvert_link::kernel_bypass::{Mode, ProgramCounters};
use culvert_link::messages::{LaneReady, ToDataPlane};
use culvert_link::socket::LinkSocket;
use culvert_protocol::tree_hash::ChunkHash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::error::DataPlaneError;
use crate::events::{ReceiveEvent, SendEvent};
use crate::placement::Placement;
use crate::process::LINK_CLOSED;
use crate::slots::SlotOwner;
use crate::tracked_routes::TrackedRoutes;

/// How long a data plane may take to confirm a message. It derives a key or installs a descriptor:
/// if that takes longer, the process is stopped or hangs.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(60);
/// A data plane that takes longer to count hangs.
const CENSUS_TIMEOUT: Duration = Duration::from_secs(2);

/// One run of the data plane process.
#[derive(Debug)]
pub struct DataPlane {
    link: LinkSocket,
    commands: Arc<Commands>,
    setup: Setup,
    kernel_bypass: KernelBypass,
    /// One permit: one capture at a time.
    captures: Arc<Semaphore>,
    slots: Mutex<Vec<LaneSlots>>,
    waiters: Mutex<Waiters>,
    free_files: Mutex<Vec<FileSlot>>,
    end: watch::Receiver<Option<String>>,
    /// The impossible message for which the process was ended, if it was.
    nonsense: OnceLock<&'static str>,
    /// Ends the process when this run is dropped.
    _keep: watch::Sender<()>,
}

/// How the process was started, and what it reported when it was ready.
#[derive(Debug)]
struct Setup {
    lanes: Vec<LaneReady>,
    sandbox_gaps: Vec<String>,
    /// Address and buffer bytes of the lanes' sockets, for further sockets like them.
    bind: (IpAddr, usize),
    on_hugepages: bool,
    buffers_per_lane: usize,
    buffer_bytes: usize,
    process_id: u32,
    is_child: bool,
}

/// How the lanes' packets move.
#[derive(Debug)]
struct KernelBypass {
    /// The mode of AF_XDP and the interface's index; none if packets move through UDP sockets.
    af_xdp: Option<(Mode, u32)>,
    /// What a better datapath lacks, in words.
    refusals: Vec<String>,
    /// The interface's receive queues; none without AF_XDP.
    placement: Option<Placement>,
    /// How often flows were asked to move to their lanes' queues.
    moves: AtomicU64,
    /// The next hops that the lanes were told.
    routes: Mutex<TrackedRoutes>,
}

/// The owners of a lane's slots.
#[derive(Debug)]
struct LaneSlots {
    sends: Vec<SlotOwner<SendEvent>>,
    receives: Vec<SlotOwner<ReceiveEvent>>,
}

/// Who waits for which confirmation.
#[derive(Debug, Default)]
struct Waiters {
    installed: HashMap<FileSlot, oneshot::Sender<bool>>,
    send_opened: HashMap<(u16, SendSlot), oneshot::Sender<()>>,
    receive_opened: HashMap<(u16, ReceiveSlot), oneshot::Sender<()>>,
    checks: HashMap<u32, oneshot::Sender<Result<ChunkHash, DiskError>>>,
    next_check: u32,
    censuses: Vec<oneshot::Sender<ProgramCounters>>,
}

impl DataPlane {
    /// The lanes as the process reported them.
    #[must_use]
    pub fn lanes(&self) -> &[LaneReady] {
        &self.setup.lanes
    }

    /// The parts of the sandbox that the host does not offer, in words.
    #[must_use]
    pub fn sandbox_gaps(&self) -> &[String] {
        &self.setup.sandbox_gaps
    }

    /// Whether chunk buffers lie on hugepages.
    #[must_use]
    pub const fn on_hugepages(&self) -> bool {
        self.setup.on_hugepages
    }

    /// Chunk buffers of each lane.
    #[must_use]
    pub const fn buffers_per_lane(&self) -> usize {
        self.setup.buffers_per_lane
    }

    /// Bytes of each buffer.
    #[must_use]
    pub const fn buffer_bytes(&self) -> usize {
        self.setup.buffer_bytes
    }

    /// The address that the lanes bind.
    #[must_use]
    pub const fn bind(&self) -> IpAddr {
        self.setup.bind.0
    }

    /// The process's id.
    #[must_use]
    pub const fn process_id(&self) -> u32 {
        self.setup.process_id
    }

    /// How packets move: `af_xdp` or `udp`.
    #[must_use]
    pub const fn datapath(&self) -> &'static str {
        if self.kernel_bypass.af_xdp.is_some() { "af_xdp" } else { "udp" }
    }

    /// The mode of AF_XDP: `zerocopy`, `copy` or `skb`.
    #[must_use]
    pub fn af_xdp_mode(&self) -> Option<&'static str> {
        self.kernel_bypass.af_xdp.map(|(mode, _)| mode.name())
    }

    /// What a better datapath lacks, in words.
    #[must_use]
    pub fn refusals(&self) -> &[String] {
        &self.kernel_bypass.refusals
    }

    /// The queues that flows should arrive on; `None` without AF_XDP.
    #[must_use]
    pub const fn placement(&self) -> Option<&Placement> {
        self.kernel_bypass.placement.as_ref()
    }

    /// Counts a flow that was asked to move to its lane's queue.
    pub fn note_move(&self) {
        self.kernel_bypass.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// How often flows were asked to move.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.kernel_bypass.moves.load(Ordering::Relaxed)
    }

    /// The right to capture; `None` while somebody has it.
    #[must_use]
    pub fn capture_place(&self) -> Option<OwnedSemaphorePermit> {
        self.captures.clone().try_acquire_owned().ok()
    }

    /// A lane's counters.
    #[must_use]
    pub fn counters(&self, lane: usize) -> LaneCounters {
        self.commands.counters(lane)
    }

    /// The shared words of a sending flow.
    #[must_use]
    pub fn flow_block(&self, lane: u16, slot: SendSlot) -> FlowBlock {
        self.commands.flow_block(lane.into(), slot)
    }

    /// Sends a command to a lane.
    pub fn command(&self, lane: u16, command: &commands::Command<'_>) {
        if !self.commands.send(lane.into(), command) {
            // The lane hangs: a lost command would leave transfers waiting forever.
            self.give_up();
        }
    }

    /// Sends a message that nothing answers, or whose answer is awaited elsewhere.
    ///
    /// # Errors
    /// [`DataPlaneError`] with which the process ended.
    pub fn tell(&self, message: &ToDataPlane, descriptors: &[BorrowedFd<'_>]) -> Result<(), DataPlaneError> {
        self.link.send(message, descriptors).map_err(|error| match error.kind() {
            // A writer may notice the end before a reader does: both report it alike.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.ended_with(LINK_CLOSED.to_owned()),
            _ => self.ended_with(error.to_string()),
        })
    }

    /// The counters of the steering program; `None` without AF_XDP, or if the process does not
    /// answer.
    pub async fn census(&self) -> Option<ProgramCounters> {
        self.kernel_bypass.af_xdp?;
        let (answer, answered) = oneshot::channel();
        lock(&self.waiters).censuses.push(answer);
        self.tell(&ToDataPlane::TakeCensus, &[]).ok()?;
        tokio::time::timeout(CENSUS_TIMEOUT, self.confirmed(answered)).await.ok()?.ok()
    }

    /// Whether the process is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// How the process ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.end.borrow().clone()
    }

    /// Resolves when the process has ended; the value says how.
    pub async fn died(&self) -> String {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "it was stopped".to_owned(),
        }
    }

    /// Resolves when the process has ended, with the error for the transfers that used it.
    pub async fn lost(&self) -> DataPlaneError {
        let how = self.died().await;
        self.ended_with(how)
    }

    /// Ends a process that sent an impossible message; returns the error for the transfer.
    #[must_use]
    pub fn nonsense(&self, what: &'static str) -> DataPlaneError {
        // The first one is the cause: whatever follows may be its consequence.
        let what = *self.nonsense.get_or_init(|| what);
        self.give_up();
        DataPlaneError::Nonsense(what)
    }

    /// Ends a process that hangs or sends nonsense.
    pub(crate) fn give_up(&self) {
        // A process that still watches its link ends when that closes. The process id of one that
        // is not a child is only its own claim, so only a child is killed.
        self.link.close();
        if self.setup.is_child
            && let Some(process) = rustix::process::Pid::from_raw(self.setup.process_id as i32)
        {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }

    async fn confirmed<T>(&self, confirmation: oneshot::Receiver<T>) -> Result<T, DataPlaneError> {
        tokio::select! {
            confirmed = confirmation => confirmed.map_err(|_| self.ended_with("no answer".into())),
            error = self.lost() => Err(error),
            () = tokio::time::sleep(CONFIRMATION_TIMEOUT) => {
                // The process is stopped or hangs: the next attempt gets another.
                self.give_up();
                Err(self.ended_with(format!("it has not answered for {} s", CONFIRMATION_TIMEOUT.as_secs())))
            }
        }
    }

    /// The error of a process that has ended or no longer answers. An impossible message that it
    /// sent before is the better reason.
    fn ended_with(&self, how: String) -> DataPlaneError {
        self.nonsense.get().map_or(DataPlaneError::Died(how), |what| DataPlaneError::Nonsense(what))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

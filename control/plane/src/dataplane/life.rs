//! One life of the data plane process: what it has, what it is told, and how it ended.

pub(super) mod files;
mod flows;
mod kernel_bypass;
mod routing;
mod starting;
mod watching;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;
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

use crate::dataplane::error::DataPlaneError;
use crate::dataplane::events::{ReceiveEvent, SendEvent};
use crate::dataplane::followed::TrackedRoutes;
use crate::dataplane::placement::Placement;
use crate::dataplane::process::LINK_CLOSED;
use crate::dataplane::slots::Route;

/// How long a data plane may take to confirm what it was told. It derives a key, or installs a
/// descriptor: a host on which that takes longer than this has stopped it.
const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct LaneRoutes {
    sends: Vec<Route<SendEvent>>,
    receives: Vec<Route<ReceiveEvent>>,
}

#[derive(Debug, Default)]
struct Waiters {
    installed: HashMap<FileSlot, oneshot::Sender<bool>>,
    send_opened: HashMap<(u16, SendSlot), oneshot::Sender<()>>,
    receive_opened: HashMap<(u16, ReceiveSlot), oneshot::Sender<()>>,
    checks: HashMap<u32, oneshot::Sender<Result<ChunkHash, DiskError>>>,
    next_check: u32,
    censuses: Vec<oneshot::Sender<ProgramCounters>>,
}

/// One life of the data plane process.
#[derive(Debug)]
pub struct DataPlane {
    socket: LinkSocket,
    commands: Arc<Commands>,
    lanes: Vec<LaneReady>,
    sandbox_gaps: Vec<String>,
    /// How AF_XDP moves packets, and through which interface.
    af_xdp: Option<(Mode, u32)>,
    refusals: Vec<String>,
    /// What the lanes were told of the ways to their partners.
    followed: Mutex<TrackedRoutes>,
    /// Of AF_XDP: the interface's queues.
    placement: Option<Placement>,
    /// How often flows were asked to move to their lanes' queues.
    moves: AtomicU64,
    /// The address and buffers of lanes' sockets, for more of the kind.
    bind: (IpAddr, usize),
    on_hugepages: bool,
    buffers_per_lane: usize,
    buffer_bytes: usize,
    /// The one capture at a time.
    captures: Arc<Semaphore>,
    process_id: u32,
    is_child: bool,
    routes: Mutex<Vec<LaneRoutes>>,
    waiters: Mutex<Waiters>,
    free_files: Mutex<Vec<FileSlot>>,
    end: watch::Receiver<Option<String>>,
    /// What it said that cannot be, if that is why it is ended.
    nonsense: OnceLock<&'static str>,
    /// Ends the process when this life is dropped.
    _keep: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DataPlane {
    /// What the lanes turned out to have.
    #[must_use]
    pub fn lanes(&self) -> &[LaneReady] {
        &self.lanes
    }

    /// What of the sandbox could not be had.
    #[must_use]
    pub fn sandbox_gaps(&self) -> &[String] {
        &self.sandbox_gaps
    }

    /// Whether chunk buffers lie on hugepages.
    #[must_use]
    pub const fn on_hugepages(&self) -> bool {
        self.on_hugepages
    }

    /// Chunk buffers of each lane.
    #[must_use]
    pub const fn buffers_per_lane(&self) -> usize {
        self.buffers_per_lane
    }

    /// Bytes of each buffer.
    #[must_use]
    pub const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// The address that the lanes bind.
    #[must_use]
    pub const fn bind(&self) -> IpAddr {
        self.bind.0
    }

    /// The right to capture; `None` while somebody has it.
    #[must_use]
    pub fn capture_place(&self) -> Option<OwnedSemaphorePermit> {
        self.captures.clone().try_acquire_owned().ok()
    }

    /// The process's id.
    #[must_use]
    pub const fn process_id(&self) -> u32 {
        self.process_id
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
            // The lane hangs: what was lost would leave transfers waiting forever.
            self.give_up();
        }
    }

    /// Resolves when the process has ended; the value says how.
    pub async fn died(&self) -> String {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "it was stopped".to_owned(),
        }
    }

    /// Resolves when the process has ended; why, as a transfer that used it ends with it.
    pub async fn lost(&self) -> DataPlaneError {
        let how = self.died().await;
        self.ended_with(how)
    }

    /// The process has ended, or does not answer any more: what it said before that is the reason,
    /// if there is such a thing.
    fn ended_with(&self, how: String) -> DataPlaneError {
        self.nonsense.get().map_or(DataPlaneError::Died(how), |what| DataPlaneError::Nonsense(what))
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

    /// Ends a process that said what cannot be; the error that the transfer ends with.
    #[must_use]
    pub fn nonsense(&self, what: &'static str) -> DataPlaneError {
        // Everything that it says afterwards follows from that.
        let what = *self.nonsense.get_or_init(|| what);
        self.give_up();
        DataPlaneError::Nonsense(what)
    }

    /// Ends a process that talks nonsense.
    pub(crate) fn give_up(&self) {
        // It ends with its link, as long as it is sane enough to watch it. Only a child's process
        // id is known for sure.
        self.socket.close();
        if self.is_child
            && let Some(process) = rustix::process::Pid::from_raw(self.process_id as i32)
        {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }

    async fn confirmed<T>(&self, confirmation: oneshot::Receiver<T>) -> Result<T, DataPlaneError> {
        tokio::select! {
            confirmed = confirmation => confirmed.map_err(|_| self.ended_with("no answer".into())),
            error = self.lost() => Err(error),
            () = tokio::time::sleep(CONFIRMATION_PATIENCE) => {
                // It is stopped, or hangs: the next try gets another.
                self.give_up();
                Err(self.ended_with(format!("it has not answered for {} s", CONFIRMATION_PATIENCE.as_secs())))
            }
        }
    }

    /// Sends a message that nothing answers, or whose answer is waited for elsewhere.
    ///
    /// # Errors
    /// [`DataPlaneError`] with which the process ended.
    pub fn tell(&self, message: &ToDataPlane, descriptors: &[BorrowedFd<'_>]) -> Result<(), DataPlaneError> {
        self.socket.send(message, descriptors).map_err(|error| match error.kind() {
            // A writer may notice it before a reader does: both report it alike.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.ended_with(LINK_CLOSED.to_owned()),
            _ => self.ended_with(error.to_string()),
        })
    }
}

//! The data plane as the control process sees it: started, listened to, and noticed when it dies.
//!
//! It is a child of this process, or, where an admin gave it an account and rights of its own, a
//! process that somebody else (systemd) starts for each connection to a socket ([`Origin`]).
//!
//! A [`DataPlane`] stands for one life of the data plane process. When that ends, by order or not,
//! [`DataPlane::died`] resolves, every transfer that used it ends with a temporary error, and
//! [`Supervisor::get`] starts the next.

mod events;
mod followed;
mod kernel_bypass;
pub mod placement;
pub mod ports;
mod slots;
mod supervisor;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use culvert_link::command_rings::Commands;
use culvert_link::commands::{self, DiskError, Event, FileRange, FileSlot, ReceiveSlot, SendSlot};
use culvert_link::counters::{FlowBlock, LaneCounters};
use culvert_link::engine::{Engine, EngineConfig, Events, PrepareError, prepare};
use culvert_link::handles::LentBuffer;
use culvert_link::kernel_bypass::{Census, Mode};
use culvert_link::layout::{FILES_MAX, FLOWS_PER_LANE};
use culvert_link::messages::{FromDataPlane, LaneReady, OpenReceive, OpenSend, ToDataPlane};
use culvert_link::process_name;
use culvert_link::socket::LinkSocket;
use culvert_link::udp_port::UdpPort;
use culvert_protocol::foreign_text::foreign_text;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

pub use crate::dataplane::events::{EventReceiver, EventSender, ReceiveEvent, SendEvent, Tagged, event_queue};
use crate::dataplane::followed::{FlowSlot, Followed};
use crate::dataplane::placement::Placement;
use crate::dataplane::ports::PortsInUse;
pub use crate::dataplane::slots::WantedFlow;
use crate::dataplane::slots::{Route, take_slot};
pub use crate::dataplane::supervisor::Supervisor;

/// Why there is no data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// Its memory could not be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Its process could not be started.
    #[error("cannot start the data plane process ({program}): {error}")]
    Spawn {
        /// What was started.
        program: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// There is nothing that starts one for us.
    #[error(
        "cannot reach the data plane at {path}: {}",
        os_error::words_or_hint(
            error,
            "start the listener (systemctl start culvert-dataplane.socket), or leave \
             dataplane_socket out so that the node starts its own"
        )
    )]
    Attach {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        error: std::io::Error,
    },
    /// It says why.
    #[error("the data plane cannot start: {0}")]
    CannotStart(String),
    /// Too few of the UDP ports that were named for its lanes are free.
    #[error("{0}")]
    PortsInUse(PortsInUse),
    /// It ended.
    #[error("the data plane process ended unexpectedly ({0}); transfers continue when it has been restarted")]
    Died(String),
    /// All slots of a kind are taken.
    #[error("the data plane has no room for another {0}; try again when a transfer has ended")]
    NoRoom(&'static str),
    /// Its process may not have another file open.
    #[error("the data plane cannot open another file: {}", culvert_system::descriptors::limit_of_process(*process))]
    NoDescriptor {
        /// The process.
        process: u32,
    },
    /// A transfer did not take the lanes' events as they came.
    #[error(
        "too many events of the data plane are waiting for the transfer: its partner does not read \
         what it is sent, or the data plane sends far too many"
    )]
    Overrun,
    /// It says what cannot be.
    #[error("the data plane sent an impossible message ({0}): it was terminated and is restarted when it is needed")]
    Nonsense(&'static str),
}

/// Messages of the data plane that may wait here.
const MESSAGES_WAITING_MAX: usize = 1_024;
/// How long a data plane may take to end when its link has.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long a data plane may take to confirm what it was told. It derives a key, or installs a
/// descriptor: a host on which that takes longer than this has stopped it.
const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(60);
/// How a data plane ends that is no child of this process.
const LINK_CLOSED: &str = "it closed the link";
/// Events that do not concern the data plane's knowledge.
const NO_SUCH_FLOW: &str = "it sent it sent an event of a flow that it does not have";
/// Gaps in its sandbox, and reasons for a slower datapath, that it may report.
const TEXTS_MAX: usize = 64;

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
    censuses: Vec<oneshot::Sender<Census>>,
}

/// Where data planes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process starts `PROGRAM dataplane`.
    Child(PathBuf),
    /// The listener on this `SOCK_SEQPACKET` socket starts a data plane with each connection as its
    /// standard input, as systemd does for a socket unit with `Accept=yes`.
    Socket(PathBuf),
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
    followed: Mutex<Followed>,
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

/// A file that is open in the data plane. When it is dropped it is closed there, after the last
/// operation on it has ended.
#[derive(Debug)]
pub struct InstalledFile {
    plane: Arc<DataPlane>,
    slot: FileSlot,
}

impl InstalledFile {
    /// Where the data plane has it.
    #[must_use]
    pub const fn slot(&self) -> FileSlot {
        self.slot
    }
}

impl Drop for InstalledFile {
    fn drop(&mut self) {
        self.plane.remove_file(self.slot);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DataPlane {
    /// Starts the process and waits until its lanes run.
    ///
    /// # Errors
    /// [`DataPlaneError`].
    pub async fn start(origin: &Origin, config: &EngineConfig) -> Result<Arc<Self>, DataPlaneError> {
        let (engine, mut child) = match origin {
            Origin::Child(program) => {
                let (ours, theirs) = LinkSocket::pair().map_err(PrepareError::from)?;
                (prepare(config, ours)?, Some(spawn(program, theirs)?))
            }
            Origin::Socket(path) => {
                let socket =
                    LinkSocket::connect(path).map_err(|error| DataPlaneError::Attach { path: path.clone(), error })?;
                (prepare(config, socket)?, None)
            }
        };
        let os = |error: std::io::Error| DataPlaneError::Prepare(error.into());
        let Engine { socket, commands, events, bell, on_hugepages, buffers_per_lane } = engine;
        let bell = UnixStream::from_std(bell).map_err(os)?;
        // Full, it lets the other end wait.
        let (messages, mut incoming) = mpsc::channel(MESSAGES_WAITING_MAX);
        let reader = socket.try_clone().map_err(os)?;
        let link = Link(socket.try_clone().map_err(os)?);
        // A thread, not a task: the socket is blocking, and the thread ends with the process.
        std::thread::spawn(move || {
            while let Ok(Some((message, _))) = reader.receive::<FromDataPlane>() {
                if messages.blocking_send(message).is_err() {
                    break;
                }
            }
        });
        let (process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals) = match incoming.recv().await {
            Some(FromDataPlane::Ready { process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals }) => {
                (process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals)
            }
            Some(FromDataPlane::CannotStart { text, free_ports }) => {
                let text = foreign_text(&text);
                return Err(match free_ports {
                    Some(free) => DataPlaneError::PortsInUse(PortsInUse::new(config, free, text)),
                    None => DataPlaneError::CannotStart(text),
                });
            }
            _ => return Err(DataPlaneError::Died(link_ended(child.as_mut()).await)),
        };
        if lanes.len() != config.cores.len() {
            return Err(DataPlaneError::Nonsense("its lanes are not those that it was told to run"));
        }
        let [sandbox_gaps, refusals] = [&sandbox_gaps, &refusals].map(|texts| in_foreign_words(texts));
        let (end_sender, end) = watch::channel(None);
        let (keep, dropped) = watch::channel(());
        let lane_routes = || LaneRoutes {
            sends: (0..FLOWS_PER_LANE).map(|_| Route::Free).collect(),
            receives: (0..FLOWS_PER_LANE).map(|_| Route::Free).collect(),
        };
        let placement = af_xdp.and(config.af_xdp.as_ref()).map(|start| {
            Placement::new(start.name.clone(), start.queues, lanes.len() as u32).with_rules(has_all_rules)
        });
        let plane = Arc::new(Self {
            socket,
            commands,
            routes: Mutex::new(lanes.iter().map(|_| lane_routes()).collect()),
            lanes,
            sandbox_gaps,
            af_xdp: af_xdp.zip(config.af_xdp.as_ref().map(|start| start.interface)),
            refusals: config.refusals.iter().cloned().chain(refusals).collect(),
            followed: Mutex::default(),
            placement,
            moves: AtomicU64::new(0),
            bind: (config.bind, config.socket_buffer_bytes),
            on_hugepages,
            buffers_per_lane,
            buffer_bytes: config.buffer_bytes,
            captures: Arc::new(Semaphore::new(1)),
            process_id: child.as_ref().map_or(Some(process_id), Child::id).unwrap_or(0),
            is_child: child.is_some(),
            waiters: Mutex::default(),
            free_files: Mutex::new((0..FILES_MAX).rev().map(FileSlot).collect()),
            end,
            nonsense: OnceLock::new(),
            _keep: keep,
        });
        let weak = Arc::downgrade(&plane);
        tokio::spawn(watch_process(child, link, incoming, dropped, weak.clone(), end_sender));
        if plane.af_xdp.is_some() {
            tokio::spawn(kernel_bypass::follow_next_hops(weak.clone()));
        }
        tokio::spawn(route_events(events, bell, weak));
        Ok(plane)
    }

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

    /// Opens a file in the data plane.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`] or [`DataPlaneError::Died`].
    pub async fn install_file(
        self: &Arc<Self>,
        buffered: &OwnedFd,
        direct: Option<&OwnedFd>,
    ) -> Result<InstalledFile, DataPlaneError> {
        let slot = lock(&self.free_files).pop().ok_or(DataPlaneError::NoRoom("file"))?;
        // From here on, the slot is returned whatever happens, even if nothing waits for the
        // confirmation any more.
        let installed = InstalledFile { plane: self.clone(), slot };
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).installed.insert(slot, done);
        let message = ToDataPlane::InstallFile { slot, direct: direct.is_some() };
        let descriptors: Vec<_> = std::iter::once(buffered).chain(direct).map(AsFd::as_fd).collect();
        self.tell(&message, &descriptors)?;
        match self.confirmed(confirmation).await? {
            true => Ok(installed),
            false => Err(DataPlaneError::NoDescriptor { process: self.process_id }),
        }
    }

    /// Files that are open in the data plane, of all transfers.
    #[must_use]
    pub fn files_open(&self) -> usize {
        FILES_MAX as usize - lock(&self.free_files).len()
    }

    fn remove_file(&self, slot: FileSlot) {
        // If the process is gone, so is the file.
        if self.tell(&ToDataPlane::RemoveFile { slot }, &[]).is_ok() {
            // Lanes may learn of it after the slot's next file has been opened.
            lock(&self.free_files).push(slot.next());
        }
    }

    /// Takes a free sending slot of `lane`, if the partner may have another; its events go to
    /// `events` with `tag`.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`].
    pub fn take_send_slot(
        &self,
        lane: u16,
        wanted: WantedFlow,
        events: &EventSender<SendEvent>,
    ) -> Result<SendSlot, DataPlaneError> {
        let mut routes = lock(&self.routes);
        take_slot(&mut routes[usize::from(lane)].sends, wanted, events).map(SendSlot)
    }

    /// Takes a free receiving slot of `lane`, if the partner may have another; its events go to
    /// `events` with `tag`.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`].
    pub fn take_receive_slot(
        &self,
        lane: u16,
        wanted: WantedFlow,
        events: &EventSender<ReceiveEvent>,
    ) -> Result<ReceiveSlot, DataPlaneError> {
        let mut routes = lock(&self.routes);
        take_slot(&mut routes[usize::from(lane)].receives, wanted, events).map(ReceiveSlot)
    }

    /// Gives a sending slot back that was never opened.
    pub fn give_send_slot_back(&self, lane: u16, slot: SendSlot) {
        self.unfollow(lane, FlowSlot::Send(slot));
        lock(&self.routes)[usize::from(lane)].sends[usize::from(slot.0)] = Route::Free;
    }

    /// Gives a receiving slot back that was never opened.
    pub fn give_receive_slot_back(&self, lane: u16, slot: ReceiveSlot) {
        self.unfollow(lane, FlowSlot::Receive(slot));
        lock(&self.routes)[usize::from(lane)].receives[usize::from(slot.0)] = Route::Free;
    }

    /// Opens a sending flow.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_send(&self, open: OpenSend) -> Result<(), DataPlaneError> {
        self.follow(open.lane, FlowSlot::Send(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).send_opened.insert((open.lane, open.slot), done);
        self.tell(&ToDataPlane::OpenSend(open), &[])?;
        self.confirmed(confirmation).await
    }

    /// Opens a receiving flow.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_receive(&self, open: OpenReceive) -> Result<(), DataPlaneError> {
        self.follow(open.lane, FlowSlot::Receive(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).receive_opened.insert((open.lane, open.slot), done);
        self.tell(&ToDataPlane::OpenReceive(open), &[])?;
        self.confirmed(confirmation).await
    }

    /// Sends a flow from `source_port` from now on. A port that cannot be had leaves it where it
    /// is.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub fn move_send(&self, lane: u16, slot: SendSlot, source_port: u16) -> Result<(), DataPlaneError> {
        let (address, buffer_bytes) = self.bind;
        let Ok(source) = UdpPort::bind(address, source_port, buffer_bytes) else { return Ok(()) };
        let message = ToDataPlane::SetSource { lane, slot, port: source_port, is_v6: source.is_v6() };
        self.tell(&message, &[source.into_fd().as_fd()])
    }

    /// Reads and hashes a range of a file.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`]; what the disk says is in the value.
    pub async fn check(
        &self,
        lane: u16,
        range: FileRange,
        bytes: u32,
        chunk_bytes: u32,
    ) -> Result<Result<ChunkHash, DiskError>, DataPlaneError> {
        loop {
            let (done, answer) = oneshot::channel();
            let token = {
                let mut waiters = lock(&self.waiters);
                waiters.next_check = waiters.next_check.wrapping_add(1);
                let token = waiters.next_check;
                waiters.checks.insert(token, done);
                token
            };
            self.command(lane, &commands::Command::Check { token, range, bytes, chunk_bytes });
            match self.confirmed(answer).await? {
                // All buffers are in use: the lane has better things to do just now.
                Err(DiskError::Os(errno)) if errno == rustix::io::Errno::AGAIN.raw_os_error() => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result => return Ok(result),
            }
        }
    }

    fn confirm(&self, message: &FromDataPlane) {
        let mut waiters = lock(&self.waiters);
        let waiter = match message {
            FromDataPlane::FileInstalled { slot } | FromDataPlane::FileNotInstalled { slot } => {
                if let Some(waiter) = waiters.installed.remove(slot) {
                    let _ = waiter.send(matches!(message, FromDataPlane::FileInstalled { .. }));
                }
                None
            }
            FromDataPlane::SendOpened { lane, slot } => waiters.send_opened.remove(&(*lane, *slot)),
            FromDataPlane::ReceiveOpened { lane, slot } => waiters.receive_opened.remove(&(*lane, *slot)),
            FromDataPlane::Census(census) => {
                // One count answers all who have asked so far.
                for waiter in waiters.censuses.drain(..) {
                    let _ = waiter.send(census.clone());
                }
                None
            }
            FromDataPlane::Ready { .. } | FromDataPlane::CannotStart { .. } => None,
        };
        if let Some(waiter) = waiter {
            // Nothing waits any more if the transfer was canceled meanwhile.
            let _ = waiter.send(());
        }
    }

    fn route(&self, lane: usize, event: &Event<'_>, lent: Option<LentBuffer>) {
        let to_send = |slot: SendSlot, event: SendEvent| {
            let routes = lock(&self.routes);
            match routes[lane].sends.get(usize::from(slot.0)) {
                Some(Route::Taken { tag, events, .. }) => events.send((*tag, event)),
                // A lane reports nothing about a flow before it was opened, or after it was closed.
                _ => drop(self.nonsense(NO_SUCH_FLOW)),
            }
        };
        let to_receive = |slot: ReceiveSlot, event: ReceiveEvent| {
            let routes = lock(&self.routes);
            match routes[lane].receives.get(usize::from(slot.0)) {
                Some(Route::Taken { tag, events, .. }) => events.send((*tag, event)),
                _ => drop(self.nonsense(NO_SUCH_FLOW)),
            }
        };
        match (*event, lent) {
            (Event::PathOpen { flow, stride, rtt_us }, _) => to_send(flow, SendEvent::PathOpen { stride, rtt_us }),
            (Event::PathClosed { flow, errno }, _) => to_send(flow, SendEvent::PathClosed { errno }),
            (Event::Fill { flow, chunk, .. }, Some(buffer)) => to_send(flow, SendEvent::Fill { chunk, buffer }),
            (Event::Hashed { flow, chunk, hash }, _) => to_send(flow, SendEvent::Hashed { chunk, hash }),
            (Event::Delivered { flow, chunk, times }, _) => to_send(flow, SendEvent::Delivered { chunk, times }),
            (Event::ReadFailed { flow, chunk, error }, _) => to_send(flow, SendEvent::ReadFailed { chunk, error }),
            (Event::Withdrawn { flow, chunk }, _) => to_send(flow, SendEvent::Withdrawn { chunk }),
            (Event::Asks { flow, chunk, chunk_bytes }, _) => {
                to_receive(flow, ReceiveEvent::Asks { chunk, chunk_bytes });
            }
            (Event::Hand { flow, chunk, .. }, Some(buffer)) => to_receive(flow, ReceiveEvent::Hand { chunk, buffer }),
            (Event::Written { flow, chunk, hash, times }, _) => {
                to_receive(flow, ReceiveEvent::Written { chunk, hash, times });
            }
            (Event::WriteFailed { flow, chunk, error }, _) => {
                to_receive(flow, ReceiveEvent::WriteFailed { chunk, error });
            }
            (Event::Report { flow, bytes }, _) => to_receive(flow, ReceiveEvent::Report(bytes.to_vec())),
            (Event::Astray { flow }, _) => to_receive(flow, ReceiveEvent::Astray),
            (Event::Checked { token, result }, _) => {
                if let Some(waiter) = lock(&self.waiters).checks.remove(&token) {
                    let _ = waiter.send(result);
                }
            }
            (Event::SendClosed { flow }, _) => {
                to_send(flow, SendEvent::Closed);
                self.give_send_slot_back(lane as u16, flow);
            }
            (Event::ReceiveClosed { flow }, _) => {
                to_receive(flow, ReceiveEvent::Closed);
                self.give_receive_slot_back(lane as u16, flow);
            }
            (Event::OthersWaitForSend { flow, held }, _) => to_send(flow, SendEvent::OthersWait { held }),
            (Event::OthersWaitForReceive { flow, incomplete, whole }, _) => {
                to_receive(flow, ReceiveEvent::OthersWait { incomplete, whole });
            }
            (Event::Fill { .. } | Event::Hand { .. }, None) => {}
        }
    }
}

/// Starts `program` with the other end of the link as its standard input.
fn spawn(program: &Path, theirs: LinkSocket) -> Result<Child, DataPlaneError> {
    let mut command = Command::new(program);
    command
        .arg0(process_name::PROGRAM)
        .arg("dataplane")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command.spawn().map_err(|error| DataPlaneError::Spawn { program: program.display().to_string(), error })
}

/// The conversation with a data plane, which ends when this is dropped; then so does the process.
struct Link(LinkSocket);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits for the end of a child and says how it ended. Others' ends only show in the link.
async fn ended(child: Option<&mut Child>) -> String {
    match child {
        Some(child) => child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string()),
        None => LINK_CLOSED.to_owned(),
    }
}

/// The link is closed, or nothing that comes by it can be read: a child closes it a moment before
/// it is gone, and one that stays is ended.
async fn link_ended(child: Option<&mut Child>) -> String {
    let Some(child) = child else { return ended(None).await };
    if let Ok(how) = tokio::time::timeout(END_PATIENCE, ended(Some(child))).await {
        return how;
    }
    // It may be gone by now.
    let _ = child.start_kill();
    format!("it closed the link or sent an unreadable message: {}", ended(Some(child)).await)
}

/// Texts of the data plane, as many as it may have something to say about.
fn in_foreign_words(texts: &[String]) -> Vec<String> {
    texts.iter().take(TEXTS_MAX).map(|text| foreign_text(text)).collect()
}

/// Waits for the end of the process, and confirms what it confirms meanwhile.
async fn watch_process(
    mut child: Option<Child>,
    _link: Link,
    mut incoming: mpsc::Receiver<FromDataPlane>,
    mut dropped: watch::Receiver<()>,
    plane: Weak<DataPlane>,
    end: watch::Sender<Option<String>>,
) {
    let how = loop {
        tokio::select! {
            how = ended(child.as_mut()), if child.is_some() => break how,
            _ = dropped.changed() => break "it was stopped".to_owned(),
            message = incoming.recv() => match (message, plane.upgrade()) {
                (Some(message), Some(plane)) => plane.confirm(&message),
                _ => break link_ended(child.as_mut()).await,
            },
        }
    };
    end.send_replace(Some(how));
}

/// Hands the lanes' events to the transfers, for as long as anybody uses this life of the process.
async fn route_events(mut events: Events, bell: UnixStream, plane: Weak<DataPlane>) {
    /// Events handed out before other tasks get their turn.
    const BATCH: usize = 256;
    loop {
        let Some(alive) = plane.upgrade() else { return };
        let drained = events.drain(BATCH, |lane, event, lent| alive.route(lane, &event, lent));
        alive.commands.flush();
        match drained {
            Ok(0) if events.prepare_to_sleep() => {
                // Asleep, the task must not keep the process's life going.
                drop(alive);
                // The bell's other end is gone with the process.
                if bell.readable().await.is_err() || matches!(bell.try_read(&mut [0; 64]), Ok(0)) {
                    return;
                }
                events.awake();
            }
            Ok(_) => tokio::task::yield_now().await,
            // A lane wrote nonsense: nothing that it says can be believed any more.
            Err(_) => {
                // Its users find out.
                let _ = alive.nonsense("a lane's ring contains an invalid event");
                return;
            }
        }
    }
}

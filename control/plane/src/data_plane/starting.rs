//! Starts the process and waits until its lanes run.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use culvert_link::commands::FileSlot;
use culvert_link::kernel_bypass::Mode;
use culvert_link::layout::{FILES_MAX, FLOWS_PER_LANE};
use culvert_link::messages::{FromDataPlane, LaneReady};
use culvert_link::plane_handle::{PlaneConfig, PlaneHandle, PrepareError, prepare};
use culvert_link::socket::LinkSocket;
use culvert_protocol::foreign_text::foreign_text;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::data_plane::event_routing::route_events;
use crate::data_plane::next_hop_updates::follow_tables;
use crate::data_plane::watching::watch_process;
use crate::data_plane::{DataPlane, KernelBypass, LaneSlots, Setup};
use crate::error::DataPlaneError;
use crate::placement::Placement;
use crate::ports::PortsInUse;
use crate::process::{Link, Origin, link_ended, spawn};
use crate::slots::SlotOwner;

/// Messages of the data plane that may wait here. When that many wait, the process blocks.
const MESSAGES_WAITING_MAX: usize = 1_024;
/// Gaps in its sandbox, and reasons for a slower datapath, that it may report.
const TEXTS_MAX: usize = 64;

/// Starts the process and waits until its lanes run.
///
/// # Errors
/// [`DataPlaneError`].
pub async fn start(origin: &Origin, config: &PlaneConfig) -> Result<Arc<DataPlane>, DataPlaneError> {
    let (handle, mut child) = launch(origin, config)?;
    let PlaneHandle { socket, commands, events, bell, on_hugepages, buffers_per_lane } = handle;
    let bell = UnixStream::from_std(bell).map_err(PrepareError::from)?;
    let mut incoming = read_messages(&socket)?;
    let link = Link(socket.try_clone().map_err(PrepareError::from)?);
    let ready = Ready::receive(&mut incoming, child.as_mut(), config).await?;
    let kernel_bypass = kernel_bypass(&ready, config);
    let setup = Setup {
        process_id: child.as_ref().map_or(Some(ready.process_id), Child::id).unwrap_or(0),
        is_child: child.is_some(),
        bind: (config.bind, config.socket_buffer_bytes),
        on_hugepages,
        buffers_per_lane,
        buffer_bytes: config.buffer_bytes,
        sandbox_gaps: ready.sandbox_gaps,
        lanes: ready.lanes,
    };
    let (end_sender, end) = watch::channel(None);
    let (keep, dropped) = watch::channel(());
    let plane = Arc::new(DataPlane {
        link: socket,
        commands,
        slots: Mutex::new(setup.lanes.iter().map(|_| free_slots()).collect()),
        setup,
        kernel_bypass,
        captures: Arc::new(Semaphore::new(1)),
        waiters: Mutex::default(),
        free_files: Mutex::new((0..FILES_MAX).rev().map(FileSlot).collect()),
        end,
        nonsense: OnceLock::new(),
        _keep: keep,
    });
    let weak = Arc::downgrade(&plane);
    tokio::spawn(watch_process(child, link, incoming, dropped, weak.clone(), end_sender));
    if plane.kernel_bypass.af_xdp.is_some() {
        tokio::spawn(follow_tables(weak.clone()));
    }
    tokio::spawn(route_events(events, bell, weak));
    Ok(plane)
}

/// Starts a child, or connects to the listener that starts a process for each connection.
fn launch(origin: &Origin, config: &PlaneConfig) -> Result<(PlaneHandle, Option<Child>), DataPlaneError> {
    match origin {
        Origin::Child(program) => {
            let (ours, theirs) = LinkSocket::pair().map_err(PrepareError::from)?;
            Ok((prepare(config, ours)?, Some(spawn(program, theirs)?)))
        }
        Origin::Socket(path) => {
            let socket =
                LinkSocket::connect(path).map_err(|error| DataPlaneError::Attach { path: path.clone(), error })?;
            Ok((prepare(config, socket)?, None))
        }
    }
}

/// The process's messages. A thread reads them, not a task: the socket is blocking, and the thread
/// ends with the process.
fn read_messages(socket: &LinkSocket) -> Result<mpsc::Receiver<FromDataPlane>, DataPlaneError> {
    let (messages, incoming) = mpsc::channel(MESSAGES_WAITING_MAX);
    let reader = socket.try_clone().map_err(PrepareError::from)?;
    std::thread::spawn(move || {
        while let Ok(Some((message, _))) = reader.receive::<FromDataPlane>() {
            if messages.blocking_send(message).is_err() {
                break;
            }
        }
    });
    Ok(incoming)
}

/// What the process reports when its lanes run.
struct Ready {
    process_id: u32,
    lanes: Vec<LaneReady>,
    sandbox_gaps: Vec<String>,
    af_xdp: Option<Mode>,
    has_all_rules: bool,
    refusals: Vec<String>,
}

impl Ready {
    async fn receive(
        incoming: &mut mpsc::Receiver<FromDataPlane>,
        child: Option<&mut Child>,
        config: &PlaneConfig,
    ) -> Result<Self, DataPlaneError> {
        match incoming.recv().await {
            Some(FromDataPlane::Ready { process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals }) => {
                if lanes.len() != config.cores.len() {
                    return Err(DataPlaneError::Nonsense("its lanes are not those that it was told to run"));
                }
                let [sandbox_gaps, refusals] = [&sandbox_gaps, &refusals].map(|texts| in_foreign_words(texts));
                Ok(Self { process_id, lanes, sandbox_gaps, af_xdp, has_all_rules, refusals })
            }
            Some(FromDataPlane::CannotStart { text, free_ports }) => {
                let text = foreign_text(&text);
                Err(match free_ports {
                    Some(free) => DataPlaneError::PortsInUse(PortsInUse::new(config, free, text)),
                    None => DataPlaneError::CannotStart(text),
                })
            }
            _ => Err(DataPlaneError::Died(link_ended(child).await)),
        }
    }
}

fn kernel_bypass(ready: &Ready, config: &PlaneConfig) -> KernelBypass {
    let placement = ready.af_xdp.and(config.af_xdp.as_ref()).map(|start| {
        Placement::new(start.name.clone(), start.queues, ready.lanes.len() as u32).with_rules(ready.has_all_rules)
    });
    KernelBypass {
        af_xdp: ready.af_xdp.zip(config.af_xdp.as_ref().map(|start| start.interface)),
        refusals: config.refusals.iter().chain(&ready.refusals).cloned().collect(),
        placement,
        moves: AtomicU64::new(0),
        routes: Mutex::default(),
    }
}

fn free_slots() -> LaneSlots {
    LaneSlots {
        sends: (0..FLOWS_PER_LANE).map(|_| SlotOwner::Free).collect(),
        receives: (0..FLOWS_PER_LANE).map(|_| SlotOwner::Free).collect(),
    }
}

/// Texts of the data plane, escaped, and no more than [`TEXTS_MAX`].
fn in_foreign_words(texts: &[String]) -> Vec<String> {
    texts.iter().take(TEXTS_MAX).map(|text| foreign_text(text)).collect()
}

//! How a life begins: the process is started, and its lanes run.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use culvert_link::commands::FileSlot;
use culvert_link::layout::{FILES_MAX, FLOWS_PER_LANE};
use culvert_link::messages::FromDataPlane;
use culvert_link::plane_handle::{PlaneConfig, PlaneHandle, PrepareError, prepare};
use culvert_link::socket::LinkSocket;
use culvert_protocol::foreign_text::foreign_text;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::dataplane::error::DataPlaneError;
use crate::dataplane::life::kernel_bypass::follow_next_hops;
use crate::dataplane::life::routing::route_events;
use crate::dataplane::life::watching::watch_process;
use crate::dataplane::life::{DataPlane, LaneRoutes};
use crate::dataplane::placement::Placement;
use crate::dataplane::ports::PortsInUse;
use crate::dataplane::process::{Link, Origin, link_ended, spawn};
use crate::dataplane::slots::Route;

/// Messages of the data plane that may wait here.
const MESSAGES_WAITING_MAX: usize = 1_024;
/// Gaps in its sandbox, and reasons for a slower datapath, that it may report.
const TEXTS_MAX: usize = 64;

impl DataPlane {
    /// Starts the process and waits until its lanes run.
    ///
    /// # Errors
    /// [`DataPlaneError`].
    pub async fn start(origin: &Origin, config: &PlaneConfig) -> Result<Arc<Self>, DataPlaneError> {
        let (handle, mut child) = match origin {
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
        let PlaneHandle { socket, commands, events, bell, on_hugepages, buffers_per_lane } = handle;
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
            tokio::spawn(follow_next_hops(weak.clone()));
        }
        tokio::spawn(route_events(events, bell, weak));
        Ok(plane)
    }
}

/// Texts of the data plane, as many as it may have something to say about.
fn in_foreign_words(texts: &[String]) -> Vec<String> {
    texts.iter().take(TEXTS_MAX).map(|text| foreign_text(text)).collect()
}

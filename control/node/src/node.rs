//! A node: one identity, one state directory, one data plane, and the transfers with its partners.
//!
//! `culvert node` runs one until it is stopped. `culvert send`, and the far end that ssh starts,
//! run one for the duration of a transfer. They differ in what they listen on and whom they admit
//! ([`crate::admission::Admission`]).

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use culvert_engine::clock::SystemClock;
use culvert_engine::engine::{Engine, TransferBounds};
use culvert_engine::events::{Event, Observer};
use culvert_engine::journal;
use culvert_engine::limits::JOURNAL_AGE;
use culvert_engine::outcome::Outcome;
use culvert_engine::records::LiveTransfer;
use culvert_engine::requester;
use culvert_engine::tls::TlsConfigs;
use culvert_engine::transfer::blocking;
use culvert_engine::transfer::error::TransferError;
use culvert_link::plane_handle::PlaneConfig;
use culvert_model::request::TransferRequest;
use culvert_model::result::TransferResult;
use culvert_path::advice::{self, Advice};
use culvert_path::check::Side;
use culvert_path::service::PathService;
use culvert_plane::{Origin, Supervisor};
use culvert_protocol::control::TransferId;
use culvert_protocol::foreign_text::plain_lines;
use culvert_state::{StateDirectory, StateError};

use crate::connection_limiter::ConnectionLimiter;
use crate::metrics::Metrics;
use crate::profiles::Profiles;
use crate::registry::Registry;
use crate::tuning::IdleStateHold;

/// How long the journal of a complete transfer is kept whose sender has not signed, in case the
/// sender retries.
const COMPLETE_JOURNAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Runs its transfers.
    pub engine: Arc<Engine>,
    /// Its state directory.
    pub state: StateDirectory,
    /// Its partners.
    pub profiles: Profiles,
    /// Its transfers.
    pub registry: Arc<Registry>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Records of paths, and the answers to measurements.
    pub path: Arc<PathService>,
    /// Decides which handshakes may start.
    pub connection_limiter: Arc<ConnectionLimiter>,
}

/// Counts the engine's events, and keeps CPUs out of deep idle states while transfers run.
#[derive(Debug)]
struct NodeObserver {
    metrics: Arc<Metrics>,
    idle_states: IdleStateHold,
}

impl Observer for NodeObserver {
    fn note(&self, event: Event<'_>) {
        self.metrics.note(event);
    }

    fn hold_for_transfer(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.idle_states.hold().map(|hold| hold as Arc<dyn Any + Send + Sync>)
    }
}

impl Node {
    /// Creates a node. It does not listen yet, and the data plane starts when it is first needed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn new(
        state: StateDirectory,
        name: String,
        dataplane: Origin,
        engine: PlaneConfig,
        bounds: TransferBounds,
    ) -> Result<Arc<Self>, StateError> {
        let identity = Arc::new(state.identity()?);
        state.sweep();
        journal::sweep(&state.path("journals"), COMPLETE_JOURNAL_AGE, JOURNAL_AGE);
        let registry = Registry::open(state.clone())?;
        registry.sweep();
        for sentence in registry.left_alone() {
            say_aside!("culvert: {}", plain_lines(&sentence));
        }
        let tls = Arc::new(TlsConfigs::new(&identity));
        let metrics = Arc::new(Metrics::new());
        registry.count_in(&metrics);
        let (registry, profiles, path) =
            (Arc::new(registry), Profiles::new(state.clone()), Arc::<PathService>::default());
        let partners = Arc::new(profiles.clone());
        let advice = Advice { partners: partners.clone(), state: state.clone(), path: path.clone() };
        let engine = Engine {
            identity,
            name,
            tls,
            supervisor: Supervisor::new(dataplane, engine),
            journals: state.path("journals"),
            records: registry.clone(),
            partners,
            advice: Arc::new(advice),
            observer: Arc::new(NodeObserver { metrics: metrics.clone(), idle_states: IdleStateHold::default() }),
            shares: Arc::default(),
            clock: Arc::new(SystemClock),
            bounds,
        };
        let engine = Arc::new(engine);
        Ok(Arc::new(Self { engine, state, profiles, registry, metrics, path, connection_limiter: Arc::default() }))
    }
}

/// Runs a transfer that this node's user requested, and records what it shows about the path.
///
/// # Errors
/// [`TransferError`] of the last attempt.
pub async fn carry_out(
    node: &Arc<Node>,
    id: TransferId,
    request: &TransferRequest,
    live: LiveTransfer,
) -> Result<Outcome, TransferError> {
    let outcome = requester::carry_out(&node.engine, id, request, live).await?;
    record_path(node, request, &outcome.result).await;
    Ok(outcome)
}

/// Records what a transfer shows about the path, and warns if it was much slower than earlier
/// records.
async fn record_path(node: &Arc<Node>, request: &TransferRequest, result: &TransferResult) {
    let side = if request.is_sender() { Side::Send } else { Side::Receive };
    let (node, target, result) = (node.clone(), request.target.clone(), result.clone());
    let warning = blocking(move || {
        let Node { engine, state, profiles, path, .. } = &*node;
        let partner = advice::name_of(profiles, &target)?;
        advice::after_transfer(state, path, &engine.name, (&partner, side), &result)
    });
    if let Some(warning) = warning.await {
        say_aside!("culvert: warning: {warning}");
    }
}

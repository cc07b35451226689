//! A node inside a command, for as long as the command runs, and the transfers that it runs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use culvert_engine::clock::unix_ms;
use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::request::{Movement, TransferRequest};
use culvert_node::node::{Node, carry_out};
use culvert_node::registry::new_transfer_id;
use culvert_node::settings::Settings;
use culvert_plane::Origin;
use culvert_state::StateDirectory;

use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::progress;
use crate::verbose::{self, FileReporter};

/// A node for the duration of this command. `partner` is the address of its partner, if known.
///
/// # Errors
/// [`CommandError`].
pub fn embedded(
    settings: &Settings,
    state: &StateDirectory,
    partner: Option<IpAddr>,
) -> Result<Arc<Node>, CommandError> {
    let engine = settings.engine(false, partner)?;
    let name = settings.name.value.clone();
    let node = Node::new(state.clone(), name, Origin::Child(program()), engine, settings.transfer_bounds())?;
    node.path.configure(settings.paths.clone(), 0);
    Ok(node)
}

/// This program, for starting the data plane: the running executable, because an upgrade may have
/// replaced the file of its name.
#[must_use]
pub fn program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Runs a request in this process and shows its progress. Interrupts cancel it.
///
/// # Errors
/// [`CommandError`].
pub async fn carry_out_here(
    node: &Arc<Node>,
    request: TransferRequest,
    quiet: bool,
) -> Result<culvert_model::result::TransferResult, CommandError> {
    let id = new_transfer_id();
    let is_get = matches!(request.movement, Movement::Pull { .. });
    let record = TransferRecord::of_request(id, &request, RecordState::Active, unix_ms());
    let mut live = node.registry.begin(id, record).await?;
    let reporter = FileReporter::start(if is_get { "stored" } else { "sent" });
    live.names = reporter.as_ref().map(FileReporter::names);
    let shown = live.progress.subscribe();
    let canceler = node.clone();
    let interrupts = tokio::spawn(async move {
        let code = interrupted().await;
        canceler.registry.cancel(id).await;
        code
    });
    let outcome =
        progress::show(quiet, shown.clone(), verbose::with_phases(shown, carry_out(node, id, &request, live))).await;
    drop(reporter);
    node.registry.settle().await;
    if outcome.is_err() && interrupts.is_finished() {
        let code = interrupts.await.unwrap_or(ExitCode::Interrupted);
        let text = "interrupted; run the same command again to resume";
        return Err(CommandError::new(code, text).of_transfer(id));
    }
    interrupts.abort();
    if let Some(plane) = node.engine.supervisor.running().await.filter(|plane| plane.af_xdp_mode().is_none() && !quiet)
    {
        for refusal in plane.refusals() {
            say_aside!("culvert: {refusal}");
        }
    }
    Ok(outcome.map_err(|error| CommandError::from(error).of_transfer(id))?.result)
}

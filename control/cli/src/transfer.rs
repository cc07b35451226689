//! `culvert transfer`, and transfers that `culvert send` and `get` submit to a running node.

mod following;
mod listing;
mod lookup;
mod orders;
mod receipt;

use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::request::TransferRequest;
use culvert_node::settings::Settings;
use culvert_state::StateDirectory;

use crate::api_client::ApiClient;
use crate::args::{EngineArgs, GlobalArgs, TransferAction, TransferArgs};
use crate::exit::CommandError;
use crate::interruption::{interrupted, or_interrupted};
use crate::location::Location;
use crate::operands::{has_profile, options_of, parse_operands, target_of};
use crate::report::{ReportOptions, print_json, say};
use crate::state_to_read::state_to_read;
use crate::transfer::following::{FollowedTransfer, ended, follow, follow_as_json, wait};
use crate::transfer::lookup::{find, id_of};

/// Runs `culvert transfer`.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: TransferArgs) -> Result<ExitCode, CommandError> {
    let followed = FollowedTransfer::default();
    let result = or_interrupted(act(global, args, &followed)).await;
    result.map_err(|error| followed.explain(error))
}

/// Submits a request to a running node and follows it to its end.
///
/// # Errors
/// [`CommandError`].
pub async fn submit_and_follow(
    api: &ApiClient,
    request: &TransferRequest,
    report_options: ReportOptions,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    let id = api.submit(request).await?;
    if !report_options.quiet {
        say_aside!("culvert: the node running with {} runs this as transfer {id}", state.root().display());
    }
    let followed = FollowedTransfer::default();
    let following = follow(api, &id, report_options, state, &followed);
    tokio::select! {
        code = following => code.map_err(|error| followed.explain(error)),
        code = interrupted() => {
            let _ = api.cancel(&id).await;
            let text = "interrupted; run the same command again to resume";
            Err(CommandError::new(code, text).of_transfer(&id))
        }
    }
}

async fn act(global: GlobalArgs, args: TransferArgs, followed: &FollowedTransfer) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = match &args.action {
        TransferAction::List { .. } | TransferAction::Show { .. } => state_to_read(&settings)?,
        // These need a running node, or a receipt's file.
        _ => StateDirectory::at(settings.state.value.clone()),
    };
    let json = args.json;
    match args.action {
        TransferAction::Submit { get, paths, options } => {
            let parsed = parse_operands(&paths, get)?;
            if let Location::Ssh { .. } = parsed.partner.clone().or_over_ssh(|name| has_profile(&state, name)) {
                return Err(not_over_ssh(&parsed.partner));
            }
            let api = ApiClient::need(&state).await?;
            let request = TransferRequest {
                target: target_of(&parsed.partner),
                movement: parsed.movement,
                options: options_of(&options)?,
                retries: None,
            };
            let id = api.submit(&request).await?;
            if json {
                print_json(&serde_json::json!({ "transfer": id }))?;
            } else {
                say(&id)?;
            }
            Ok(ExitCode::Done)
        }
        TransferAction::List { limit, active } => listing::list(&state, limit, active, json).await,
        TransferAction::Show { transfer } => {
            let record = find(&state, &transfer).await?;
            if json {
                print_json(&record)?;
            } else {
                say(&listing::describe(&record, &state))?;
            }
            Ok(ExitCode::Done)
        }
        TransferAction::Wait { transfer, timeout, error_on_no_transfer } => {
            let api = ApiClient::need(&state).await?;
            let transfer = id_of(&state, &transfer).await?;
            let timeout = timeout.map(Duration::from_secs);
            let record = wait(&api, &transfer, timeout, None, followed).await?;
            if json {
                print_json(&record)?;
            }
            ended(&record, error_on_no_transfer)
        }
        TransferAction::Watch { transfer } => {
            let api = ApiClient::need(&state).await?;
            let transfer = id_of(&state, &transfer).await?;
            if json {
                follow_as_json(&api, &transfer, followed).await
            } else {
                let report_options = ReportOptions { quiet: global.quiet, ..ReportOptions::default() };
                follow(&api, &transfer, report_options, &state, followed).await
            }
        }
        TransferAction::Pause { transfer } => orders::pause(&state, &transfer, json, global.quiet, followed).await,
        TransferAction::Resume { transfer } => orders::order(&state, &transfer, "resume", json).await,
        TransferAction::Restart { transfer } => orders::order(&state, &transfer, "restart", json).await,
        TransferAction::Cancel { transfer } => orders::cancel(&state, &transfer, json, global.quiet, followed).await,
        TransferAction::Receipt { what, sender, receiver } => {
            receipt::verify(&state, &what, sender.as_deref(), receiver.as_deref(), json)
        }
    }
}

/// The error for a transfer over ssh, which a node cannot run.
fn not_over_ssh(partner: &Location) -> CommandError {
    let why = "a node cannot ask for ssh passwords: use 'culvert send' or 'culvert get'";
    match partner {
        Location::Profile { name, .. } => {
            let text =
                format!("there is no profile '{name}' ('culvert profile list' lists all); if it is an ssh host, {why}");
            CommandError::new(ExitCode::NotFound, text)
        }
        _ => CommandError::usage(format!("{why} for USER@HOST:PATH")),
    }
}

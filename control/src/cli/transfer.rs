//! `culvert transfer`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_protocol::foreign_text::plain_lines;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::receipt::Receipt;
use culvert_tuning::regular_file::{ReadError, read_named};
use tokio::sync::watch;

use crate::api_client::ApiClient;
use crate::cli::args::{EngineArgs, GlobalArgs, TransferAction, TransferArgs};
use crate::cli::exit::{CommandError, ExitCode, of_path};
use crate::cli::report::{print_json, say};
use crate::cli::send::{has_profile, options_of, read_paths, target_of};
use crate::cli::target::Place;
use crate::cli::{progress, report};
use crate::registry::{RecordState, Registry, TransferRecord};
use crate::request::TransferRequest;
use crate::settings::Settings;
use crate::state::StateDirectory;
use crate::transfer::Progress;
use crate::units::{show_bytes, show_rate};
use culvert_tuning::counted::counted;

/// Why a node is not asked for a transfer over ssh.
fn by_a_user_alone(partner: &Place) -> CommandError {
    let why = "a node cannot ask for ssh passwords: use 'culvert send' or 'culvert get'";
    match partner {
        Place::Profile { name, .. } => {
            let text = format!(
                "there is no profile '{name}' ('culvert profile list' shows those there are); if it is a host of ssh, {why}"
            );
            CommandError::new(ExitCode::NotFound, text)
        }
        _ => CommandError::usage(format!("{why} for USER@HOST:PATH")),
    }
}

/// No receipt is longer: it is a line and two signatures.
const RECEIPT_BYTES_MAX: u64 = 1 << 20;
/// How often the node is asked about a transfer that is followed.
const POLL: Duration = Duration::from_millis(150);

/// Carries an action on transfers out.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: TransferArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = StateDirectory::open(&settings.state.value)?;
    let json = args.json;
    match args.action {
        TransferAction::Submit { get, paths, options } => {
            let typed = read_paths(&paths, get)?;
            if let Place::Ssh { .. } = typed.partner.clone().or_over_ssh(|name| has_profile(&state, name)) {
                return Err(by_a_user_alone(&typed.partner));
            }
            let api = ApiClient::need(&state).await?;
            let request = TransferRequest {
                target: target_of(&typed.partner),
                movement: typed.movement,
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
        TransferAction::List { limit, active } => list(&state, limit, active, json).await,
        TransferAction::Show { transfer } => {
            let record = find(&state, &transfer).await?;
            if json {
                print_json(&record)?;
            } else {
                say(&describe(&record, &state))?;
            }
            Ok(ExitCode::Done)
        }
        TransferAction::Wait { transfer, timeout } => {
            let api = ApiClient::need(&state).await?;
            let timeout = timeout.map(Duration::from_secs);
            let record = wait(&api, &transfer, timeout, None).await?;
            if json {
                print_json(&record)?;
            }
            ended(&record)
        }
        TransferAction::Watch { transfer } => {
            let api = ApiClient::need(&state).await?;
            if json {
                watch_json(&api, &transfer).await
            } else {
                follow(&api, &transfer, json, global.quiet, &state).await
            }
        }
        TransferAction::Pause { transfer } => pause(&ApiClient::need(&state).await?, &transfer).await,
        TransferAction::Resume { transfer } => order(&state, &transfer, "resume").await,
        TransferAction::Restart { transfer } => order(&state, &transfer, "restart").await,
        TransferAction::Cancel { transfer } => {
            ApiClient::need(&state).await?.cancel(&transfer).await?;
            Ok(ExitCode::Done)
        }
        TransferAction::Receipt { what, sender, receiver } => {
            receipt(&state, &what, sender.as_deref(), receiver.as_deref(), json)
        }
    }
}

async fn order(state: &StateDirectory, id: &str, what: &str) -> Result<ExitCode, CommandError> {
    ApiClient::need(state).await?.order(id, what).await?;
    Ok(ExitCode::Done)
}

/// Pauses a transfer and waits until it has stopped: from then on it stays so.
async fn pause(api: &ApiClient, id: &str) -> Result<ExitCode, CommandError> {
    api.order(id, "pause").await?;
    loop {
        let record = api.transfer(id).await?;
        let state = record.state;
        // What still shows progress has not quite stopped.
        if state == RecordState::Paused && record.progress.is_none() {
            return Ok(ExitCode::Done);
        }
        if state.is_final() {
            return Err(CommandError::failed(format!(
                "transfer {id} ended before it could be paused: it {}",
                state.word()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints a line of JSON for each change of a transfer, and its result or its record at last.
async fn watch_json(api: &ApiClient, id: &str) -> Result<ExitCode, CommandError> {
    let mut shown = None;
    loop {
        let record = api.transfer(id).await?;
        if record.state.is_final() {
            match &record.result {
                Some(result) => print_json(result)?,
                None => print_json(&record)?,
            }
            return ended(&record);
        }
        let now = Some((record.state, record.progress.clone()));
        if shown != now {
            print_json(&serde_json::json!({
                "transfer": record.transfer,
                "state": record.state,
                "attempts": record.attempts,
                "progress": record.progress,
            }))?;
            shown = now;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Submits a request to a running node and follows it to its end.
///
/// # Errors
/// [`CommandError`].
pub async fn submit_and_follow(
    api: &ApiClient,
    request: &TransferRequest,
    json: bool,
    quiet: bool,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    let id = api.submit(request).await?;
    let following = follow(api, &id, json, quiet, state);
    tokio::select! {
        code = following => code,
        code = crate::cli::node::interrupted() => {
            let _ = api.cancel(&id).await;
            Err(CommandError::new(code, "interrupted; the same command goes on where this one stopped"))
        }
    }
}

async fn follow(
    api: &ApiClient,
    id: &str,
    json: bool,
    quiet: bool,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    let (shown, receiver) = watch::channel(Progress::default());
    let record = progress::show(quiet, receiver, wait(api, id, None, Some(&shown))).await?;
    match &record.result {
        Some(result) => report::print(result, json, quiet, state),
        None => ended(&record),
    }
}

/// Waits until a transfer has ended.
async fn wait(
    api: &ApiClient,
    id: &str,
    timeout: Option<Duration>,
    shown: Option<&watch::Sender<Progress>>,
) -> Result<TransferRecord, CommandError> {
    let began = Instant::now();
    loop {
        let record = api.transfer(id).await?;
        if record.state.is_final() {
            return Ok(record);
        }
        if let (Some(shown), Some(progress)) = (shown, record.progress) {
            shown.send_replace(progress);
        }
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            return Err(CommandError::new(
                ExitCode::TimedOut,
                format!("transfer {id} has not ended within {} s", began.elapsed().as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What an ended transfer means for the exit code.
fn ended(record: &TransferRecord) -> Result<ExitCode, CommandError> {
    if let Some(result) = &record.result {
        return Ok(report::exit_code(result));
    }
    let failure = record.error.clone();
    let (exit_code, text) =
        failure.map_or((ExitCode::Failed as u8, "it failed".to_owned()), |failure| (failure.exit_code, failure.text));
    Err(CommandError { exit_code, text })
}

/// The transfers, from the running node or from the state directory.
async fn records(state: &StateDirectory) -> Result<Vec<TransferRecord>, CommandError> {
    match ApiClient::connect(state).await? {
        Some(api) => api.transfers().await,
        None => {
            let registry = Registry::open(state.clone())?;
            for sentence in registry.left_alone() {
                say_aside!("culvert: {}", plain_lines(&sentence));
            }
            Ok(registry.list())
        }
    }
}

async fn find(state: &StateDirectory, id: &str) -> Result<TransferRecord, CommandError> {
    let id = id.to_ascii_uppercase();
    let found = records(state).await?.into_iter().find(|record| record.transfer == id);
    found.ok_or_else(|| {
        CommandError::new(
            ExitCode::NotFound,
            format!("there is no transfer {id}; 'culvert transfer list' shows those there are"),
        )
    })
}

async fn list(state: &StateDirectory, limit: usize, active: bool, json: bool) -> Result<ExitCode, CommandError> {
    let mut records = records(state).await?;
    records.retain(|record| !active || !record.state.is_final());
    records.truncate(limit);
    if json {
        for record in &records {
            print_json(record)?;
        }
        return Ok(ExitCode::Done);
    }
    if records.is_empty() {
        say("no transfers")?;
    }
    for record in records {
        let how = match (&record.result, &record.progress) {
            (Some(result), _) => format!("{}, {}", show_bytes(result.bytes), show_rate(result.goodput_bps)),
            (None, Some(progress)) => progress::line(progress),
            (None, None) => record.error.as_ref().map_or(String::new(), |error| error.text.clone()),
        };
        say(&format!("{}  {:21}  {}  {how}", record.transfer, record.state.word(), record.description))?;
    }
    Ok(ExitCode::Done)
}

fn describe(record: &TransferRecord, state: &StateDirectory) -> String {
    let mut lines = vec![
        format!("transfer     {}", record.transfer),
        format!("what         {}", record.description),
        format!("partner      {}", record.partner),
        format!("state        {}", record.state.word()),
        format!("tries        {}", record.attempts),
    ];
    if let Some(progress) = &record.progress {
        lines.push(format!("progress     {}", progress::line(progress)));
    }
    if let Some(error) = &record.error {
        let what = if record.state == RecordState::Queued { "waiting, last try" } else { "error" };
        lines.push(format!("{what:12} {}", error.text));
    }
    if let Some(result) = &record.result {
        let receipt = state.path(format!("receipts/{}.receipt", record.transfer));
        lines.push(report::text(result, &receipt.display().to_string()));
        lines.extend(result.errors.iter().map(|error| format!("  failed     {}: {}", error.path, error.text)));
        lines.extend(result.warning().map(|warning| format!("  warning    {warning}")));
    }
    lines.join("\n")
}

/// Verifies a receipt offline: both signatures, and the keys if they are told.
fn receipt(
    state: &StateDirectory,
    what: &OsStr,
    sender: Option<&str>,
    receiver: Option<&str>,
    json: bool,
) -> Result<ExitCode, CommandError> {
    let text = match what.to_str().filter(|id| id.parse::<culvert_protocol::control::TransferId>().is_ok()) {
        Some(id) => Registry::open(state.clone())?
            .receipt(id.parse().map_err(CommandError::usage)?)?
            .ok_or_else(|| CommandError::new(ExitCode::NotFound, format!("there is no receipt of transfer {id}")))?,
        None => {
            read_named(Path::new(what), RECEIPT_BYTES_MAX, |text| say_aside!("culvert: {text}")).map_err(|error| {
                let text = format!("the receipt {} cannot be read: {error}", what.display());
                let code = if let ReadError::Os(error) = &error { of_path(error) } else { ExitCode::NotFound };
                CommandError::new(code, text)
            })?
        }
    };
    let (_, statement) = Receipt::verify(&text)
        .map_err(|error| CommandError::new(ExitCode::Verification, format!("the receipt is not valid: {error}")))?;
    for (who, expected, found) in [("sender", sender, statement.sender), ("receiver", receiver, statement.receiver)] {
        let Some(expected) = expected else { continue };
        let is_key = expected.parse::<PublicKey>().is_ok_and(|key| key == found);
        if !is_key && expected != found.fingerprint() {
            let text = format!("the receipt is valid, but its {who} is {}, not {expected}", found.fingerprint());
            return Err(CommandError::new(ExitCode::Verification, text));
        }
    }
    if json {
        print_json(&statement)?;
    } else {
        say(&format!(
            "valid: signed by both\n  transfer   {}\n  sender     {}\n  receiver   {}\n  stored     {}, {}; {} failed\n  blake3     {}\n  sealed     {}, {}, {} sent again\n  verdict    {}",
            statement.transfer,
            statement.sender.fingerprint(),
            statement.receiver.fingerprint(),
            counted(statement.files, "file"),
            show_bytes(statement.bytes),
            statement.files_failed,
            if statement.root_blake3.is_empty() { "none" } else { &statement.root_blake3 },
            statement.cipher,
            counted(statement.segments_sent, "segment"),
            statement.segments_resent,
            statement.verdict
        ))?;
    }
    Ok(ExitCode::Done)
}

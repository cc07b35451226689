//! `culvert transfer`.

mod listing;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_model::exit_code::ExitCode;
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::request::TransferRequest;
use culvert_model::units::show_bytes;
use culvert_node::registry::Registry;
use culvert_node::settings::Settings;
use culvert_protocol::control::TransferId;
use culvert_protocol::counted::counted;
use culvert_protocol::foreign_text::plain_lines;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::receipt::Receipt;
use culvert_state::StateDirectory;
use culvert_system::regular_file::{ReadError, read_named};
use tokio::sync::watch;

use crate::api_client::ApiClient;
use crate::args::{EngineArgs, GlobalArgs, TransferAction, TransferArgs};
use crate::exit::{CommandError, of_path};
use crate::interruption::{interrupted, or_interrupted};
use crate::report::{self, Telling, print_json, print_json_line, say};
use crate::target::Place;
use crate::typed::{has_profile, options_of, read_paths, target_of};
use crate::{progress, verbose};

/// No receipt is longer: it is a line and two signatures.
const RECEIPT_BYTES_MAX: u64 = 1 << 20;
/// How often the node is asked about a transfer that is followed.
const POLL: Duration = Duration::from_millis(150);

/// Carries an action on transfers out.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: TransferArgs) -> Result<ExitCode, CommandError> {
    let followed = FollowedTransfer::default();
    let done = or_interrupted(act(global, args, &followed)).await;
    done.map_err(|error| followed.explain(error))
}

/// A transfer that is waited for, as it was last seen: the command may end before it does.
#[derive(Debug, Default)]
struct FollowedTransfer(RefCell<Option<(String, RecordState)>>);

impl FollowedTransfer {
    fn note(&self, record: &TransferRecord) {
        self.0.replace(Some((record.transfer.clone(), record.state)));
    }

    /// Says of an error that the transfer goes on, if it does.
    fn explain(&self, error: CommandError) -> CommandError {
        let Some((id, state)) = self.0.take().filter(|(_, state)| !state.is_final()) else { return error };
        let is_interrupt = ExitCode::of(error.exit_code).is_some_and(ExitCode::is_interrupt);
        let error = if is_interrupt {
            let text = format!("interrupted: only the waiting has ended; transfer {id} {}", state.predicate());
            CommandError { text, ..error }
        } else {
            error
        };
        error.of_followed(id, state)
    }
}

/// Where a transfer stands after an order.
#[derive(serde::Serialize)]
struct StateOf<'a> {
    transfer: &'a str,
    state: RecordState,
}

impl<'a> StateOf<'a> {
    fn of(record: &'a TransferRecord) -> Self {
        Self { transfer: &record.transfer, state: record.state }
    }
}

/// Submits a request to a running node and follows it to its end.
///
/// # Errors
/// [`CommandError`].
pub async fn submit_and_follow(
    api: &ApiClient,
    request: &TransferRequest,
    telling: Telling,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    let id = api.submit(request).await?;
    if !telling.quiet {
        say_aside!("culvert: the node running with {} runs this as transfer {id}", state.root().display());
    }
    let followed = FollowedTransfer::default();
    let following = follow(api, &id, telling, state, &followed);
    tokio::select! {
        code = following => code.map_err(|error| followed.explain(error)),
        code = interrupted() => {
            let _ = api.cancel(&id).await;
            let text = "interrupted; run the same command again to resume";
            Err(CommandError::new(code, text).of_transfer(&id))
        }
    }
}

/// Why a node is not asked for a transfer over ssh.
fn by_a_user_alone(partner: &Place) -> CommandError {
    let why = "a node cannot ask for ssh passwords: use 'culvert send' or 'culvert get'";
    match partner {
        Place::Profile { name, .. } => {
            let text =
                format!("there is no profile '{name}' ('culvert profile list' lists all); if it is an ssh host, {why}");
            CommandError::new(ExitCode::NotFound, text)
        }
        _ => CommandError::usage(format!("{why} for USER@HOST:PATH")),
    }
}

async fn act(global: GlobalArgs, args: TransferArgs, followed: &FollowedTransfer) -> Result<ExitCode, CommandError> {
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
                watch_json(&api, &transfer, followed).await
            } else {
                let telling = Telling { quiet: global.quiet, ..Telling::default() };
                follow(&api, &transfer, telling, &state, followed).await
            }
        }
        TransferAction::Pause { transfer } => {
            let api = ApiClient::need(&state).await?;
            let id = id_of(&state, &transfer).await?;
            say_if_already(&api, &id, RecordState::Paused, global.quiet).await?;
            pause(&api, &id, json).await
        }
        TransferAction::Resume { transfer } => order(&state, &transfer, "resume", json).await,
        TransferAction::Restart { transfer } => order(&state, &transfer, "restart", json).await,
        TransferAction::Cancel { transfer } => {
            let api = ApiClient::need(&state).await?;
            let id = id_of(&state, &transfer).await?;
            say_if_already(&api, &id, RecordState::Canceled, global.quiet).await?;
            order(&state, &id, "cancel", json).await
        }
        TransferAction::Receipt { what, sender, receiver } => {
            receipt(&state, &what, sender.as_deref(), receiver.as_deref(), json)
        }
    }
}

/// Says that an order changes nothing, as the transfer is where it would have it.
async fn say_if_already(api: &ApiClient, id: &str, wanted: RecordState, quiet: bool) -> Result<(), CommandError> {
    let record = api.transfer(id).await?;
    // What still shows progress has not quite stopped.
    if record.state == wanted && record.progress.is_none() && !quiet {
        say_aside!("culvert: transfer {id} is already {}", wanted.word());
    }
    Ok(())
}

async fn order(state: &StateDirectory, id: &str, what: &str, json: bool) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    api.order(id, what).await?;
    if json {
        print_json(&StateOf::of(&api.transfer(id).await?))?;
    }
    Ok(ExitCode::Done)
}

/// Pauses a transfer and waits until it has stopped: from then on it stays so.
async fn pause(api: &ApiClient, id: &str, json: bool) -> Result<ExitCode, CommandError> {
    api.order(id, "pause").await?;
    loop {
        let record = api.transfer(id).await?;
        let state = record.state;
        // What still shows progress has not quite stopped.
        if state == RecordState::Paused && record.progress.is_none() {
            if json {
                print_json(&StateOf::of(&record))?;
            }
            return Ok(ExitCode::Done);
        }
        if state.is_final() {
            return Err(CommandError::failed(format!(
                "transfer {id} has ended ({}) before it could be paused",
                state.word()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints a line of JSON for each change of a transfer, and its result or its record at last.
async fn watch_json(api: &ApiClient, id: &str, followed: &FollowedTransfer) -> Result<ExitCode, CommandError> {
    let mut shown = None;
    loop {
        let record = api.transfer(id).await?;
        followed.note(&record);
        if record.state.is_final() {
            match &record.result {
                Some(result) => print_json(result)?,
                None => print_json(&record)?,
            }
            return ended(&record, false);
        }
        let now = Some((record.state, record.progress.clone()));
        if shown != now {
            print_json_line(&serde_json::json!({
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

async fn follow(
    api: &ApiClient,
    id: &str,
    telling: Telling,
    state: &StateDirectory,
    followed: &FollowedTransfer,
) -> Result<ExitCode, CommandError> {
    let (shown, receiver) = watch::channel(Progress::default());
    let waiting = verbose::beside(receiver.clone(), wait(api, id, None, Some(&shown), followed));
    let record = progress::show(telling.quiet, receiver, waiting).await?;
    match &record.result {
        Some(result) => report::print(result, telling, state),
        None => ended(&record, telling.error_on_no_transfer),
    }
}

/// Waits until a transfer has ended.
async fn wait(
    api: &ApiClient,
    id: &str,
    timeout: Option<Duration>,
    shown: Option<&watch::Sender<Progress>>,
    followed: &FollowedTransfer,
) -> Result<TransferRecord, CommandError> {
    let began = Instant::now();
    loop {
        let record = api.transfer(id).await?;
        followed.note(&record);
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
fn ended(record: &TransferRecord, error_on_no_transfer: bool) -> Result<ExitCode, CommandError> {
    if let Some(result) = &record.result {
        return Ok(report::exit_code(result, error_on_no_transfer));
    }
    let error = match record.error.clone() {
        Some(failure) => failure.into(),
        None => CommandError::failed("it failed"),
    };
    Err(error.of_transfer(&record.transfer))
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
    let records = records(state).await?;
    let id = listing::id_of(id, &records)?;
    records.into_iter().find(|record| record.transfer == id).ok_or_else(|| {
        CommandError::new(ExitCode::NotFound, format!("there is no transfer {id}; 'culvert transfer list' lists all"))
    })
}

/// The id that is meant, which may be typed in part.
async fn id_of(state: &StateDirectory, typed: &str) -> Result<String, CommandError> {
    if typed.parse::<TransferId>().is_ok() {
        return Ok(typed.to_ascii_uppercase());
    }
    listing::id_of(typed, &records(state).await?)
}

async fn list(state: &StateDirectory, limit: usize, active: bool, json: bool) -> Result<ExitCode, CommandError> {
    let mut records = records(state).await?;
    records.retain(|record| !active || !record.state.is_final());
    records.truncate(limit);
    if json {
        for record in &records {
            print_json_line(record)?;
        }
        return Ok(ExitCode::Done);
    }
    if records.is_empty() {
        say("no transfers")?;
    }
    if !records.is_empty() {
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        say(&listing::table(&records, columns.filter(|&columns| columns > 0)))?;
    }
    Ok(ExitCode::Done)
}

fn describe(record: &TransferRecord, state: &StateDirectory) -> String {
    let mut lines = vec![
        format!("transfer     {}", record.transfer),
        format!("what         {}", record.description),
        format!("partner      {}", record.partner),
        format!("state        {}", record.state.word()),
        format!("started      {}", listing::time(record.created_unix_ms)),
        format!("ended        {}", record.ended_unix_ms.map_or_else(|| "not yet".to_owned(), listing::time)),
        format!("attempts     {}", record.attempts),
    ];
    if let Some(progress) = &record.progress {
        lines.push(format!("progress     {}", progress::line(progress)));
    }
    if let Some(error) = &record.error {
        // That of an attempt before the one that is under way.
        let what = if record.state.is_final() { "error" } else { "last attempt:" };
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
    let text = match what.to_str().filter(|id| id.parse::<TransferId>().is_ok()) {
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

//! `culvert path`.

pub mod args;
mod history;
mod pscheduler;
mod twoway;

use std::ffi::OsStr;
use std::fs::File;

use culvert_model::exit_code::ExitCode;
use culvert_model::request::Target;
use culvert_node::settings::Settings;
use culvert_path::check::{PathCheck, Side};
use culvert_path::conduct::check;
use culvert_path::grades::{Finding, findings};
use culvert_path::plan::Plan;
use culvert_path::{page, records};
use culvert_protocol::counted::{agree, counted};
use culvert_state::StateDirectory;
use culvert_system::file_lock::{self, FileLock, LockError};
use serde::Serialize;

use crate::api_client::ApiClient;
use crate::args::GlobalArgs;
use crate::embedded_node::embedded;
use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::location::{Location, parse};
use crate::operands::target_of;
use crate::path::args::{CheckArgs, PathAction, PathArgs};
use crate::report::{print_json, say};
use crate::state_to_read::state_to_read;

/// Runs `culvert path`.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: PathArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&crate::args::EngineArgs::default()))?;
    match args.action {
        PathAction::Check(args) => run_check(&global, &settings, args).await,
        PathAction::History(args) => history::run(&state_to_read(&settings)?, &args),
        PathAction::Pscheduler(args) => pscheduler::run(&global, &settings, args).await,
        PathAction::Stamp(args) => twoway::run(twoway::Protocol::Stamp, &args).await,
        PathAction::Twamp(args) => twoway::run(twoway::Protocol::Twamp, &args).await,
        PathAction::Publish => publish(&settings).await,
    }
}

/// A check with its findings, as printed with `--json`.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    check: &'a PathCheck,
    findings: &'a [Finding],
}

/// Parses a partner: a profile's name, `culvert://HOST:PORT`, or a path on it.
fn target(text: &str) -> Result<Target, CommandError> {
    let with_path =
        if text.starts_with("culvert://") || text.contains(':') { text.to_owned() } else { format!("{text}:") };
    match parse(OsStr::new(&with_path))? {
        Location::Ssh { .. } => Err(CommandError::usage(format!(
            "'{text}' is reached over ssh, where no node answers path checks: start 'culvert node' there and add its profile"
        ))),
        location => Ok(target_of(&location)),
    }
}

async fn run_check(global: &GlobalArgs, settings: &Settings, args: CheckArgs) -> Result<ExitCode, CommandError> {
    let state = StateDirectory::open(&settings.state.value)?;
    let target = target(&args.partner)?;
    records::make_directory(&state)?;
    let _lock = lock(&state)?;
    let mut engine = settings.clone();
    // A check sends its own packets and needs no lanes.
    engine.cores.value.clear();
    let node = embedded(&engine, &state, None)?;
    let cap = settings.paths.path.rate_bits_per_second_max();
    let plan = Plan {
        echo_seconds: args.seconds,
        echoes_per_second: args.packets_per_second,
        echo_bytes: args.size,
        seconds_max: args.limit,
        rate_bits_per_second_max: args.rate.unwrap_or(cap).min(cap),
        rate: !args.no_rate,
        buffer: args.buffer,
        trace: !args.no_trace,
        mtu: !args.no_mtu,
    };
    let quiet = global.quiet;
    let mut inform = |doing: &str| {
        if !quiet {
            say_aside!("culvert: {doing}");
        }
    };
    let busy = transfers_under_way(&state).await;
    let mut found = tokio::select! {
        found = check(&node.engine, &target, &plan, &mut inform) => found?,
        code = interrupted() => return Err(CommandError::new(code, "interrupted")),
    };
    found.transfers_meanwhile = busy.max(transfers_under_way(&state).await);
    let history = records::read(&state, &found.partner, Side::Send).unwrap_or_default();
    let findings = findings(&found, &history);
    for side in Side::ALL {
        // A check that measured nothing is not recorded.
        if found.rtt.is_some() {
            records::add(&state, &found.partner, side, records::of_check(&found, side))?;
        }
    }
    if let Some(table) = &settings.paths.archive {
        let documents = culvert_path::publish::of_check(&found, &settings.name.value);
        let spooled = culvert_path::publish::spool(&state, table)
            .and_then(|spool| culvert_path::publish::add(&spool, found.at_unix_ms, &documents));
        if let Err(why) = spooled {
            say_aside!("culvert: the check is not published: {why}");
        }
    }
    if args.json {
        print_json(&Shown { check: &found, findings: &findings })?;
    } else {
        say(&page::page(&found, &findings))?;
    }
    match (found.rtt, found.complete) {
        (None, _) => {
            let why = found.problems.last().cloned().unwrap_or_default();
            Err(CommandError::new(
                ExitCode::Failed,
                format!("the path to {} could not be measured: {why}", found.partner),
            ))
        }
        (_, true) => Ok(ExitCode::Done),
        (_, false) => Ok(ExitCode::SomeFailed),
    }
}

async fn transfers_under_way(state: &StateDirectory) -> u64 {
    match ApiClient::connect(state).await {
        Ok(Some(api)) => api.status().await.map_or(0, |status| status.transfers.len() as u64),
        Ok(None) | Err(_) => 0,
    }
}

/// Permits one check at a time with this state directory, because two would disturb each other.
fn lock(state: &StateDirectory) -> Result<(File, FileLock), CommandError> {
    let name = "paths/check.lock";
    let file = state.open_lock(name)?;
    let lock = file_lock::lock(&file).map_err(|error| match error {
        LockError::Held => CommandError::new(
            ExitCode::Temporary,
            "another path check is running with this state directory: wait until it ends",
        ),
        error @ LockError::Os(_) => {
            CommandError::new(ExitCode::BadHost, format!("cannot lock {}: {error}", state.path(name).display()))
        }
    })?;
    Ok((file, lock))
}

/// Delivers queued results to the archive once, for hosts without a running node.
async fn publish(settings: &Settings) -> Result<ExitCode, CommandError> {
    let Some(table) = &settings.paths.archive else {
        return Err(CommandError::usage("no archive is configured: add the table [archive] to culvert.toml"));
    };
    let state = state_to_read(settings)?;
    let bad = |text: String| CommandError::new(ExitCode::BadHost, text);
    let archive = culvert_path::publish::archive(&state, table, &settings.name.value).map_err(bad)?;
    if !culvert_path::publish::has_spool(&state) {
        say("nothing is waiting for the archive")?;
        return Ok(ExitCode::Done);
    }
    let spool = culvert_path::publish::spool(&state, table).map_err(bad)?;
    if spool.is_empty() {
        say("nothing is waiting for the archive")?;
        return Ok(ExitCode::Done);
    }
    let (delivered, error) = archive.drain(&spool).await;
    let waiting = spool.len();
    let delivered = counted(delivered, "document");
    say(&format!("{delivered} delivered, {waiting} {}", agree(waiting, "waits", "wait")))?;
    match error {
        None => Ok(ExitCode::Done),
        Some(error) => Err(CommandError::new(ExitCode::Temporary, error)),
    }
}

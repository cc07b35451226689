//! `culvert capture`, and captures of commands with lanes of their own.

pub mod args;
mod file;

use std::path::Path;

use culvert_engine::transfer::blocking;
use culvert_model::exit_code::ExitCode;
use culvert_node::capture::{Capture, CaptureError, CaptureOptions, Stop, Summary};
use culvert_node::node::Node;
use culvert_node::settings::Settings;
use culvert_protocol::counted::counted;
use culvert_state::StateDirectory;
use tokio::task::JoinHandle;

use crate::api_client::{ApiClient, RunningCapture};
use crate::args::{EngineArgs, GlobalArgs};
use crate::capture::args::CaptureArgs;
use crate::capture::file::{CaptureFile, conclude};
use crate::exit::CommandError;
use crate::report::print_json;

/// Captures what the running node's lanes send and receive.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: CaptureArgs) -> Result<ExitCode, CommandError> {
    if args.json && args.file.as_os_str() == "-" {
        return Err(CommandError::usage("--json and the capture cannot both go to standard output: name a file"));
    }
    CaptureFile::check(&args.file)?;
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = StateDirectory::at(settings.state.value.clone());
    let api = ApiClient::need(&state).await?;
    let options =
        CaptureOptions { lane: args.lane, snap_bytes: args.snap, packets: args.packets, seconds: args.seconds };
    let mut capture = api.capture(&options).await?;
    // Only now, so that an existing file is not lost if the node refuses.
    let mut file = CaptureFile::create(&args.file)?;
    let name = file.name();
    if !global.quiet {
        let lanes = counted(capture.lanes, "lane");
        say_aside!("culvert: capturing {lanes} to {name}; Ctrl-C ends it");
    }
    receive(&api, &mut capture, &mut file).await?;
    let summary = capture.summary().ok_or_else(|| {
        CommandError::new(ExitCode::Temporary, format!("the node ended: {name} contains what was captured until then"))
    })?;
    if args.json {
        print_json(&summary)?;
    }
    conclude(&summary, &name, global.quiet)
}

/// A capture of the lanes of this process.
#[derive(Debug)]
pub struct EmbeddedCapture {
    name: String,
    stop: Stop,
    writing: JoinHandle<Result<Summary, CommandError>>,
}

impl EmbeddedCapture {
    /// Starts the data plane of `node`, unless it is running, and captures all lanes.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn start(node: &Node, file: &Path) -> Result<Self, CommandError> {
        if file.as_os_str() == "-" {
            return Err(CommandError::usage("--capture needs a file: standard output is for the result"));
        }
        let plane = node.engine.supervisor.get().await?;
        let mut capture = Capture::begin(plane, &CaptureOptions::default()).await.map_err(|error| match error {
            CaptureError::DataPlane(error) => error.into(),
            error => CommandError::failed(error),
        })?;
        let mut file = CaptureFile::create(file)?;
        let (name, stop) = (file.name(), capture.stop());
        let writing = tokio::spawn(async move {
            while let Some(bytes) = capture.next().await {
                // The captured transfer continues meanwhile.
                let appended = blocking(move || file.append(&bytes).map(|_| file));
                file = appended.await?;
            }
            Ok(capture.summary())
        });
        Ok(Self { name, stop, writing })
    }

    /// Ends the capture. Its outcome does not affect the transfer, but a capture that is not whole
    /// is an error of the command that was to make it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn end(self, quiet: bool) -> Result<(), CommandError> {
        self.stop.stop();
        match self.writing.await {
            Ok(Ok(summary)) => conclude(&summary, &self.name, quiet).map(drop),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(CommandError::failed(error)),
        }
    }
}

/// Writes the capture until it ends. An interrupt ends it in the node, and packets captured until
/// then still arrive; a second interrupt ends this command.
async fn receive(api: &ApiClient, capture: &mut RunningCapture, file: &mut CaptureFile) -> Result<(), CommandError> {
    let mut interrupted = Box::pin(crate::interruption::interrupted());
    let mut is_ending = false;
    loop {
        let bytes = tokio::select! {
            bytes = capture.next() => bytes,
            code = &mut interrupted => {
                if is_ending {
                    return Err(CommandError::new(code, "interrupted before the capture was complete"));
                }
                is_ending = true;
                interrupted = Box::pin(crate::interruption::interrupted());
                // Fails if the capture has just ended by itself.
                let _ = api.stop_capture(capture.id).await;
                continue;
            }
        };
        let Some(bytes) = bytes else { return Ok(()) };
        if !file.append(&bytes)? && !is_ending {
            // The reader of the pipe has closed it.
            is_ending = true;
            let _ = api.stop_capture(capture.id).await;
        }
    }
}

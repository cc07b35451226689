//! `culvert tune` and `culvert doctor`: runs the commands of the tuning crate.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_dataplane::datapath::Datapath as _;
use culvert_dataplane::datapath::udp::UdpDatapath;
use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_bytes;
use culvert_node::registry::recently_cut_off;
use culvert_node::settings::lanes::SOCKET_BUFFER_BYTES;
use culvert_node::settings::{Flags, Settings, has_af_xdp};
use culvert_node::tuning;
use culvert_protocol::counted::counted;
use culvert_state::StateDirectory;
use culvert_system::os_error::without_numbers;
use culvert_tuning::command::{CommandContext, DoctorArgs, Failure, TuneArgs};
use culvert_tuning::doctor::{Readiness, ReadinessState};

use crate::args::GlobalArgs;
use crate::exit::CommandError;
use crate::report::note_answer;

/// Runs `culvert tune`.
///
/// # Errors
/// [`CommandError`].
pub fn tune(global: &GlobalArgs, args: TuneArgs) -> Result<ExitCode, CommandError> {
    with_context(global, false, |context| args.run(context))
}

/// Runs `culvert doctor`.
///
/// # Errors
/// [`CommandError`].
pub fn doctor(global: &GlobalArgs, args: DoctorArgs) -> Result<ExitCode, CommandError> {
    with_context(global, true, |context| args.run(context))
}

fn with_context(
    global: &GlobalArgs,
    probe: bool,
    run: impl FnOnce(&mut CommandContext<'_>) -> Result<u8, Failure>,
) -> Result<ExitCode, CommandError> {
    let state = state(global)?;
    let mut context = CommandContext {
        state_directory: tuning::directory_in(&state),
        // Not /proc/self/exe, because a service uses the path after a restart.
        program: std::env::current_exe()
            .map_err(|error| CommandError::failed(format!("cannot find this program: {error}")))?,
        arguments: vec!["--state".to_owned(), state.display().to_string(), "tune".to_owned()],
        tune: match &global.common.flags.state {
            Some(named) => format!("culvert --state {named} tune"),
            None => "culvert tune".to_owned(),
        },
        out: &mut AnswerTracking(io::stdout()),
        err: &mut io::stderr(),
        versions: if probe { vec![("culvert".to_owned(), crate::completion::version_text())] } else { Vec::new() },
        readiness: if probe { readiness(bind_address(global), &state) } else { Vec::new() },
        has_af_xdp: has_af_xdp(),
        quiet: global.quiet,
    };
    match run(&mut context) {
        Ok(code) => ExitCode::of(code).ok_or_else(|| CommandError::failed(format!("unknown exit code {code}"))),
        Err(Failure { code, text }) => Err(CommandError {
            exit_code: code,
            text: without_numbers(&text),
            code: None,
            transfer: None,
            continues_as: None,
        }),
    }
}

/// Standard output; notes when the command has printed its JSON document.
struct AnswerTracking(io::Stdout);

impl io::Write for AnswerTracking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note_answer();
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The state directory. If it is given on the command line, the configuration file is not read, so
/// that the guard can roll back even if that file is broken.
fn state(global: &GlobalArgs) -> Result<PathBuf, CommandError> {
    let state = match &global.common.flags.state {
        Some(named) => Settings::state_of_flag(named)?,
        None => tuning::state_of_host(&Settings::resolve(&global.flags(&Default::default()))?),
    };
    std::path::absolute(&state).map_err(|error| CommandError::usage(format!("--state {}: {error}", state.display())))
}

/// The address to which lanes would bind. Errors in the configuration are reported by other
/// commands and must not hide the page.
fn bind_address(global: &GlobalArgs) -> IpAddr {
    let flags = Flags { config: global.config.clone(), ..Flags::default() };
    Settings::resolve(&flags).map_or(std::net::Ipv6Addr::UNSPECIFIED.into(), |settings| settings.bind.value)
}

/// Tries to open a socket and a ring as a lane does when it starts, and looks for interrupted
/// transfers.
fn readiness(bind: IpAddr, state: &Path) -> Vec<Readiness> {
    let one = |name: &str, (state, why): (ReadinessState, String)| Readiness { name: name.to_owned(), state, why };
    let mut parts = vec![one("udp", udp(bind)), one("io_uring", io_uring())];
    parts.extend(cut_off_transfers(state).map(|part| one("transfers", part)));
    parts
}

/// The line about interrupted transfers, if there are any.
fn cut_off_transfers(state: &Path) -> Option<(ReadinessState, String)> {
    let cut_off = recently_cut_off(&StateDirectory::at(state.to_owned()));
    let newest = cut_off.iter().max()?;
    let text = format!(
        "{} interrupted in the last 7 days, the newest {newest}: run the same command again to resume",
        counted(cut_off.len(), "transfer")
    );
    Some((ReadinessState::Fallback, text))
}

fn udp(bind: IpAddr) -> (ReadinessState, String) {
    let datapath = match UdpDatapath::open(bind, 0, SOCKET_BUFFER_BYTES) {
        Ok(datapath) => datapath,
        Err(error) => return (ReadinessState::Missing, error.to_string()),
    };
    let (state, offloads) = match (datapath.segments_runs(), datapath.has_gro()) {
        (true, true) => (ReadinessState::Ready, "GSO and GRO work"),
        (true, false) => (ReadinessState::Fallback, "GSO works; no GRO: every datagram is received individually"),
        (false, true) => (ReadinessState::Fallback, "GRO works; no GSO: every datagram is sent individually"),
        (false, false) => (ReadinessState::Fallback, "neither GSO nor GRO: every datagram costs a system call"),
    };
    let buffer = show_bytes(datapath.receive_buffer_bytes() as u64);
    (
        state,
        format!(
            "{offloads}; a lane's socket gets a buffer of {buffer} (it asks for {})",
            show_bytes(SOCKET_BUFFER_BYTES as u64)
        ),
    )
}

fn io_uring() -> (ReadinessState, String) {
    match culvert_dataplane::disk::probe() {
        Ok(()) => (ReadinessState::Ready, "a lane's ring can be created".to_owned()),
        Err(error) => (
            ReadinessState::Missing,
            format!("the data plane does not start: a lane's ring cannot be created ({error})"),
        ),
    }
}

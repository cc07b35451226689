//! `culvert send` and `culvert get`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_engine::clock::unix_ms;
use culvert_model::address::split_host_port;
use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::typed_path::TypedPath;
use culvert_node::node::{Node, carry_out};
use culvert_node::profiles::Profiles;
use culvert_node::registry::new_transfer_id;
use culvert_node::settings::{Ports, Settings};
use culvert_node::state::StateDirectory;
use culvert_plane::dataplane::Origin;
use culvert_protocol::chunk_map::CHUNK_BYTES_DEFAULT;
use culvert_protocol::control::{Options, Overwrite};

use crate::api_client::ApiClient;
use crate::args::{GlobalArgs, REMOTE_PROGRAM_DEFAULT, SSH_DEFAULT, SendArgs, TransferOptions};
use crate::capture::EmbeddedCapture;
use crate::exit::CommandError;
use crate::habits::lacks_colon;
use crate::progress;
use crate::report::{self, Telling};
use crate::ssh::{Ended, FarEnd, SshOptions};
use crate::target::{Place, SshHost, parse};
use crate::verbose::{self, FileTeller};

/// `culvert send`.
///
/// # Errors
/// [`CommandError`].
pub async fn send(global: GlobalArgs, args: SendArgs) -> Result<ExitCode, CommandError> {
    run(global, args, false).await
}

/// `culvert get`.
///
/// # Errors
/// [`CommandError`].
pub async fn get(global: GlobalArgs, args: SendArgs) -> Result<ExitCode, CommandError> {
    run(global, args, true).await
}

/// A transfer as it was typed: the partner's place, and what moves.
#[derive(Debug)]
pub struct Typed {
    /// Where the partner is; its path is the first or only one.
    pub partner: Place,
    /// What moves.
    pub movement: Movement,
}

/// How a path on a partner is written.
const PARTNERS_PATHS: &str = "NAME:PATH, USER@HOST:PATH, ssh://USER@HOST:PORT/PATH or culvert://HOST:PORT/PATH";

/// Reads the paths of a transfer: all sources on one side, the destination on the other.
///
/// # Errors
/// [`CommandError`] that says which path is on the wrong side.
pub fn read_paths(paths: &[OsString], is_get: bool) -> Result<Typed, CommandError> {
    let places = paths.iter().map(|path| parse(path)).collect::<Result<Vec<_>, _>>()?;
    let ([_, .., destination], [sources @ .., _]) = (places.as_slice(), places.as_slice()) else {
        return Err(CommandError::usage("two paths are needed: a source, and the destination as the last one"));
    };
    let is_local = |place: &Place| matches!(place, Place::Local(_));
    if is_get {
        if !is_local(destination) {
            return Err(CommandError::usage("'culvert get' stores on this host: the last path must be a local one"));
        }
        let partner = sources.first().cloned().filter(|place| !is_local(place));
        let Some(partner) = partner else {
            if let Some(source) = sources.first().filter(|source| lacks_colon(source.path().as_path())) {
                return Err(without_colon(source.path()));
            }
            return Err(CommandError::usage(format!(
                "'culvert get' fetches from a partner: write its paths as {PARTNERS_PATHS}"
            )));
        };
        if sources.iter().any(|place| place.partner() != partner.partner()) {
            return Err(CommandError::usage("all sources must be on the same partner"));
        }
        let sources = sources.iter().map(|place| place.path().clone()).collect();
        let movement = Movement::Pull { sources, destination: absolute(destination.path())? };
        return Ok(Typed { partner, movement });
    }
    if let Some(place) = sources.iter().find(|place| !is_local(place)) {
        return Err(CommandError::usage(format!(
            "'culvert send' sends from this host, but the source {} is on a partner; to fetch it, use 'culvert get'",
            place.path()
        )));
    }
    if is_local(destination) {
        if lacks_colon(destination.path().as_path()) {
            return Err(without_colon(destination.path()));
        }
        return Err(CommandError::usage(format!(
            "the destination {} is on this host: write a partner's path as {PARTNERS_PATHS}; for copies on this host use cp",
            destination.path()
        )));
    }
    let sources = sources.iter().map(|place| absolute(place.path())).collect::<Result<_, _>>()?;
    let movement = Movement::Push { sources, destination: destination.path().clone() };
    Ok(Typed { partner: destination.clone(), movement })
}

/// What names a host and has no colon is a path of this host, and seldom meant as one.
fn without_colon(path: &TypedPath) -> CommandError {
    CommandError::usage(format!(
        "{path} has no colon, so it is a path on this host: write {path}: for the home directory there, or {path}:PATH"
    ))
}

/// A local path, absolute, with its slash at the end if it had one.
fn absolute(path: &TypedPath) -> Result<TypedPath, CommandError> {
    use std::os::unix::ffi::OsStringExt as _;
    let joined = std::env::current_dir()
        .map_err(|error| CommandError::failed(format!("cannot determine the current directory: {error}")))?
        .join(path.as_path());
    let mut bytes = joined.into_os_string().into_vec();
    if path.0.ends_with(b"/") && !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    Ok(TypedPath(bytes))
}

/// The options of a transfer.
///
/// # Errors
/// [`CommandError`]: a mode without its rate.
pub fn options_of(options: &TransferOptions) -> Result<Options, CommandError> {
    use culvert_protocol::rate_control::Mode;
    if options.mode == Mode::Fixed && options.rate.is_none() {
        return Err(CommandError::usage("--mode fixed needs --rate: it sends at exactly that rate"));
    }
    if options.overwrite == Overwrite::Content && options.checksum == "none" {
        return Err(CommandError::usage(
            "--overwrite content compares hashes, so it cannot be used with --checksum none",
        ));
    }
    Ok(Options {
        chunk_bytes: CHUNK_BYTES_DEFAULT,
        checksum: options.checksum == "blake3",
        cipher: options.cipher,
        overwrite: options.overwrite,
        preserve: options.preserve,
        flows: options.flows.unwrap_or(0),
        mode: options.mode,
        rate_bits_per_second: options.rate,
        dry_run: options.dry_run,
    })
}

async fn run(global: GlobalArgs, args: SendArgs, is_get: bool) -> Result<ExitCode, CommandError> {
    let mut typed = read_paths(&args.paths, is_get)?;
    let options = options_of(&args.options)?;
    verbose::set(args.verbose && !global.quiet);
    let settings = Settings::resolve(&global.flags(&args.engine))?;
    let state = StateDirectory::open(&settings.state.value)?;
    typed.partner = typed.partner.or_over_ssh(|name| has_profile(&state, name));
    refuse_ssh_options(&args, &typed.partner)?;
    // A node that runs with this state carries the transfer out, unless ssh must be asked by this
    // user on this terminal. A dry run needs none of its lanes.
    let telling = Telling {
        json: args.json,
        quiet: global.quiet,
        verbose: args.verbose,
        error_on_no_transfer: args.error_on_no_transfer,
    };
    if !matches!(typed.partner, Place::Ssh { .. })
        && !options.dry_run
        && let Some(api) = ApiClient::connect(&state).await?
    {
        if let Some(given) = args.engine.given() {
            return Err(CommandError::usage(format!(
                "a node is running with {} and runs this transfer on its own data plane, for which \
                 a command cannot set {given}: leave it out, set it where the node is started, or \
                 name another state directory with --state",
                state.root().display()
            )));
        }
        if args.capture.is_some() {
            return Err(CommandError::usage(
                "a node is running with this state directory and runs the transfer: leave --capture \
                 out, and run 'culvert capture FILE' at the same time",
            ));
        }
        let target = target_of(&typed.partner);
        let request = TransferRequest { target, movement: typed.movement, options, retries: Some(args.retries) };
        return crate::transfer::submit_and_follow(&api, &request, telling, &state).await;
    }
    let mut settings = settings;
    if options.dry_run {
        // A node may have the others.
        settings.ports.value = Ports::Any;
    }
    let partner = if settings.seeks_interface() { address_of(&typed.partner, &state).await } else { None };
    let node = embedded(&settings, &state, partner)?;
    let capture = match &args.capture {
        Some(file) => Some(EmbeddedCapture::begin(&node, file).await?),
        None => None,
    };
    let request =
        |target| TransferRequest { target, movement: typed.movement.clone(), options, retries: Some(args.retries) };
    let outcome = match &typed.partner {
        Place::Ssh { host, .. } => over_ssh(&node, host, &args, global.quiet, request).await,
        place => carry_out_here(&node, request(target_of(place)), global.quiet).await,
    };
    if let Some(capture) = capture {
        capture.end(global.quiet).await;
    }
    report::print(&outcome?, telling, &state)
}

/// Refuses options of a far end where there is none.
fn refuse_ssh_options(args: &SendArgs, partner: &Place) -> Result<(), CommandError> {
    let given = [
        ("--ssh", args.ssh != SSH_DEFAULT),
        ("--remote-program", args.remote_program != REMOTE_PROGRAM_DEFAULT),
        ("--remote-ports", args.remote_ports.is_some()),
        ("--remote-cores", args.remote_cores.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) if !matches!(partner, Place::Ssh { .. }) => Err(CommandError::usage(format!(
            "{option} is for far ends started over ssh, but this partner has its own node: leave it out"
        ))),
        _ => Ok(()),
    }
}

/// Whether a profile has this name. One that cannot be read has it, too: what is wrong with it is
/// said when it is used.
#[must_use]
pub fn has_profile(state: &StateDirectory, name: &str) -> bool {
    !matches!(Profiles::new(state.clone()).find(name), Ok(None))
}

/// Runs a request with a far end started over ssh. A far end that has died is restarted, as often
/// as the transfer may be retried: nothing else listens on its port.
async fn over_ssh(
    node: &Arc<Node>,
    host: &SshHost,
    args: &SendArgs,
    quiet: bool,
    request: impl Fn(Target) -> TransferRequest,
) -> Result<culvert_model::result::TransferResult, CommandError> {
    let ssh = SshOptions {
        command: args.ssh.clone(),
        program: args.remote_program.clone(),
        ports: args.remote_ports.clone(),
        cores: args.remote_cores.clone(),
    };
    let mut restarts_left = args.retries;
    loop {
        let mut far_end = start_far_end(node, host, &ssh, quiet).await?;
        let outcome = carry_out_here(node, request(far_end.target()), quiet).await;
        let ended = match &outcome {
            Ok(_) => None,
            Err(error) => far_end.ended(error).await,
        };
        far_end.end().await;
        match (outcome, ended) {
            (Err(_), Some(Ended::WithReason(code))) => {
                let text = format!("the far end on {host} failed (status {}); its message is above", code as u8);
                return Err(CommandError::told(code, text));
            }
            // What was refused is not to be tried again, whatever became of the far end.
            (Err(error), Some(_)) if restarts_left == 0 && error.exit_code == ExitCode::Failed as u8 => {
                let text = format!("the far end on {host} ended unexpectedly: {error}");
                return Err(CommandError::new(ExitCode::Temporary, text));
            }
            (outcome, ended) if ended.is_none() || restarts_left == 0 => return outcome,
            _ => {}
        }
        restarts_left -= 1;
        say_aside!("culvert: the far end on {host} ended unexpectedly and is being restarted");
    }
}

/// Starts the far end, and this host's data plane during the login; if that fails to start, the
/// reason is reported when it is used. Interrupts end ssh, which may be waiting for a password.
async fn start_far_end(
    node: &Arc<Node>,
    host: &SshHost,
    ssh: &SshOptions,
    quiet: bool,
) -> Result<FarEnd, CommandError> {
    /// Longer than logins take that ask for nothing.
    const SILENCE: Duration = Duration::from_secs(10);
    let starting = FarEnd::start(host, ssh, node.engine.identity.public_key());
    let mut both = std::pin::pin!(async { tokio::join!(starting, node.engine.supervisor.get()).0 });
    let mut interrupted = std::pin::pin!(crate::node::interrupted());
    let mut silence = std::pin::pin!(tokio::time::sleep(SILENCE));
    let mut is_told = quiet;
    loop {
        tokio::select! {
            far_end = &mut both => return far_end,
            code = &mut interrupted => {
                return Err(CommandError::new(code, format!("interrupted while ssh was connecting to \
                    {host}; nothing was transferred")));
            }
            () = &mut silence, if !is_told => {
                is_told = true;
                say_aside!("culvert: ssh has not connected to {host} or logged in there for {} s; \
                    press Ctrl-C to give up", SILENCE.as_secs());
            }
        }
    }
}

/// A partner's location as a target. Far ends are made from what ssh reports.
#[must_use]
pub fn target_of(place: &Place) -> Target {
    match place {
        Place::Address { host, port, .. } => Target::Address { host: host.clone(), port: *port },
        Place::Profile { name, .. } => Target::Profile(name.clone()),
        Place::Local(_) | Place::Ssh { .. } => Target::Profile(place.partner().unwrap_or_default()),
    }
}

/// A partner's first address, if it can be told before the partner is called.
async fn address_of(place: &Place, state: &StateDirectory) -> Option<IpAddr> {
    let profile;
    let host = match place {
        Place::Address { host, .. } => host,
        Place::Ssh { host, .. } => host.host(),
        Place::Profile { name, .. } => {
            profile = Profiles::new(state.clone()).get(name).ok()?;
            split_host_port(profile.addresses.first()?)?.0
        }
        Place::Local(_) => return None,
    };
    tokio::net::lookup_host((host, 0)).await.ok()?.next().map(|address| address.ip())
}

/// A node for the length of this command. `partner` is the one that it has to do with, as far as it
/// is known.
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

/// This program, for starting the data plane: by what runs, not by a name that an update may have
/// replaced.
#[must_use]
pub fn program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Carries a request out in this process, showing progress; interrupts cancel it.
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
    let teller = FileTeller::begin(if is_get { "stored" } else { "sent" });
    live.names = teller.as_ref().map(FileTeller::names);
    let shown = live.progress.subscribe();
    let canceler = node.clone();
    let interrupts = tokio::spawn(async move {
        let code = crate::node::interrupted().await;
        canceler.registry.cancel(id).await;
        code
    });
    let outcome =
        progress::show(quiet, shown.clone(), verbose::beside(shown, carry_out(node, id, &request, live))).await;
    drop(teller);
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

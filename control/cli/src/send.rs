//! `culvert send` and `culvert get`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_model::address::split_host_port;
use culvert_model::exit_code::ExitCode;
use culvert_model::request::{Target, TransferRequest};
use culvert_node::node::Node;
use culvert_node::profiles::Profiles;
use culvert_node::settings::{Ports, Settings};
use culvert_state::StateDirectory;

use crate::api_client::ApiClient;
use crate::args::{GlobalArgs, REMOTE_PROGRAM_DEFAULT, SSH_DEFAULT, SendArgs};
use crate::capture::EmbeddedCapture;
use crate::embedded_node::{carry_out_here, embedded};
use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::location::{Location, SshHost};
use crate::operands::{has_profile, options_of, parse_operands, target_of};
use crate::report::{self, ReportOptions};
use crate::ssh::{Ended, FarEnd, SshOptions};
use crate::verbose;

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

async fn run(global: GlobalArgs, args: SendArgs, is_get: bool) -> Result<ExitCode, CommandError> {
    let mut parsed = parse_operands(&args.paths, is_get)?;
    let options = options_of(&args.options)?;
    verbose::set(args.verbose && !global.quiet);
    let settings = Settings::resolve(&global.flags(&args.engine))?;
    let state = StateDirectory::open(&settings.state.value)?;
    parsed.partner = parsed.partner.or_over_ssh(|name| has_profile(&state, name));
    refuse_ssh_options(&args, &parsed.partner)?;
    let report_options = ReportOptions {
        json: args.json,
        quiet: global.quiet,
        verbose: args.verbose,
        error_on_no_transfer: args.error_on_no_transfer,
    };
    // A node that runs with this state directory runs the transfer, except over ssh, which may ask
    // for a password on this terminal, and for dry runs, which need no lanes.
    if !matches!(parsed.partner, Location::Ssh { .. })
        && !options.dry_run
        && let Some(api) = ApiClient::connect(&state).await?
    {
        refuse_lane_options(&args, &state)?;
        let target = target_of(&parsed.partner);
        let request = TransferRequest { target, movement: parsed.movement, options, retries: Some(args.retries) };
        return crate::transfer::submit_and_follow(&api, &request, report_options, &state).await;
    }
    let mut settings = settings;
    if options.dry_run {
        // A running node may use the configured ports.
        settings.ports.value = Ports::Any;
    }
    let partner = if settings.seeks_interface() { address_of(&parsed.partner, &state).await } else { None };
    let node = embedded(&settings, &state, partner)?;
    let capture = match &args.capture {
        Some(file) => Some(EmbeddedCapture::start(&node, file).await?),
        None => None,
    };
    let request =
        |target| TransferRequest { target, movement: parsed.movement.clone(), options, retries: Some(args.retries) };
    let outcome = match &parsed.partner {
        Location::Ssh { host, .. } => over_ssh(&node, host, &args, global.quiet, request).await,
        location => carry_out_here(&node, request(target_of(location)), global.quiet).await,
    };
    let captured = match capture {
        Some(capture) => capture.end(global.quiet).await,
        None => Ok(()),
    };
    let result = match (outcome, &captured) {
        (Err(error), Err(unwritten)) => {
            say_aside!("culvert: {unwritten}");
            return Err(error);
        }
        (outcome, _) => outcome?,
    };
    let code = report::print(&result, report_options, &state)?;
    // What was moved is moved; its own failure is the more important one.
    match captured {
        Err(unwritten) if code != ExitCode::Done => {
            say_aside!("culvert: {unwritten}");
            Ok(code)
        }
        captured => captured.map(|()| code).map_err(|error| error.of_transfer(&result.transfer)),
    }
}

/// Refuses options about lanes if a running node runs the transfer with its own.
fn refuse_lane_options(args: &SendArgs, state: &StateDirectory) -> Result<(), CommandError> {
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
    Ok(())
}

/// Refuses options for a far end if there is none.
fn refuse_ssh_options(args: &SendArgs, partner: &Location) -> Result<(), CommandError> {
    let given = [
        ("--ssh", args.ssh != SSH_DEFAULT),
        ("--remote-program", args.remote_program != REMOTE_PROGRAM_DEFAULT),
        ("--remote-ports", args.remote_ports.is_some()),
        ("--remote-cores", args.remote_cores.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) if !matches!(partner, Location::Ssh { .. }) => Err(CommandError::usage(format!(
            "{option} is for far ends started over ssh, but this partner has its own node: leave it out"
        ))),
        _ => Ok(()),
    }
}

/// Runs a request with a far end started over ssh. A far end that has died is restarted, as often
/// as the transfer may be retried.
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
                return Err(CommandError::from_other_process(code, text));
            }
            // Not after a refusal, which would be repeated.
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

/// Starts the far end and, during the login, this host's data plane. If the data plane fails to
/// start, the reason is reported when it is used. Interrupts end ssh, which may be waiting for a
/// password.
async fn start_far_end(
    node: &Arc<Node>,
    host: &SshHost,
    ssh: &SshOptions,
    quiet: bool,
) -> Result<FarEnd, CommandError> {
    /// Longer than a login without a prompt takes.
    const NOTICE_AFTER: Duration = Duration::from_secs(10);
    let starting = FarEnd::start(host, ssh, node.engine.identity.public_key());
    let mut both = std::pin::pin!(async { tokio::join!(starting, node.engine.supervisor.get()).0 });
    let mut interrupted = std::pin::pin!(interrupted());
    let mut notice = std::pin::pin!(tokio::time::sleep(NOTICE_AFTER));
    let mut is_noticed = quiet;
    loop {
        tokio::select! {
            far_end = &mut both => return far_end,
            code = &mut interrupted => {
                return Err(CommandError::new(code, format!("interrupted while ssh was connecting to \
                    {host}; nothing was transferred")));
            }
            () = &mut notice, if !is_noticed => {
                is_noticed = true;
                say_aside!("culvert: ssh has not connected to {host} or logged in there for {} s; \
                    press Ctrl-C to give up", NOTICE_AFTER.as_secs());
            }
        }
    }
}

/// A partner's first IP address, if it resolves.
async fn address_of(location: &Location, state: &StateDirectory) -> Option<IpAddr> {
    let profile;
    let host = match location {
        Location::Address { host, .. } => host,
        Location::Ssh { host, .. } => host.host(),
        Location::Profile { name, .. } => {
            profile = Profiles::new(state.clone()).get(name).ok()?;
            split_host_port(profile.addresses.first()?)?.0
        }
        Location::Local(_) => return None,
    };
    tokio::net::lookup_host((host, 0)).await.ok()?.next().map(|address| address.ip())
}

//! `culvert far-end`: what ssh starts on the other host.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};

use culvert_model::exit_code::ExitCode;
use culvert_node::admission::Admission;
use culvert_node::reception::{SpareDescriptor, listen};
use culvert_node::settings::{Origin, Ports, Settings, SettingsError};
use culvert_objects::fs::reach::Reach;
use culvert_plane::DataPlaneError;
use culvert_plane::ports::show_ports;
use culvert_protocol::identity::PublicKey;
use culvert_state::StateDirectory;
use culvert_system::descriptors::host_name;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::args::{FarEndArgs, GlobalArgs};
use crate::embedded_node::embedded;
use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::report;
use crate::ssh::{FAR_END_VERSION, FarEndAnswer, FarEndRequest};

/// What names the far end's ports where the transfer is started.
const PORTS_OPTION: &str = "--remote-ports";

/// Serves one key until standard input ends.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: FarEndArgs) -> Result<ExitCode, CommandError> {
    let mut engine = args.engine.clone();
    engine.ports = engine.ports.or_else(|| args.far_ports.clone());
    let settings = Settings::resolve(&global.flags(&engine)).map_err(as_typed)?;
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    let read = input.read_line(&mut line).await;
    let request: Option<FarEndRequest> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(request) = request.filter(|request| request.culvert_far_end == FAR_END_VERSION) else {
        return Err(CommandError::usage("'culvert far-end' is started by 'culvert send' and 'culvert get' over ssh"));
    };
    let state = state_beside(StateDirectory::open(&settings.state.value)?, request.key)?;
    // Before anything is made that has to be ended in order.
    settings.engine(false, None).map_err(as_typed)?;
    let node = embedded(&settings, &state, None)?;
    let listener = match &settings.ports.value {
        Ports::These(ports) => bind_first_free(ports).await?,
        Ports::Automatic | Ports::Any => bind(0).await.map_err(|error| cannot_listen(0, &error))?,
    };
    let spare = SpareDescriptor::take().map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let home = std::env::home_dir().unwrap_or_else(|| "/".into());
    let answer = FarEndAnswer {
        culvert_far_end: FAR_END_VERSION,
        key: node.engine.identity.public_key(),
        port: listener.local_addr().map_err(CommandError::failed)?.port(),
        // "client-address client-port server-address server-port" (sshd(8))
        address: std::env::var("SSH_CONNECTION").ok().and_then(|told| told.split(' ').nth(2).map(str::to_owned)),
    };
    report::print_json_line(&answer)?;
    let admission = Admission::Owner { key: request.key, reach: Reach::Owner { directory: home } };
    let listening = tokio::spawn(listen(node.clone(), listener, spare, admission));
    // Beside the partner's call. What is wrong with this host ends this process before anything is
    // asked of it.
    node.engine.supervisor.get().await.map_err(|error| match error {
        DataPlaneError::PortsInUse(ports) if args.far_ports.is_some() => {
            DataPlaneError::PortsInUse(ports.named_with(PORTS_OPTION))
        }
        error => error,
    })?;
    let mut rest = [0; 256];
    let ended = async { while input.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    // Of a host that is shut down, or a login session that ends.
    let code = tokio::select! {
        () = ended => ExitCode::Done,
        code = interrupted() => code,
    };
    listening.abort();
    // A transfer that is still running is interrupted: its requester is gone, and it resumes from
    // its journal. What it has opened is closed.
    for id in node.registry.under_way() {
        node.registry.cancel(id).await;
    }
    node.registry.settle().await;
    Ok(code)
}

/// A value that this end was given, by the option that it was given with where the transfer is
/// started.
fn as_typed(error: SettingsError) -> SettingsError {
    match error {
        SettingsError::Value { name: "cores", origin: Origin::Flag, reason } => {
            SettingsError::Value { name: "remote_cores", origin: Origin::Flag, reason }
        }
        SettingsError::Value { name: "ports", origin: Origin::Flag, reason } => {
            SettingsError::Value { name: "remote_ports", origin: Origin::Flag, reason }
        }
        error => error,
    }
}

/// The state directory of the far end: the account's, or one below it if that is the state
/// directory of the command that has started this too. So it is with `localhost:`, and with homes
/// that hosts share. Each end keeps a record of the transfer, under one id.
fn state_beside(state: StateDirectory, asking: PublicKey) -> Result<StateDirectory, CommandError> {
    /// It has the contents of a state directory: interrupted transfers resume from its journals.
    const BELOW: &str = "far-end";
    if state.identity()?.public_key() != asking {
        return Ok(state);
    }
    Ok(StateDirectory::open(state.path(BELOW))?)
}

/// Listens on the first of these TCP ports that is free.
async fn bind_first_free(ports: &[u16]) -> Result<TcpListener, CommandError> {
    for &port in ports {
        match bind(port).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound.map_err(|error| cannot_listen(port, &error)),
        }
    }
    let text = format!(
        "no TCP port of {} on {} is free: stop one of the programs that use them ('ss -tlpn' there \
         lists them), or choose other ports with {PORTS_OPTION}",
        show_ports(ports),
        host_name()
    );
    Err(CommandError::new(ExitCode::Temporary, text))
}

fn cannot_listen(port: u16, error: &std::io::Error) -> CommandError {
    CommandError::new(ExitCode::BadHost, format!("cannot listen on TCP port {port}: {error}"))
}

async fn bind(port: u16) -> std::io::Result<TcpListener> {
    let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match TcpListener::bind(address).await {
        Err(error) if port == 0 || error.kind() != ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", port)).await,
        bound => bound,
    }
}

//! `culvert far-end`: the node that ssh starts on the other host.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};

use culvert_model::exit_code::ExitCode;
use culvert_node::admission::Admission;
use culvert_node::listener::{SpareDescriptor, listen};
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
use crate::ssh::greeting::{FAR_END_VERSION, FarEndAnswer, FarEndRequest};

/// The option that sets the far end's ports on the host where the transfer is started.
const PORTS_OPTION: &str = "--remote-ports";

/// Serves one key until standard input is closed.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: FarEndArgs) -> Result<ExitCode, CommandError> {
    let mut engine = args.engine.clone();
    engine.flags.ports = engine.flags.ports.or_else(|| args.far_ports.clone());
    let settings = Settings::resolve(&global.flags(&engine)).map_err(with_remote_option)?;
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    let read = input.read_line(&mut line).await;
    let request: Option<FarEndRequest> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(request) = request.filter(|request| request.culvert_far_end == FAR_END_VERSION) else {
        return Err(CommandError::usage("'culvert far-end' is started by 'culvert send' and 'culvert get' over ssh"));
    };
    let state = separate_state(StateDirectory::open(&settings.state.value)?, request.key)?;
    // Checked before anything is created that needs an orderly end.
    settings.engine(false, None).map_err(with_remote_option)?;
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
    // The data plane starts while the partner connects. If this host cannot run it, this process
    // exits before the partner sends a request.
    node.engine.supervisor.get().await.map_err(|error| match error {
        DataPlaneError::PortsInUse(ports) if args.far_ports.is_some() => {
            DataPlaneError::PortsInUse(ports.named_with(PORTS_OPTION))
        }
        error => error,
    })?;
    let mut rest = [0; 256];
    let ended = async { while input.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    // Signals arrive when the host shuts down or the login session ends.
    let code = tokio::select! {
        () = ended => ExitCode::Done,
        code = interrupted() => code,
    };
    listening.abort();
    // The requester of a running transfer is gone. Canceling closes what the transfer has open; it
    // resumes from its journal.
    for id in node.registry.under_way() {
        node.registry.cancel(id).await;
    }
    node.registry.settle().await;
    Ok(code)
}

/// Names the option that set the value on the host where the transfer was started.
fn with_remote_option(error: SettingsError) -> SettingsError {
    match error {
        SettingsError::Value { name, origin: Origin::Flag("--cores"), reason } => {
            SettingsError::Value { name, origin: Origin::Flag("--remote-cores"), reason }
        }
        SettingsError::Value { name, origin: Origin::Flag("--ports"), reason } => {
            SettingsError::Value { name, origin: Origin::Flag(PORTS_OPTION), reason }
        }
        error => error,
    }
}

/// The state directory of the far end: the account's, or a subdirectory of it if the command that
/// started the transfer uses the account's too, as with `localhost:` and with shared home
/// directories. Each end records the transfer under the same id.
fn separate_state(state: StateDirectory, requester: PublicKey) -> Result<StateDirectory, CommandError> {
    /// A state directory in its own right: interrupted transfers resume from its journals.
    const SUBDIRECTORY: &str = "far-end";
    if state.identity()?.public_key() != requester {
        return Ok(state);
    }
    Ok(StateDirectory::open(state.path(SUBDIRECTORY))?)
}

/// Listens on the first free one of these TCP ports.
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

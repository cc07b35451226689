//! `culvert node`.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_node::admission::Admission;
use culvert_node::api::Api;
use culvert_node::node::Node;
use culvert_node::reception::{SpareDescriptor, listen};
use culvert_node::settings::{Flags, Settings};
use culvert_node::{log_lines, tuning};
use culvert_plane::{DataPlaneError, Origin};
use culvert_protocol::counted::noun;
use culvert_state::StateDirectory;
use culvert_system::file_lock::{self, FileLock, LockError};
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::args::{GlobalArgs, NodeArgs};
use crate::embedded_node::program;
use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::running_node::{LOCK, RunningNode};

/// How often it is tried, and with which pauses.
const LOCK_TRIES: u32 = 10;
/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long transfers may take to end when the node does; what hangs on a disk is cut off.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Runs the node until it is asked to stop.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: NodeArgs) -> Result<ExitCode, CommandError> {
    let flags = Flags {
        listen: args.listen,
        metrics: args.metrics,
        name: args.name,
        dataplane_socket: args.dataplane_socket,
        ..global.flags(&args.engine)
    };
    let settings = Settings::resolve(&flags)?;
    let state = StateDirectory::open(&settings.state.value)?;
    let _lock = lock(&state)?;
    log_lines::stamp_lines();
    let dataplane = match &settings.dataplane_socket.value {
        Some(path) => Origin::Socket(path.clone()),
        None => Origin::Child(program()),
    };
    let node = Node::new(
        state.clone(),
        settings.name.value.clone(),
        dataplane,
        settings.engine(true, None)?,
        settings.transfer_bounds(),
    )?;
    let listener = bind(settings.listen.value, "the control connection", "--listen").await?;
    let spare = SpareDescriptor::take().map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let port = listener.local_addr().map_err(CommandError::failed)?.port();
    node.path.configure(settings.paths.clone(), port);
    culvert_node::path_services::start(&node).await.map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let metrics = match settings.metrics.value {
        Some(address) => Some(bind(address, "metrics", "--metrics").await?),
        None => None,
    };
    // Nothing else would report why a partner is refused.
    for error in node.profiles.list().map_or_else(|error| vec![error], |(_, errors)| errors) {
        say_aside!("culvert: {error}");
    }
    let plane = node.engine.supervisor.get().await.map_err(|error| match error {
        // Partners' firewalls know a node's ports: there are no others to take, and waiting for
        // them frees none.
        DataPlaneError::PortsInUse(ports) => CommandError::new(ExitCode::BadHost, ports.of_first()),
        error => error.into(),
    })?;
    let running = RunningNode {
        process_id: std::process::id(),
        port,
        metrics_port: metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()).map(|address| address.port()),
    };
    culvert_system::log_limit::set_quiet(global.quiet);
    if !global.quiet {
        greet(&node, &settings, &running, &plane);
    }
    drop(plane);
    let api = Api::new(node.clone(), Some(port));
    let socket = api.listen()?;
    api.resume_interrupted();
    let serving = tokio::spawn(api.clone().serve(socket));
    if let Some(metrics) = metrics {
        tokio::spawn(api.serve_metrics(metrics));
    }
    tokio::spawn(culvert_node::partner_hosts::keep_known(node.connection_limiter.clone(), node.profiles.clone()));
    tokio::spawn(log_lines::tell_what_was_left_out());
    let listening = tokio::spawn(listen(node.clone(), listener, spare, Admission::Profiles));
    tokio::spawn(tuning::keep(tuning::directory_in(&tuning::state_of_host(&settings))));
    tokio::spawn(tuning::count_findings(node.metrics.clone()));
    tokio::spawn(keep_data_plane(node.clone()));
    let json = serde_json::to_vec(&running).map_err(CommandError::failed)?;
    state.write("node.json", &json)?;
    let code = tokio::select! {
        code = interrupted() => code,
        served = serving => {
            let reason = served.map_or_else(|error| error.to_string(), |()| String::new());
            return Err(CommandError::failed(format!("the API cannot be served: {reason}")));
        }
    };
    // Those that this node's user asked for stay noted as under way, and go on when the node is
    // started again; partners hear why theirs end.
    listening.abort();
    node.registry.stop_all(STOP_PATIENCE).await;
    node.registry.settle().await;
    for name in ["node.json", "api.sock"] {
        let _ = state.remove(name);
    }
    if !global.quiet {
        say_aside!("culvert: stopped");
    }
    Ok(if code == ExitCode::Terminated { ExitCode::Done } else { code })
}

fn greet(node: &Node, settings: &Settings, running: &RunningNode, plane: &culvert_plane::DataPlane) {
    let ports: Vec<String> = plane.lanes().iter().map(|lane| lane.port.to_string()).collect();
    say_aside!("culvert: node '{}', key {}", node.engine.name, node.engine.identity.public_key().fingerprint());
    say_aside!(
        "culvert: listening on TCP port {}, UDP {} {}",
        running.port,
        noun(ports.len(), "port"),
        ports.join(", ")
    );
    if let (Some(port), Some(address)) = (running.metrics_port, settings.metrics.value) {
        say_aside!("culvert: metrics at http://{}:{port}/metrics", address.ip());
    }
    for refusal in plane.refusals() {
        say_aside!("culvert: {refusal}");
    }
    for gap in plane.sandbox_gaps() {
        say_aside!("culvert: the data plane runs without a part of its sandbox: {gap}");
    }
}

/// Starts the data plane again when it has died, so that partners do not wait for the first
/// request.
async fn keep_data_plane(node: Arc<Node>) {
    loop {
        match node.engine.supervisor.get().await {
            Ok(plane) => {
                let how = plane.died().await;
                say_aside!("culvert: the data plane ended ({how}) and is being restarted");
            }
            Err(error) => say_aside!("culvert: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// Keeps a second node off the same state.
fn lock(state: &StateDirectory) -> Result<(File, FileLock), CommandError> {
    let file = state.open_lock(LOCK)?;
    let mut lock = file_lock::lock(&file);
    for _ in 0..LOCK_TRIES {
        if !matches!(lock, Err(LockError::Held)) {
            break;
        }
        // A command may only have looked whether it is held.
        std::thread::sleep(LOCK_PAUSE);
        lock = file_lock::lock(&file);
    }
    let lock = lock.map_err(|error| match error {
        LockError::Held => CommandError::failed(format!(
            "a node is already running with the state directory {}",
            state.root().display()
        )),
        error @ LockError::Os(_) => {
            CommandError::new(ExitCode::BadHost, format!("cannot lock {}: {error}", state.path(LOCK).display()))
        }
    })?;
    Ok((file, lock))
}

async fn bind(address: std::net::SocketAddr, what: &str, option: &str) -> Result<TcpListener, CommandError> {
    let bound = match TcpListener::bind(address).await {
        // A host without IPv6.
        Err(error)
            if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind(("0.0.0.0", address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("stop the program that holds the port (ss -tlpn shows it), or choose another with {option}")
            }
            _ => format!("choose another address with {option}"),
        };
        let why = os_error::words_or_hint(&error, &hint);
        CommandError::new(ExitCode::BadHost, format!("cannot listen for {what} on {address}: {why}"))
    })
}

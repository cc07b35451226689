//! `culvert node`.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_node::admission::Admission;
use culvert_node::api::Api;
use culvert_node::listener::{SpareDescriptor, listen};
use culvert_node::node::Node;
use culvert_node::settings::Settings;
use culvert_node::{log_lines, tuning};
use culvert_plane::{DataPlaneError, Origin};
use culvert_protocol::counted::noun;
use culvert_state::StateDirectory;
use culvert_system::file_lock::{self, FileLock, LockError};
use culvert_system::os_error;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::args::{GlobalArgs, NodeArgs};
use crate::embedded_node::program;
use crate::exit::CommandError;
use crate::interruption::interrupted;
use crate::running_node::{LOCK, RunningNode};

/// How often to try to take the node's lock.
const LOCK_TRIES: u32 = 10;
/// The pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long transfers may take to stop when the node does. Those that hang on a disk are cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the node until it is asked to stop.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: NodeArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&args.settings.flags.or(global.flags(&args.engine)))?;
    let state = StateDirectory::open(&settings.state.value)?;
    let _lock = lock(&state)?;
    log_lines::stamp_lines();
    let node = create_node(&settings, &state)?;
    let listener = bind(settings.listen.value, "the control connection", "--listen").await?;
    let spare = SpareDescriptor::take().map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let port = listener.local_addr().map_err(CommandError::failed)?.port();
    node.path.configure(settings.paths.clone(), port);
    culvert_node::path_services::start(&node).await.map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let metrics = match settings.metrics.value {
        Some(address) => Some(bind(address, "metrics", "--metrics").await?),
        None => None,
    };
    // Partners with an unreadable profile are refused, and nothing else reports why.
    for error in node.profiles.list().map_or_else(|error| vec![error], |(_, errors)| errors) {
        say_aside!("culvert: {error}");
    }
    let running = RunningNode {
        process_id: std::process::id(),
        port,
        metrics_port: metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()).map(|address| address.port()),
    };
    start_data_plane(&node, &settings, &running, global.quiet).await?;
    let api = Api::new(node.clone(), Some(port));
    let socket = api.listen()?;
    api.resume_interrupted();
    let serving = tokio::spawn(api.clone().serve(socket));
    if let Some(metrics) = metrics {
        tokio::spawn(api.serve_metrics(metrics));
    }
    // Before connections are accepted: until the limiter knows partners' hosts, they are strangers.
    spawn_upkeep(&node, &settings);
    let listening = tokio::spawn(listen(node.clone(), listener, spare, Admission::Profiles));
    let json = serde_json::to_vec(&running).map_err(CommandError::failed)?;
    state.write("node.json", &json)?;
    let code = tokio::select! {
        code = interrupted() => code,
        () = stdin_closed(), if args.end_with_stdin => ExitCode::Done,
        served = serving => {
            let reason = served.map_or_else(|error| error.to_string(), |()| String::new());
            return Err(CommandError::failed(format!("the API cannot be served: {reason}")));
        }
    };
    listening.abort();
    stop(&node, &state, global.quiet).await;
    Ok(if code == ExitCode::Terminated { ExitCode::Done } else { code })
}

/// Waits until standard input is closed. Its other end is held by the command that started this
/// node, and the kernel closes it however that command ends.
async fn stdin_closed() {
    let (mut input, mut ignored) = (tokio::io::stdin(), [0; 64]);
    while input.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
}

fn create_node(settings: &Settings, state: &StateDirectory) -> Result<Arc<Node>, CommandError> {
    let dataplane = match &settings.dataplane_socket.value {
        Some(path) => Origin::Socket(path.clone()),
        None => Origin::Child(program()),
    };
    let (name, engine) = (settings.name.value.clone(), settings.engine(true, None)?);
    Ok(Node::new(state.clone(), name, dataplane, engine, settings.transfer_bounds())?)
}

/// Starts the data plane before partners connect, and prints what runs.
async fn start_data_plane(
    node: &Node,
    settings: &Settings,
    running: &RunningNode,
    quiet: bool,
) -> Result<(), CommandError> {
    let plane = node.engine.supervisor.get().await.map_err(|error| match error {
        // A node's ports are configured in partners' firewalls, so it cannot choose others.
        DataPlaneError::PortsInUse(ports) => CommandError::new(ExitCode::BadHost, ports.of_first()),
        error => error.into(),
    })?;
    culvert_system::log_limit::set_quiet(quiet);
    if !quiet {
        greet(node, settings, running, &plane);
    }
    Ok(())
}

/// Starts the tasks that run as long as the node.
fn spawn_upkeep(node: &Arc<Node>, settings: &Settings) {
    tokio::spawn(culvert_node::partner_hosts::keep_known(node.connection_limiter.clone(), node.profiles.clone()));
    tokio::spawn(log_lines::report_suppressed_lines());
    tokio::spawn(tuning::keep(tuning::directory_in(&tuning::state_of_host(settings))));
    tokio::spawn(tuning::count_findings(node.metrics.clone()));
    tokio::spawn(keep_data_plane(node.clone()));
}

/// Stops running transfers. Those requested by this node's user stay recorded as running and
/// continue when the node is started again. Partners are told why theirs end.
async fn stop(node: &Node, state: &StateDirectory, quiet: bool) {
    node.registry.stop_all(STOP_TIMEOUT).await;
    node.registry.settle().await;
    for name in ["node.json", "api.sock"] {
        let _ = state.remove(name);
    }
    if !quiet {
        say_aside!("culvert: stopped");
    }
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

/// Restarts the data plane when it has died, so that the next request does not have to wait for it.
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

/// Takes the lock that prevents a second node with the same state directory.
fn lock(state: &StateDirectory) -> Result<(File, FileLock), CommandError> {
    let file = state.open_lock(LOCK)?;
    let mut lock = file_lock::lock(&file);
    for _ in 0..LOCK_TRIES {
        if !matches!(lock, Err(LockError::Held)) {
            break;
        }
        // A command that tests whether the lock is held may hold it for a moment.
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
        // The host may lack IPv6.
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

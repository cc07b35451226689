//! A second node on this host, in a process of its own, for `culvert demo` and `culvert bench`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_link::process_name::PROGRAM;
use culvert_model::exit_code::ExitCode;
use culvert_model::profile::{Permission, PermittedRoot, Profile};
use culvert_node::node::Node;
use culvert_node::profiles::Profiles;
use culvert_node::settings::{Flags, Settings};
use culvert_state::StateDirectory;
use tokio::process::{Child, Command};

use crate::args::EngineArgs;
use crate::embedded_node::{embedded, program};
use crate::exit::CommandError;
use crate::running_node::RunningNode;

/// How long the second node may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// A second node, and this process's node that has a profile of it.
#[derive(Debug)]
pub struct SecondNode {
    child: Child,
    directory: PathBuf,
    node: Arc<Node>,
}

impl SecondNode {
    /// The name of its profile here.
    pub const NAME: &str = "second";

    /// Starts it with all files in `room`. The lanes of the two nodes get different cores if there
    /// are at least two.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn start(room: &Path, engine: &EngineArgs) -> Result<Self, CommandError> {
        let (here, there) = (room.join("node-a"), room.join("node-b"));
        let directory = room.join("received");
        std::fs::create_dir(&directory).map_err(|error| CommandError::new(ExitCode::BadHost, error))?;
        let (state, their_state) = (StateDirectory::open(&here)?, StateDirectory::open(&there)?);
        let (our_key, their_key) = (state.identity()?.public_key(), their_state.identity()?.public_key());
        let permitted = PermittedRoot { path: directory.clone(), permission: Permission::Both };
        Profiles::new(their_state.clone())
            .add("first", &Profile { key: our_key, addresses: Vec::new(), permit: vec![permitted] })?;

        let (our_cores, their_cores) = two_core_lists(engine);
        let child = Command::new(program())
            .arg0(PROGRAM)
            .args(["node", "--quiet", "--listen", "127.0.0.1:0", "--metrics", "off", "--name", "second"])
            .args(["--cores", &their_cores, "--ports", "any"])
            .args(engine.flags.memory.iter().flat_map(|memory| ["--memory", memory]))
            .args(engine.flags.mtu.iter().flat_map(|mtu| ["--mtu", mtu]))
            .arg("--state")
            .arg(&there)
            // It stops when this process is gone, even if it was killed: the kernel closes the
            // pipe.
            .arg("--end-with-stdin")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CommandError::failed(format!("cannot start the second node: {error}")))?;
        let (child, running) = Self::wait(child, &their_state).await?;
        let address = format!("127.0.0.1:{}", running.port);
        Profiles::new(state.clone())
            .add(Self::NAME, &Profile { key: their_key, addresses: vec![address], permit: Vec::new() })?;
        let flags = Flags {
            state: Some(here.display().to_string()),
            cores: Some(our_cores),
            memory: engine.flags.memory.clone(),
            mtu: engine.flags.mtu.clone(),
            ..Flags::default()
        };
        let node = embedded(&Settings::resolve(&flags)?, &state, None)?;
        Ok(Self { child, directory, node })
    }

    async fn wait(mut child: Child, state: &StateDirectory) -> Result<(Child, RunningNode), CommandError> {
        let began = Instant::now();
        loop {
            if let Some(running) = state.read("node.json")?.and_then(|json| serde_json::from_slice(&json).ok()) {
                return Ok((child, running));
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(CommandError::new(
                    ExitCode::BadHost,
                    format!("the second node ended at once ({status}); its message is above"),
                ));
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(CommandError::new(ExitCode::BadHost, "the second node did not become ready"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The directory in which it stores files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// This process's node.
    #[must_use]
    pub const fn this_node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Stops the second node.
    pub async fn end(mut self) {
        if let Some(process) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await;
    }
}

/// The cores of this node, from the first on, and of the other one, up to the last.
fn two_core_lists(engine: &EngineArgs) -> (String, String) {
    let cores: Vec<String> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id.to_string()).collect();
    let cores = match &engine.flags.cores {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => cores,
    };
    if cores.len() < 2 {
        let only = cores.first().cloned().unwrap_or_else(|| "0".to_owned());
        return (only.clone(), only);
    }
    // With fewer than eight cores, one lane each is fastest over loopback.
    let lanes = (cores.len() / 4).clamp(1, 4);
    (cores[..lanes].join(","), cores[cores.len() - lanes..].join(","))
}

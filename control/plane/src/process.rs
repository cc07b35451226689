//! The data plane's process: where it comes from, how it is started, and how it ends.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use culvert_link::process_name;
use culvert_link::socket::LinkSocket;
use tokio::process::{Child, Command};

use crate::error::DataPlaneError;

/// How long a child may take to end after its link has closed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How a data plane that is not a child of this process ends.
pub(super) const LINK_CLOSED: &str = "it closed the link";

/// Where data planes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process starts `PROGRAM dataplane`.
    Child(PathBuf),
    /// The listener on this `SOCK_SEQPACKET` socket starts a data plane with each connection as its
    /// standard input, as systemd does for a socket unit with `Accept=yes`.
    Socket(PathBuf),
}

/// Starts `program` with the other end of the link as its standard input.
pub(super) fn spawn(program: &Path, theirs: LinkSocket) -> Result<Child, DataPlaneError> {
    let mut command = Command::new(program);
    command
        .arg0(process_name::PROGRAM)
        .arg("dataplane")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command.spawn().map_err(|error| DataPlaneError::Spawn { program: program.display().to_string(), error })
}

/// The link to a data plane. Dropping it closes the link, and with it ends the process.
pub(super) struct Link(pub(super) LinkSocket);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits for the end of a child and says how it ended. Of a process that is not a child only the
/// link shows the end.
pub(super) async fn ended(child: Option<&mut Child>) -> String {
    match child {
        Some(child) => child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string()),
        None => LINK_CLOSED.to_owned(),
    }
}

/// Says how a process ended whose link is closed or unreadable. A child closes its link a moment
/// before it exits; one that stays is killed.
pub(super) async fn link_ended(child: Option<&mut Child>) -> String {
    let Some(child) = child else { return ended(None).await };
    if let Ok(how) = tokio::time::timeout(END_TIMEOUT, ended(Some(child))).await {
        return how;
    }
    // This fails only if it has exited by now.
    let _ = child.start_kill();
    format!("it closed the link or sent an unreadable message: {}", ended(Some(child)).await)
}

//! Whose node a command is about.
//!
//! The system's node has an account of its own, and root administers it. Root's commands on a
//! node's state directory run as the directory's owner: what they make there belongs to it, and a
//! node's account cannot make root follow what it has put there.

use std::path::{Path, PathBuf};

use culvert_model::exit_code::ExitCode;
use culvert_node::settings::{Origin, SYSTEM_CONFIGURATION, Settings};
use culvert_system::accounts::{OwnedState, SYSTEM_STATE};

use crate::args::{Command, EngineArgs, GlobalArgs, TransferAction};
use crate::exit::CommandError;
use crate::path::args::PathAction;

/// How a command uses a node's state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It reads and changes what is in it.
    Files,
    /// It talks to the running node, and writes a file where the user may write.
    Socket,
    /// It has to do with another directory, or with none.
    None,
}

/// Has root's command go to the system's node, unless a state directory is named, and becomes the
/// directory's owner. To be called before there is a second thread.
///
/// # Errors
/// [`CommandError`] if this process cannot become that account.
pub fn settle(global: &mut GlobalArgs, command: &Command) -> Result<(), CommandError> {
    if matches!(command, Command::Node(_)) {
        return refuse_roots_own_node(global);
    }
    let how = use_of(command);
    if how == Use::None || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // What is wrong with the settings is said by the command itself.
    let Ok(settings) = Settings::resolve(&global.flags(&EngineArgs::default())) else { return Ok(()) };
    let path = match &settings.state.origin {
        Origin::Default => PathBuf::from(SYSTEM_STATE),
        _ => settings.state.value.clone(),
    };
    let Some(state) = OwnedState::at(&path) else { return Ok(()) };
    if settings.state.origin == Origin::Default {
        if matches!(command, Command::Identity(_)) && !global.quiet {
            say_which_key(&state, &settings.state.value);
        }
        // Of root's own settings the node knows nothing.
        if global.config.is_none() && std::env::var_os("CULVERT_CONFIG").is_none() {
            global.config = Some(SYSTEM_CONFIGURATION).filter(|path| Path::new(path).exists()).map(str::to_owned);
        }
        global.state = Some(path.display().to_string());
    }
    if how == Use::Files {
        state.owner.assume().map_err(|error| {
            let text = format!("cannot run as '{}', the owner of {}: {error}", state.owner.name, path.display());
            CommandError::new(ExitCode::BadHost, text)
        })?;
    }
    Ok(())
}

fn use_of(command: &Command) -> Use {
    match command {
        Command::Identity(_) | Command::Profile(_) | Command::Status(_) | Command::Monitor(_) => Use::Files,
        // A receipt may be a file of the user who runs the command.
        Command::Transfer(args) => match &args.action {
            TransferAction::Receipt { what, .. } if Path::new(what).exists() => Use::None,
            _ => Use::Files,
        },
        Command::Path(args) => match args.action {
            PathAction::Check(_) | PathAction::History(_) | PathAction::Publish => Use::Files,
            PathAction::Pscheduler(_) | PathAction::Stamp(_) | PathAction::Twamp(_) => Use::None,
        },
        Command::Capture(_) => Use::Socket,
        _ => Use::None,
    }
}

/// Refuses a second node of root's next to the system's, unless its state directory is named: it
/// would have a different key from the one `culvert identity` shows root.
fn refuse_roots_own_node(global: &GlobalArgs) -> Result<(), CommandError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // What is wrong with the settings is said by the command itself.
    let Ok(settings) = Settings::resolve(&global.flags(&EngineArgs::default())) else { return Ok(()) };
    let Some(system) = OwnedState::of_system().filter(|_| settings.state.origin == Origin::Default) else {
        return Ok(());
    };
    let (path, owner) = (system.path.display(), &system.owner.name);
    let text = format!(
        "the system's node has its state in {path}, which belongs to {owner}; a node started by \
         root would be another one with another key: start the system's node with 'systemctl start \
         culvert' or 'sudo -u {owner} culvert node', or name another node's state directory with --state"
    );
    Err(CommandError::new(ExitCode::BadHost, text))
}

/// Transfers over ssh leave a key in root's state too: it must not be mistaken for the node's.
fn say_which_key(state: &OwnedState, own: &Path) {
    if own.join("identity.pk8").exists() {
        let (node, own) = (state.path.display(), own.display());
        say_aside!(
            "culvert: this is the key of the system's node in {node}; root's own key is another: \
             culvert --state {own} identity"
        );
    }
}

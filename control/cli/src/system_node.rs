//! Selects the node that a command works on.
//!
//! The system's node has an account of its own and is administered by root. Root's commands on a
//! node's state directory therefore run as the directory's owner. What they create there belongs to
//! that account, and the account cannot trick root with symlinks that it has put there.

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
    /// It reads and changes the files in it.
    Files,
    /// It talks to the running node, and writes a file elsewhere with the user's permissions.
    Socket,
    /// It uses another directory, or none.
    None,
}

/// Directs a command run by root to the system's node, unless a state directory is named, and
/// changes to the account that owns the directory. Must be called before a second thread exists.
///
/// # Errors
/// [`CommandError`] if this process cannot become that account.
pub fn select(global: &mut GlobalArgs, command: &Command) -> Result<(), CommandError> {
    if matches!(command, Command::Node(_)) {
        return refuse_roots_own_node(global);
    }
    let how = use_of(command);
    if how == Use::None || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // The command itself reports errors in the settings.
    let Ok(settings) = Settings::resolve(&global.flags(&EngineArgs::default())) else { return Ok(()) };
    let path = match &settings.state.origin {
        Origin::Default => PathBuf::from(SYSTEM_STATE),
        _ => settings.state.value.clone(),
    };
    let Some(state) = OwnedState::at(&path) else { return Ok(()) };
    if settings.state.origin == Origin::Default {
        if matches!(command, Command::Identity(_)) && !global.quiet {
            explain_which_key(&state, &settings.state.value);
        }
        // Root's own settings do not apply to the system's node.
        if global.config.is_none() && std::env::var_os("CULVERT_CONFIG").is_none() {
            global.config = Some(SYSTEM_CONFIGURATION).filter(|path| Path::new(path).exists()).map(str::to_owned);
        }
        global.common.flags.state = Some(path.display().to_string());
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
        // A receipt file is read with the permissions of the user who runs the command.
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

/// Refuses to run a node of root's own next to the system's, unless its state directory is named:
/// its key would differ from the one that `culvert identity` shows root.
fn refuse_roots_own_node(global: &GlobalArgs) -> Result<(), CommandError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // The command itself reports errors in the settings.
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

/// Transfers over ssh leave a key in root's state directory, which must not be mistaken for the
/// node's.
fn explain_which_key(state: &OwnedState, own: &Path) {
    if own.join("identity.pk8").exists() {
        let (node, own) = (state.path.display(), own.display());
        say_aside!(
            "culvert: this is the key of the system's node in {node}; root's own key is another: \
             culvert --state {own} identity"
        );
    }
}

//! The state directory of commands that only read it, or change what is in it already.
//!
//! They make nothing: a mistyped `--state` would otherwise leave an empty state directory behind,
//! and look like a node that has never moved anything.

use culvert_model::exit_code::ExitCode;
use culvert_node::settings::{Origin, Settings};
use culvert_state::StateDirectory;

use crate::exit::CommandError;

/// The state directory that the settings name. Before the first use of the default one, it is as if
/// it were empty.
///
/// # Errors
/// [`CommandError`] if a directory was named that does not exist, or cannot be used.
pub fn state_to_read(settings: &Settings) -> Result<StateDirectory, CommandError> {
    let (root, origin) = (&settings.state.value, &settings.state.origin);
    match StateDirectory::existing(root)? {
        Some(state) => Ok(state),
        None if *origin == Origin::Default => Ok(StateDirectory::at(root.clone())),
        None => {
            let (root, named) = (root.display(), origin.name_of("state"));
            let text = format!(
                "there is no state directory {root}, which {named} names: check its name. Nothing was made; \
                 'culvert identity init', 'culvert node' and transfers make one"
            );
            Err(CommandError::new(ExitCode::NotFound, text))
        }
    }
}

//! `culvert identity`.

use crate::cli::args::{EngineArgs, GlobalArgs, IdentityArgs};
use crate::cli::exit::{CommandError, ExitCode};
use crate::cli::report::{print_json, say};
use crate::settings::Settings;
use crate::state::StateDirectory;

/// Shows the key, or makes it.
///
/// # Errors
/// [`CommandError`].
pub fn run(global: &GlobalArgs, args: &IdentityArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = StateDirectory::open(&settings.state.value)?;
    let existing = state.existing_identity()?;
    let identity = match (existing, args.action) {
        (Some(identity), _) => identity,
        (None, Some(_)) => state.identity()?,
        (None, None) => {
            return Err(CommandError::new(
                ExitCode::NotFound,
                format!("there is no key in {} yet: 'culvert identity init' makes one", state.root().display()),
            ));
        }
    };
    let key = identity.public_key();
    let path = state.path("identity.pk8").display().to_string();
    if args.json {
        print_json(&serde_json::json!({ "key": key, "fingerprint": key.fingerprint(), "file": path }))?;
    } else {
        say(&format!("fingerprint  {}\nkey          {key}\nfile         {path}", key.fingerprint()))?;
    }
    Ok(ExitCode::Done)
}

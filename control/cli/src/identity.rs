//! `culvert identity`.

use culvert_model::exit_code::ExitCode;
use culvert_node::settings::Settings;
use culvert_state::StateDirectory;
use culvert_system::accounts::OwnedState;

use crate::args::{EngineArgs, GlobalArgs, IdentityAction, IdentityArgs};
use crate::exit::CommandError;
use crate::report::{print_json, say};
use crate::state_to_read::state_to_read;

/// Shows or creates the key.
///
/// # Errors
/// [`CommandError`].
pub fn run(global: &GlobalArgs, args: &IdentityArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = match args.action {
        Some(IdentityAction::Init) => StateDirectory::open(&settings.state.value)?,
        None => state_to_read(&settings)?,
    };
    let identity = match args.action {
        Some(IdentityAction::Init) => state.make_identity()?,
        None => state.identity_unless_lost()?.ok_or_else(|| {
            let hint = OwnedState::hint(state.root(), "identity");
            let text =
                format!("there is no key in {} yet: 'culvert identity init' creates one{hint}", state.root().display());
            CommandError::new(ExitCode::NotFound, text)
        })?,
    };
    let key = identity.public_key();
    let path = state.path("identity.pk8").display().to_string();
    let (fingerprint, words) = (key.fingerprint(), key.words());
    if args.json {
        print_json(&serde_json::json!({ "key": key, "fingerprint": fingerprint, "words": words, "file": path }))?;
    } else {
        say(&format!("fingerprint  {fingerprint}\nwords        {words}\nkey          {key}\nfile         {path}"))?;
    }
    // The key that a transfer over ssh has created must not be mistaken for the node's.
    if let Some(system) = OwnedState::of_system().filter(|system| system.path != state.root() && !global.quiet) {
        say_aside!(
            "culvert: this is this account's own key; the system's node has another one: {}",
            system.command("identity")
        );
    }
    Ok(ExitCode::Done)
}

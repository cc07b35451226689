//! `culvert logout`.

use culvert_model::exit_code::ExitCode;
use culvert_state::StateDirectory;
use serde::Serialize;

use crate::args::GlobalArgs;
use crate::exit::CommandError;
use crate::portal::address::typed;
use crate::portal::args::LogoutArgs;
use crate::portal::client::{Credential, PortalClient};
use crate::portal::credentials::{Credentials, Login, state_directory};
use crate::portal::documents::Token;
use crate::report::{print_json, say};

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    portal: String,
    account: &'a str,
    token: &'a Token,
    /// Whether the token is no longer good.
    revoked: bool,
}

/// Revokes the token at the portal, and forgets it here, even if the portal cannot be told.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: LogoutArgs) -> Result<ExitCode, CommandError> {
    let state = state_directory(&global)?;
    let url = args.portal.as_deref().map(typed).transpose()?;
    let login = Credentials::read(&state)?.login(url.as_ref())?.clone();
    // Somebody who interrupts this does not want to be logged in either.
    let revoked = tokio::select! {
        revoked = revoke(&login) => revoked,
        code = crate::interruption::interrupted() => Err(CommandError::new(code, "interrupted")),
    };
    forget(&state, &login, revoked.is_err())?;
    if args.json {
        let (portal, account, token) = (login.url.to_string(), login.account.as_str(), &login.token);
        print_json(&Shown { portal, account, token, revoked: revoked.is_ok() })?;
    } else if !global.quiet && revoked.is_ok() {
        say(&format!("logged out of {}; the token '{}' is no longer good", login.url, login.token.name))?;
    }
    let Err(error) = revoked else { return Ok(ExitCode::Done) };
    say_aside!("culvert: {error}");
    say_aside!("culvert: the token is forgotten here, but {}", remedy(&login));
    let code = ExitCode::of(error.exit_code).unwrap_or(ExitCode::Failed);
    Ok(code)
}

/// Ends the token at its portal. One that is no longer good is what was wanted.
async fn revoke(login: &Login) -> Result<(), CommandError> {
    let client = PortalClient::new(login.url.clone(), login.ca_file.as_deref())?;
    match client.delete("/tokens/current", Credential::Token(&login.secret)).await {
        Err(error) if error.code() == Some("not-logged-in") => Ok(()),
        revoked => Ok(revoked?),
    }
}

fn forget(state: &StateDirectory, login: &Login, stays_good: bool) -> Result<(), CommandError> {
    let forgotten = Credentials::lock(state).and_then(|locked| locked.forget(login));
    forgotten.map_err(|error| {
        let then = if stays_good { remedy(login) } else { "the token itself is no longer good".to_owned() };
        CommandError { text: format!("{}; {then}", error.text), ..error }
    })
}

fn remedy(login: &Login) -> String {
    let Login { url, token, .. } = login;
    format!(
        "stays good at {url} until {}: revoke it with 'culvert token revoke {} --portal {url} --account {}', or let an \
         administrator do it",
        token.until(),
        token.id,
        login.account
    )
}

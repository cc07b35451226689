//! `culvert whoami`.

use culvert_model::exit_code::ExitCode;
use serde::Serialize;

use crate::args::GlobalArgs;
use crate::exit::CommandError;
use crate::portal::address::typed;
use crate::portal::args::WhoamiArgs;
use crate::portal::client::{Credential, PortalClient};
use crate::portal::credentials::{Credentials, state_directory};
use crate::portal::documents::{Token, User};
use crate::report::{print_json, say};

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    portal: String,
    account: &'a str,
    display_name: &'a str,
    roles: &'a [String],
    token: &'a Token,
}

/// Shows as whom commands ask the portal, as the portal sees it now.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: WhoamiArgs) -> Result<ExitCode, CommandError> {
    let state = state_directory(&global)?;
    let url = args.portal.as_deref().map(typed).transpose()?;
    let login = Credentials::read(&state)?.login(url.as_ref())?.clone();
    let client = PortalClient::new(login.url.clone(), login.ca_file.as_deref())?;
    let who = Credential::Token(&login.secret);
    let kept = format!("the token that is kept for {}", login.url);
    let user: User = client.get("/me", who).await.map_err(|error| error.of_token(&kept))?;
    let token: Token = client.get("/tokens/current", who).await.map_err(|error| error.of_token(&kept))?;
    if args.json {
        print_json(&Shown {
            portal: login.url.to_string(),
            account: &user.name,
            display_name: &user.display_name,
            roles: &user.roles,
            token: &token,
        })?;
        return Ok(ExitCode::Done);
    }
    let name = if user.display_name == user.name { String::new() } else { format!(" ({})", user.display_name) };
    let roles = if user.roles.is_empty() { "none".to_owned() } else { user.roles.join(", ") };
    say(&format!(
        "portal   {}\naccount  {}{name}\nroles    {roles}\ntoken    {}, {}\npermits  {}\nuntil    {}",
        login.url,
        user.name,
        token.name,
        token.id,
        token.permits(),
        token.until()
    ))?;
    Ok(ExitCode::Done)
}

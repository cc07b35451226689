//! `culvert login`.

use std::path::Path;

use culvert_model::exit_code::ExitCode;
use culvert_state::StateDirectory;
use culvert_system::descriptors::host_name;
use serde::Serialize;

use crate::args::GlobalArgs;
use crate::exit::{CommandError, of_path};
use crate::portal::address::typed;
use crate::portal::args::LoginArgs;
use crate::portal::client::{Credential, PortalClient};
use crate::portal::credentials::{Credentials, Login, state_directory};
use crate::portal::device::be_let_in;
use crate::portal::documents::{NewToken, Token, TokenWish, User};
use crate::portal::secret::{token_of_file, token_of_standard_input};
use crate::portal::session::PortalSession;
use crate::report::{print_json, say};

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    portal: String,
    account: &'a str,
    token: &'a Token,
}

/// Logs in to a portal, and keeps the token.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: LoginArgs) -> Result<ExitCode, CommandError> {
    let state = state_directory(&global)?;
    let url = typed(&args.portal)?;
    if args.switch {
        let login = Credentials::lock(&state)?.switch(&url)?;
        show(&global, &args, &login, &format!("commands use {} from now on", login.url))?;
        return Ok(ExitCode::Done);
    }
    let ca_file = args.ca_file.as_deref().map(whole_path).transpose()?;
    let client = PortalClient::new(url, ca_file.as_deref())?;
    // Whether a token can be kept must be known before one is made.
    drop(Credentials::lock(&state)?);
    client.check().await?;
    let (made, is_new) = match given_token(&client, &args).await? {
        Some(given) => (given, false),
        None => (asked_for_token(&client, &args).await?, true),
    };
    let kept = keep(&client, &state, &made, ca_file).await;
    if kept.is_err() && is_new {
        // Nobody else has it. If the portal cannot be told, it is in its owner's list.
        let _ = client.delete("/tokens/current", Credential::Token(&made.secret)).await;
    }
    let login = kept?;
    let text = format!(
        "logged in to {} as {} until {}; the token '{}' permits {}",
        login.url,
        login.account,
        login.token.until(),
        login.token.name,
        login.token.permits()
    );
    show(&global, &args, &login, &text)?;
    Ok(ExitCode::Done)
}

/// The token that somebody has, with what the portal knows of it.
async fn given_token(client: &PortalClient, args: &LoginArgs) -> Result<Option<NewToken>, CommandError> {
    let secret = match &args.token_file {
        Some(path) => token_of_file(path)?,
        None if args.with_token => token_of_standard_input()?,
        None => return Ok(None),
    };
    if !args.token.scopes.is_empty() || args.token.days.is_some() {
        return Err(CommandError::usage(
            "a token has its scopes and its end already: leave --scope and --days out, or make another token",
        ));
    }
    let token = client.get("/tokens/current", Credential::Token(&secret)).await;
    Ok(Some(NewToken { token: token.map_err(|error| error.of_token("the token"))?, secret }))
}

async fn asked_for_token(client: &PortalClient, args: &LoginArgs) -> Result<NewToken, CommandError> {
    let name = args.name.clone().unwrap_or_else(|| format!("culvert on {}", host_name()));
    let scopes = args.token.scopes_or_usual();
    let wish = TokenWish { name: &name, scopes: &scopes, days: args.token.days };
    let made = match &args.account {
        None => be_let_in(client, &wish).await?,
        Some(account) => {
            let session = PortalSession::begin(client, account, args.password_file.as_deref()).await?;
            let made = session.make_token(&wish).await;
            session.end().await;
            made?
        }
    };
    let missing: Vec<&str> =
        scopes.iter().filter(|scope| !made.token.scopes.contains(scope)).map(String::as_str).collect();
    if !missing.is_empty() {
        say_aside!("culvert: warning: the token was asked for, but not granted, {}", missing.join(", "));
    }
    Ok(made)
}

/// Writes the login down, and gives up the token that it replaces.
async fn keep(
    client: &PortalClient,
    state: &StateDirectory,
    made: &NewToken,
    ca_file: Option<std::path::PathBuf>,
) -> Result<Login, CommandError> {
    let NewToken { token, secret } = made.clone();
    let user: User = client.get("/me", Credential::Token(&secret)).await?;
    let login = Login { url: client.url().clone(), ca_file, account: user.name, token, secret };
    let before = Credentials::lock(state)?.keep(login.clone())?;
    if let Some(before) = before.filter(|before| before.secret != login.secret)
        && let Err(error) = client.delete("/tokens/current", Credential::Token(&before.secret)).await
        && error.code() != Some("not-logged-in")
    {
        say_aside!(
            "culvert: warning: the former token, {}, stays good until {}: {error}",
            before.token.id,
            before.token.until()
        );
    }
    Ok(login)
}

fn show(global: &GlobalArgs, args: &LoginArgs, login: &Login, text: &str) -> Result<(), CommandError> {
    if args.json {
        return print_json(&Shown { portal: login.url.to_string(), account: &login.account, token: &login.token });
    }
    if global.quiet { Ok(()) } else { say(text) }
}

/// A path that later commands find from wherever they are typed.
fn whole_path(path: &Path) -> Result<std::path::PathBuf, CommandError> {
    path.canonicalize().map_err(|error| {
        CommandError::new(of_path(&error), format!("the CA file {} cannot be read: {error}", path.display()))
    })
}

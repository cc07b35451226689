//! `culvert token`: one's tokens at a portal, by one's password.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use culvert_model::exit_code::ExitCode;
use culvert_state::StateDirectory;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::exit::{CommandError, of_path};
use crate::portal::address::typed;
use crate::portal::args::{TokenAction, TokenArgs};
use crate::portal::client::{Credential, PortalClient, PortalError};
use crate::portal::credentials::{Credentials, Login, state_directory};
use crate::portal::device::be_let_in;
use crate::portal::documents::{NewToken, Page, Token, TokenWish, User};
use crate::portal::session::PortalSession;
use crate::report::{print_json, say};

/// The characters of a token's whole id.
const ID_CHARACTERS: usize = 36;

/// Lists, makes or revokes tokens.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: TokenArgs) -> Result<ExitCode, CommandError> {
    let state = state_directory(&global)?;
    let credentials = Credentials::read(&state)?;
    let named = args.portal.as_deref().map(typed).transpose()?;
    let login = credentials.find(named.as_ref());
    let url = match named {
        Some(url) => url,
        None => credentials.login(None)?.url.clone(),
    };
    let ca_file = args.ca_file.as_deref().or(login.and_then(|login| login.ca_file.as_deref()));
    let client = PortalClient::new(url, ca_file)?;
    client.check().await?;
    if let TokenAction::Create { name, token, output, browser: true } = &args.action {
        let output = output.as_deref().map(Output::new).transpose()?;
        let scopes = token.scopes_or_usual();
        let made = be_let_in(&client, &TokenWish { name, scopes: &scopes, days: token.days }).await;
        let handed_over = hand_over(&client, &args, made.as_ref().map_err(Clone::clone), output);
        if let (Err(_), Ok(made)) = (&handed_over, &made) {
            // Nobody has it.
            let _ = client.delete("/tokens/current", Credential::Token(&made.secret)).await;
        }
        return handed_over;
    }
    let account = args.account.as_deref().or(login.map(|login| login.account.as_str())).ok_or_else(|| {
        CommandError::usage(format!("you are not logged in to {}: name the account with --account", client.url()))
    })?;
    let session = PortalSession::begin(&client, account, args.password_file.as_deref()).await?;
    let done = act(&client, &session, &state, login, &args).await;
    session.end().await;
    done
}

async fn act(
    client: &PortalClient,
    session: &PortalSession<'_>,
    state: &StateDirectory,
    login: Option<&Login>,
    args: &TokenArgs,
) -> Result<ExitCode, CommandError> {
    match &args.action {
        TokenAction::List => list(client, &own_tokens(session).await?, args.json),
        TokenAction::Create { name, token, output, .. } => {
            let output = output.as_deref().map(Output::new).transpose()?;
            let scopes = token.scopes_or_usual();
            let made = session.make_token(&TokenWish { name, scopes: &scopes, days: token.days }).await;
            let made = made.map_err(CommandError::from);
            let handed_over = hand_over(client, args, made.as_ref().map_err(Clone::clone), output);
            if let (Err(_), Ok(made)) = (&handed_over, &made) {
                let _ = session.delete(&format!("/tokens/{}", made.token.id)).await;
            }
            handed_over
        }
        TokenAction::Revoke { id } => {
            let id = whole_id(&own_tokens(session).await?, id)?;
            session.delete(&format!("/tokens/{id}")).await?;
            if let Some(login) = login.filter(|login| login.token.id == id) {
                Credentials::lock(state)?.forget(login)?;
            }
            if args.json {
                print_json(&json!({ "portal": client.url(), "token": id, "revoked": true }))?;
            } else {
                say(&format!("the token {id} is no longer good"))?;
            }
            Ok(ExitCode::Done)
        }
    }
}

/// The tokens of whoever asks: an administrator's list has everybody's.
async fn own_tokens(session: &PortalSession<'_>) -> Result<Vec<Token>, PortalError> {
    let user: User = session.get("/me").await?;
    // Nobody has more tokens than fit a page.
    Ok(session.get::<Page<Token>>(&format!("/tokens?limit=200&user={}", user.id)).await?.items)
}

fn list(client: &PortalClient, tokens: &[Token], json: bool) -> Result<ExitCode, CommandError> {
    if json {
        print_json(&json!({ "portal": client.url(), "tokens": tokens }))?;
        return Ok(ExitCode::Done);
    }
    let width = tokens.iter().map(|token| token.permits().len()).chain(["PERMITS".len()]).max().unwrap_or(0);
    let line = |[id, until, used, permits, name]: [&str; 5]| {
        say(&format!("{id:ID_CHARACTERS$}  {until:20}  {used:20}  {permits:width$}  {name}"))
    };
    line(["ID", "UNTIL", "LAST USED", "PERMITS", "NAME"])?;
    for token in tokens {
        line([&token.id, &token.until(), &token.last_used(), &token.permits(), &token.name])?;
    }
    Ok(ExitCode::Done)
}

/// The id of the one token that has this beginning.
fn whole_id(tokens: &[Token], typed: &str) -> Result<String, CommandError> {
    if !typed.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') || typed.is_empty() {
        return Err(CommandError::usage("this is not the id of a token: 'culvert token list' shows them"));
    }
    let typed = typed.to_ascii_lowercase();
    let found: Vec<&Token> = tokens.iter().filter(|token| token.id.starts_with(&typed)).collect();
    match found[..] {
        [token] => Ok(token.id.clone()),
        // An administrator may name anybody's.
        [] if typed.len() == ID_CHARACTERS => Ok(typed),
        [] => {
            let text = format!("you have no token {typed}…: 'culvert token list' shows them");
            Err(CommandError::new(ExitCode::NotFound, text))
        }
        _ => Err(CommandError::usage(format!("several of your tokens begin with {typed}: write more of the id"))),
    }
}

/// Gives a new token's secret to whoever wants it, this once.
fn hand_over(
    client: &PortalClient,
    args: &TokenArgs,
    made: Result<&NewToken, CommandError>,
    output: Option<Output<'_>>,
) -> Result<ExitCode, CommandError> {
    let NewToken { token, secret } = made?;
    let file = output.map(|output| output.write(secret.text())).transpose()?;
    if args.json {
        let mut document = json!({ "portal": client.url(), "token": token });
        match file {
            Some(file) => document["file"] = file.display().to_string().into(),
            None => document["secret"] = secret.text().into(),
        }
        print_json(&document)?;
        return Ok(ExitCode::Done);
    }
    let (id, until, permits) = (&token.id, token.until(), token.permits());
    say_aside!("culvert: the token '{}' ({id}) is good until {until} and permits {permits}", token.name);
    match file {
        Some(file) => say(&format!("its secret is in {}", file.display()))?,
        None => say(secret.text())?,
    }
    Ok(ExitCode::Done)
}

/// The new file for a secret. It is removed unless the secret is in it.
struct Output<'a> {
    path: &'a Path,
    file: File,
    is_whole: bool,
}

impl<'a> Output<'a> {
    fn new(path: &'a Path) -> Result<Self, CommandError> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|error| {
            let is_there = error.kind() == std::io::ErrorKind::AlreadyExists;
            let code = if is_there { ExitCode::Usage } else { of_path(&error) };
            let why = if is_there { "it is there already; name another".to_owned() } else { error.to_string() };
            CommandError::new(code, format!("the token's file {} cannot be made: {why}", path.display()))
        })?;
        Ok(Self { path, file, is_whole: false })
    }

    fn write(mut self, secret: &str) -> Result<&'a Path, CommandError> {
        let written = writeln!(self.file, "{secret}").and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            let text = format!("cannot write {}: {error}; the token was not made", self.path.display());
            CommandError::new(of_path(&error), text)
        })?;
        self.is_whole = true;
        Ok(self.path)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_if_only_one_has_it() {
        let token = |id: &str| -> Token {
            let token = json!({ "id": id, "name": "x", "scopes": [], "expires_at": "2027-01-01T00:00:00Z" });
            serde_json::from_value(token).unwrap()
        };
        let tokens = [token("01ab-1"), token("01ac-2")];
        assert_eq!(whole_id(&tokens, "01AB").unwrap(), "01ab-1");
        for (typed, code) in [("01", 2), ("02", 3), ("", 2), ("../me", 2), ("01ab?x", 2)] {
            assert_eq!(whole_id(&tokens, typed).unwrap_err().exit_code, code, "{typed}");
        }
        let foreign = "01a00000-0000-7000-8000-000000000000";
        assert_eq!(whole_id(&tokens, foreign).unwrap(), foreign);
    }
}

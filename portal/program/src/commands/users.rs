//! `users`: people, for when nobody can log in.

use anyhow::bail;
use culvert_portal_model::page::{PageRequest, ROWS_MAX};
use culvert_portal_model::people::{AccountState, SecretLink, User};
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts;
use culvert_portal_service::people::accounts::{NewUser, UserEdit, UserFilter};
use culvert_portal_service::people::{reset, second_factor};
use culvert_portal_service::portal::Portal;
use culvert_portal_service::sequencer;

use super::{open, say};
use crate::args::{Common, UsersCommand};
use crate::serve::with_cause;

/// Runs a command.
///
/// # Errors
/// What went wrong.
pub async fn run(common: &Common, public_url: Option<&str>, command: UsersCommand) -> anyhow::Result<()> {
    let portal = open(common).await?;
    let host = Actor::host();
    match command {
        UsersCommand::List { json } => list(&portal, json).await?,
        UsersCommand::Create { name, roles, email } => {
            let new = NewUser { name, roles, email, ..NewUser::default() };
            let user = accounts::create(&portal, &host, &new).await.map_err(with_cause)?;
            say(&format!("made {}", user.name))?;
            tell(&reset::make_link(&portal, &host, user.id).await.map_err(with_cause)?, public_url)?;
        }
        UsersCommand::Reset { name, second_factor: true } => {
            let user = find(&portal, &name).await?;
            second_factor::remove_of(&portal, &host, user.id).await.map_err(with_cause)?;
            say(&format!("{} has no second factor any more, and is logged out", user.name))?;
        }
        UsersCommand::Reset { name, second_factor: false } => {
            let user = find(&portal, &name).await?;
            tell(&reset::make_link(&portal, &host, user.id).await.map_err(with_cause)?, public_url)?;
        }
        UsersCommand::Deactivate { name } => change_state(&portal, &name, AccountState::Deactivated).await?,
        UsersCommand::Activate { name } => change_state(&portal, &name, AccountState::Active).await?,
        UsersCommand::Roles { name, roles } => {
            let user = find(&portal, &name).await?;
            let user = accounts::set_roles(&portal, &host, user.id, &roles, user.version).await.map_err(with_cause)?;
            say(&line(&user))?;
        }
    }
    sequencer::number_all(&portal).await.map_err(with_cause)?;
    portal.database.close().await;
    Ok(())
}

async fn list(portal: &Portal, json: bool) -> anyhow::Result<()> {
    let mut page = PageRequest { after: None, rows: ROWS_MAX };
    loop {
        let found = accounts::list(portal, &Actor::host(), &UserFilter::default(), &page).await.map_err(with_cause)?;
        for user in &found.items {
            say(&if json { serde_json::to_string(user)? } else { line(user) })?;
        }
        let Some(next) = found.next else { return Ok(()) };
        page.after = Some(next);
    }
}

async fn change_state(portal: &Portal, name: &str, state: AccountState) -> anyhow::Result<()> {
    let user = find(portal, name).await?;
    let edit = UserEdit { state: Some(state), ..UserEdit::default() };
    let user = accounts::edit(portal, &Actor::host(), user.id, &edit, user.version).await.map_err(with_cause)?;
    say(&line(&user))
}

async fn find(portal: &Portal, name: &str) -> anyhow::Result<User> {
    let wanted = name.to_lowercase();
    let mut page = PageRequest { after: None, rows: ROWS_MAX };
    loop {
        let found = accounts::list(portal, &Actor::host(), &UserFilter::default(), &page).await.map_err(with_cause)?;
        if let Some(user) = found.items.into_iter().find(|user| user.name == wanted) {
            return Ok(user);
        }
        let Some(next) = found.next else { bail!("there is no person '{name}': culvert-portal users list has all") };
        page.after = Some(next);
    }
}

fn line(user: &User) -> String {
    let roles: Vec<&str> = user.roles.iter().map(|role| role.word()).collect();
    let email = user.email.as_deref().unwrap_or("-");
    let factor = if user.second_factor { "second-factor" } else { "-" };
    format!("{}\t{}\t{}\t{email}\t{factor}", user.name, user.state.word(), roles.join(","))
}

fn tell(link: &SecretLink, public_url: Option<&str>) -> anyhow::Result<()> {
    let base = public_url.map_or("PORTAL", |url| url.trim_end_matches('/'));
    say(&format!("to set a password, open until {}:\n{base}{}", link.expires_at, link.url))?;
    if public_url.is_none() {
        say("PORTAL is the portal's address: with --public-url, or CULVERT_PORTAL_PUBLIC_URL, the link has it")?;
    }
    say(&format!("for POST /api/v1/password-resets/complete, the secret is {}", link.secret))
}

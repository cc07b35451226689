//! `users`: people, for when nobody can log in.

use anyhow::bail;
use culvert_portal_model::page::{PageRequest, ROWS_MAX};
use culvert_portal_model::people::{AccountState, SecretLink, User};
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts;
use culvert_portal_service::people::accounts::{NewUser, UserEdit};
use culvert_portal_service::people::reset;
use culvert_portal_service::portal::Portal;
use culvert_portal_service::sequencer;

use super::{open, say};
use crate::args::{Common, UsersCommand};
use crate::serve::with_cause;

/// Runs a command.
///
/// # Errors
/// What went wrong.
pub async fn run(common: &Common, command: UsersCommand) -> anyhow::Result<()> {
    let portal = open(common).await?;
    let host = Actor::host();
    match command {
        UsersCommand::List { json } => list(&portal, json).await?,
        UsersCommand::Create { name, roles, email } => {
            let new = NewUser { name, roles, email, ..NewUser::default() };
            let user = accounts::create(&portal, &host, &new).await.map_err(with_cause)?;
            say(&format!("made {}", user.name))?;
            tell(&reset::make_link(&portal, &host, user.id).await.map_err(with_cause)?)?;
        }
        UsersCommand::Reset { name } => {
            let user = find(&portal, &name).await?;
            tell(&reset::make_link(&portal, &host, user.id).await.map_err(with_cause)?)?;
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
        let found = accounts::list(portal, &Actor::host(), None, &page).await.map_err(with_cause)?;
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
        let found = accounts::list(portal, &Actor::host(), None, &page).await.map_err(with_cause)?;
        if let Some(user) = found.items.into_iter().find(|user| user.name == wanted) {
            return Ok(user);
        }
        let Some(next) = found.next else { bail!("there is no person '{name}': culvert-portal users list has all") };
        page.after = Some(next);
    }
}

fn line(user: &User) -> String {
    let roles: Vec<&str> = user.roles.iter().map(|role| role.word()).collect();
    format!("{}\t{}\t{}\t{}", user.name, user.state.word(), roles.join(","), user.email.as_deref().unwrap_or("-"))
}

fn tell(link: &SecretLink) -> anyhow::Result<()> {
    say(&format!("to set a password, open this at the portal's address until {}:\n{}", link.expires_at, link.url))
}

//! API tokens: for programs that do a part of what their owner may do.

use culvert_portal_model::audit::Who;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::people::{NewToken, Token};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::scope::Scope;
use culvert_portal_store::{Reads, Writing, tokens};
use jiff::SignedDuration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::trail::Change;

/// Tokens that one person may have.
const TOKENS_MAX: u32 = 100;

/// A token that somebody wants.
#[derive(Debug, Clone)]
pub struct TokenWish {
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// For how many days.
    pub days: u32,
}

/// A page of tokens, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, user: Option<Id>, page: &PageRequest) -> Result<Page<Token>, Fault> {
    let of = portal.permit(actor, Action::TokenList).await?.owner().or(user);
    let rows = tokens::list(&mut portal.database.read().await?, of, page).await?;
    Ok(Page::of(rows, page.rows, |token| token.id.text()))
}

/// Makes a token for the person who asks. Its secret is shown this once.
///
/// # Errors
/// [`Fault`].
pub async fn create(portal: &Portal, actor: &Actor, wish: &TokenWish) -> Result<NewToken, Fault> {
    portal.permit(actor, Action::TokenCreate).await?;
    let user = actor.oneself()?;
    let most = portal.current_settings().await?.token_days_max;
    if wish.days == 0 || wish.days > most {
        return Err(Fault::of_field("days", format!("a token is good for 1 to {most} days, not {}", wish.days)));
    }
    let mut writing = portal.database.write().await?;
    let made = insert(portal, &mut writing, user, wish).await?;
    let change = Change::of("token", made.token.id).to(&made.token);
    portal.record(&mut writing, actor, Action::TokenCreate, change).await?;
    portal.commit(writing).await?;
    Ok(made)
}

/// The token that asks.
///
/// # Errors
/// [`Problem::Conflict`] for somebody without one.
pub async fn current(portal: &Portal, actor: &Actor) -> Result<Token, Fault> {
    portal.permit(actor, Action::SelfShow).await?;
    let id = asking(actor)?;
    tokens::by_id(&mut portal.database.read().await?, id).await?.ok_or_else(|| Fault::not_found("token"))
}

/// Revokes the token that asks: whoever has it may always give it up.
///
/// # Errors
/// [`Problem::Conflict`] for somebody without one.
pub async fn give_up(portal: &Portal, actor: &Actor) -> Result<(), Fault> {
    portal.permit(actor, Action::TokenGiveUp).await?;
    let id = asking(actor)?;
    let mut writing = portal.database.write().await?;
    let token = tokens::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("token"))?;
    end(portal, writing, actor, &token, Action::TokenGiveUp).await
}

/// Revokes a token.
///
/// # Errors
/// [`Fault`].
pub async fn revoke(portal: &Portal, actor: &Actor, id: Id) -> Result<(), Fault> {
    let reach = portal.permit(actor, Action::TokenRevoke).await?;
    let mut writing = portal.database.write().await?;
    let token = tokens::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("token"))?;
    reach.covers(token.user, "token")?;
    end(portal, writing, actor, &token, Action::TokenRevoke).await
}

/// Refuses another token to whoever has as many as one person may have.
pub(crate) async fn check_room(reads: &mut impl Reads, user: Id) -> Result<(), Fault> {
    let page = PageRequest { after: None, rows: TOKENS_MAX };
    if tokens::list(reads, Some(user), &page).await?.len() < TOKENS_MAX as usize {
        return Ok(());
    }
    let detail = format!("there are {TOKENS_MAX} tokens, the most that one person may have: revoke some");
    Err(Fault::new(Problem::Conflict, detail))
}

/// Makes a token in a transaction.
pub(crate) async fn insert(
    portal: &Portal,
    writing: &mut Writing,
    user: Id,
    wish: &TokenWish,
) -> Result<NewToken, Fault> {
    check_room(writing, user).await?;
    let name = input::line("name", &wish.name, 1, 100)?;
    input::at_most("scopes", &wish.scopes, Scope::ALL.len())?;
    if wish.scopes.is_empty() {
        return Err(Fault::of_field("scopes", "a token needs at least one scope"));
    }
    let mut scopes = wish.scopes.clone();
    scopes.sort_unstable();
    scopes.dedup();
    let secret = make(Kind::Token, &*portal.seams.randomness);
    let now = portal.now();
    let token = Token {
        id: portal.new_id(),
        user,
        name,
        prefix: secret.chars().take(Kind::Token.prefix().len() + 6).collect(),
        scopes,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(24 * i64::from(wish.days)),
        last_used_at: None,
        last_used_address: None,
    };
    tokens::insert(writing, &token, &hash(Kind::Token, &secret).unwrap_or_default()).await?;
    Ok(NewToken { token, secret })
}

/// The token by which somebody asks.
fn asking(actor: &Actor) -> Result<Id, Fault> {
    match actor.who {
        Who::Token { token, .. } => Ok(token),
        _ => Err(Fault::new(Problem::Conflict, "no token asks this: it is for programs that have one")),
    }
}

/// Removes a token, and says so in the trail.
async fn end(portal: &Portal, mut writing: Writing, actor: &Actor, token: &Token, action: Action) -> Result<(), Fault> {
    tokens::delete(&mut writing, token.id).await?;
    portal.record(&mut writing, actor, action, Change::of("token", token.id).from(token)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

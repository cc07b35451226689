//! Roles that a provider gives: kept apart from those given by hand, and replaced at each login by
//! what the provider says then.

use culvert_portal_model::audit::Outcome;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::Action;
use culvert_portal_model::providers::Provider;
use culvert_portal_model::role::Role;
use culvert_portal_store::{Reads, Writing, sessions, users};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::oidc::groups::Groups;
use crate::people::accounts;
use crate::portal::Portal;
use crate::trail::Change;

/// Gives somebody the roles of their groups at a provider. Where that changes what they may do,
/// their sessions end, except the one that asks for it. That the last administrator loses that role
/// here stops nothing: what the provider says is followed, and the portal's host can make another.
pub(crate) async fn apply(
    portal: &Portal,
    writing: &mut Writing,
    provider: &Provider,
    user: Id,
    groups: &Groups,
    except: Option<Id>,
) -> Result<(), Fault> {
    if provider.groups_claim.is_none() {
        return Ok(());
    }
    match groups {
        Groups::Absent => {
            tracing::warn!(provider = provider.name, %user, "the login had no groups: its roles stay as they were");
        }
        Groups::Malformed => {
            tracing::warn!(provider = provider.name, %user, "the groups are no list of names: they give no roles");
        }
        Groups::Named(_) => {}
    }
    match groups.roles(&provider.roles_by_group) {
        Some(roles) => set(portal, writing, provider.id, user, &roles, except).await,
        None => Ok(()),
    }
}

/// Replaces the roles that a provider has given somebody.
pub(crate) async fn set(
    portal: &Portal,
    writing: &mut Writing,
    provider: Id,
    user: Id,
    roles: &[Role],
    except: Option<Id>,
) -> Result<(), Fault> {
    let origin = provider.text();
    let before = given(writing, user).await?;
    users::set_roles(writing, user, &origin, roles).await?;
    let after = given(writing, user).await?;
    if before == after {
        return Ok(());
    }
    users::count_change(writing, user).await?;
    sessions::end_of(writing, user, except, portal.now()).await?;
    accounts::withdraw_invitations(writing, user, &after).await?;
    let change = Change::of("user", user).from(&before).to(&after);
    let actor = Actor::portal();
    portal.record_as(writing, &actor, Action::UserRoles.word(), Outcome::Done, change).await
}

async fn given(reads: &mut impl Reads, user: Id) -> Result<Vec<Role>, Fault> {
    let mut roles: Vec<Role> = users::roles(reads, user).await?.into_iter().map(|(role, _)| role).collect();
    roles.dedup();
    Ok(roles)
}

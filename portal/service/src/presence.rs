//! Whether somebody may do something to a thing that is there, before it is known what.
//!
//! Each operation decides this itself, in its transaction. But whoever asks must hear "not
//! permitted" and "not there" whatever else is wrong with the request, and what a request brings is
//! read before any operation begins.

use culvert_portal_model::id::Id;
use culvert_portal_model::permission::Action;
use culvert_portal_store::{groups, providers, users};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::portal::Portal;
use crate::webhooks::manage;

/// A kind of thing that is changed with something that the request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// An account.
    Person,
    /// A group.
    Group,
    /// An identity provider.
    Provider,
    /// A webhook.
    Webhook,
}

/// Refuses who may not do something to a thing, or to a thing that is not there for them.
///
/// # Errors
/// As the operation itself would: see [`Portal::permit`], and
/// [`NotFound`](culvert_portal_model::problem::Problem::NotFound).
pub async fn check(portal: &Portal, actor: &Actor, action: Action, thing: Thing, id: Id) -> Result<(), Fault> {
    let reach = portal.permit(actor, action).await?;
    let mut reading = portal.database.read().await?;
    let (what, is_there) = match thing {
        Thing::Person => {
            reach.covers(id, "person")?;
            ("person", users::by_id(&mut reading, id).await?.is_some())
        }
        Thing::Group => ("group", groups::by_id(&mut reading, id).await?.is_some()),
        Thing::Provider => ("identity provider", providers::by_id(&mut reading, id).await?.is_some()),
        Thing::Webhook => return manage::find(&mut reading, reach, id).await.map(drop),
    };
    if is_there { Ok(()) } else { Err(Fault::not_found(what)) }
}

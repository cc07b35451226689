//! The routes, a file for each kind of thing.

mod audit;
mod devices;
mod groups;
mod identities;
mod invitations;
mod me;
mod passkeys;
mod paths;
mod people_documents;
mod provider_login;
mod providers;
mod sessions;
mod settings;
mod tokens;
mod users;
mod webhooks;
mod without_login;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::events;
use crate::state::Api;
pub use paths::PathId;

/// All routes of `/api/v1`.
pub fn all() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(without_login::routes())
        .merge(provider_login::routes())
        .merge(me::routes())
        .merge(identities::routes())
        .merge(passkeys::routes())
        .merge(sessions::routes())
        .merge(tokens::routes())
        .merge(devices::routes())
        .merge(users::routes())
        .merge(groups::routes())
        .merge(invitations::routes())
        .merge(providers::routes())
        .merge(settings::routes())
        .merge(webhooks::routes())
        .merge(audit::routes())
        .routes(routes!(events::follow))
}

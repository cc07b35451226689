//! Every route of the API with the action that the table of permissions knows it by.
//!
//! From this table and `culvert_portal_model::permission` come the documentation's table and the
//! test that walks every route with every role and with things of others; another test compares it
//! with the routes that there are.

use culvert_portal_model::permission::Action;

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path, as OpenAPI has it.
    pub path: &'static str,
    /// What it does; `None` for what whoever has not logged in may do.
    pub action: Option<Action>,
}

const fn route(method: &'static str, path: &'static str, action: Action) -> Route {
    Route { method, path, action: Some(action) }
}

const fn open(method: &'static str, path: &'static str) -> Route {
    Route { method, path, action: None }
}

/// All of them.
pub const ROUTES: &[Route] = &[
    // Spent by their own secret, or by a name and a password.
    open("POST", "/api/v1/setup"),
    open("POST", "/api/v1/sessions"),
    open("POST", "/api/v1/registrations"),
    open("POST", "/api/v1/invitations/accept"),
    open("POST", "/api/v1/password-resets"),
    open("POST", "/api/v1/password-resets/complete"),
    open("GET", "/api/v1/login/providers"),
    open("GET", "/api/v1/login/oidc/{name}"),
    open("GET", "/api/v1/login/oidc/callback"),
    open("POST", "/api/v1/login/second-factor"),
    open("POST", "/api/v1/login/passkey/begin"),
    open("POST", "/api/v1/login/passkey"),
    open("POST", "/api/v1/device/code"),
    open("POST", "/api/v1/device/token"),
    // Oneself.
    route("GET", "/api/v1/me", Action::SelfShow),
    route("PATCH", "/api/v1/me", Action::SelfEdit),
    route("PUT", "/api/v1/me/password", Action::PasswordChange),
    route("POST", "/api/v1/me/step-up", Action::StepUp),
    route("POST", "/api/v1/me/second-factor", Action::SecondFactorChange),
    route("POST", "/api/v1/me/second-factor/confirm", Action::SecondFactorChange),
    route("DELETE", "/api/v1/me/second-factor", Action::SecondFactorRemove),
    route("POST", "/api/v1/me/recovery-codes", Action::SecondFactorRemove),
    route("GET", "/api/v1/me/identities", Action::SelfShow),
    route("GET", "/api/v1/me/identities/link/{name}", Action::IdentityLink),
    route("DELETE", "/api/v1/me/identities/{id}", Action::IdentityLink),
    route("GET", "/api/v1/me/step-up/oidc/{name}", Action::StepUp),
    route("GET", "/api/v1/me/passkeys", Action::SelfShow),
    route("POST", "/api/v1/me/passkeys", Action::SecondFactorChange),
    route("POST", "/api/v1/me/passkeys/begin", Action::SecondFactorChange),
    route("DELETE", "/api/v1/me/passkeys/{id}", Action::SecondFactorRemove),
    route("POST", "/api/v1/me/step-up/passkey", Action::StepUp),
    // Sessions and tokens.
    route("GET", "/api/v1/sessions", Action::SessionList),
    route("DELETE", "/api/v1/sessions/current", Action::LogOut),
    route("DELETE", "/api/v1/sessions/others", Action::SessionRevoke),
    route("DELETE", "/api/v1/sessions/{id}", Action::SessionRevoke),
    route("GET", "/api/v1/tokens", Action::TokenList),
    route("POST", "/api/v1/tokens", Action::TokenCreate),
    route("GET", "/api/v1/tokens/current", Action::SelfShow),
    route("DELETE", "/api/v1/tokens/current", Action::TokenGiveUp),
    route("DELETE", "/api/v1/tokens/{id}", Action::TokenRevoke),
    route("GET", "/api/v1/device", Action::DeviceShow),
    route("POST", "/api/v1/device/approve", Action::DeviceApprove),
    route("POST", "/api/v1/device/deny", Action::DeviceApprove),
    // People.
    route("GET", "/api/v1/users", Action::UserList),
    route("POST", "/api/v1/users", Action::UserCreate),
    route("GET", "/api/v1/users/{id}", Action::UserShow),
    route("PATCH", "/api/v1/users/{id}", Action::UserEdit),
    route("PUT", "/api/v1/users/{id}/roles", Action::UserRoles),
    route("POST", "/api/v1/users/{id}/reset-link", Action::UserResetLink),
    route("DELETE", "/api/v1/users/{id}/second-factor", Action::UserSecondFactor),
    route("GET", "/api/v1/groups", Action::GroupList),
    route("POST", "/api/v1/groups", Action::GroupEdit),
    route("GET", "/api/v1/groups/{id}", Action::GroupList),
    route("PUT", "/api/v1/groups/{id}", Action::GroupEdit),
    route("DELETE", "/api/v1/groups/{id}", Action::GroupEdit),
    route("GET", "/api/v1/invitations", Action::InvitationList),
    route("POST", "/api/v1/invitations", Action::InvitationCreate),
    route("DELETE", "/api/v1/invitations/{id}", Action::InvitationRevoke),
    route("GET", "/api/v1/providers", Action::ProviderList),
    route("POST", "/api/v1/providers", Action::ProviderEdit),
    route("GET", "/api/v1/providers/{id}", Action::ProviderList),
    route("PUT", "/api/v1/providers/{id}", Action::ProviderEdit),
    route("DELETE", "/api/v1/providers/{id}", Action::ProviderEdit),
    route("POST", "/api/v1/providers/{id}/test", Action::ProviderEdit),
    // The portal.
    route("GET", "/api/v1/settings", Action::SettingsShow),
    route("PUT", "/api/v1/settings", Action::SettingsEdit),
    route("GET", "/api/v1/webhooks", Action::WebhookList),
    route("POST", "/api/v1/webhooks", Action::WebhookEdit),
    route("GET", "/api/v1/webhooks/{id}", Action::WebhookList),
    route("PUT", "/api/v1/webhooks/{id}", Action::WebhookEdit),
    route("DELETE", "/api/v1/webhooks/{id}", Action::WebhookEdit),
    route("POST", "/api/v1/webhooks/{id}/secret", Action::WebhookEdit),
    route("POST", "/api/v1/webhooks/{id}/test", Action::WebhookEdit),
    route("GET", "/api/v1/webhooks/{id}/deliveries", Action::WebhookList),
    route("GET", "/api/v1/deliveries/{id}", Action::WebhookList),
    route("POST", "/api/v1/deliveries/{id}/retry", Action::WebhookEdit),
    route("GET", "/api/v1/audit", Action::AuditRead),
    route("GET", "/api/v1/audit/export", Action::AuditRead),
    route("GET", "/api/v1/audit/head", Action::AuditRead),
    route("GET", "/api/v1/events", Action::EventFollow),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_the_routes_that_there_are() {
        let (_, document) = crate::openapi::routes_and_document();
        let there: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| key.as_str() != "parameters");
                methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
            })
            .collect();
        let told: BTreeSet<(String, String)> =
            ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
        assert_eq!(told.len(), ROUTES.len(), "a route stands twice");
        assert_eq!(there, told);
    }
}

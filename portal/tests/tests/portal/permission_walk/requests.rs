//! How each route is asked, and about what.

use culvert_portal_api::route_table::Route;
use culvert_portal_model::permission::{Access, Action};
use culvert_portal_model::scope::Scope;
use culvert_portal_tests::http::{Answer, Client, Request};
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::program::PASSWORD;
use serde_json::{Value, json};

use super::people::{Asker, Cast, Credential, send, text};

/// A version that nothing has: whoever may change the thing hears that it has changed.
const STALE: &str = "\"v999999\"";
/// `{}` in base64url: what no browser says of a passkey.
const NO_OBJECT: &str = "e30";
/// An identifier that nothing has.
const MISSING: &str = "01a00000-0000-7000-8000-000000000000";

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing in particular.
    None,
    /// A thing of the asker's.
    Own,
    /// A thing of somebody else's.
    Foreign,
    /// A thing that is not there.
    Missing,
}

/// A request.
#[derive(Debug)]
pub struct Wish {
    method: &'static str,
    path: String,
    is_versioned: bool,
    body: Option<Value>,
}

impl Wish {
    /// Sends it as somebody.
    pub fn send(&self, portal: &LivePortal, asker: &Asker) -> Answer {
        // As a browser says it of a link on a page of the portal.
        let mut headers = vec![("sec-fetch-site", "same-origin")];
        if self.is_versioned {
            headers.push(("if-match", STALE));
        }
        send(&portal.url, &asker.credential, self.method, &self.path, &headers, self.body.as_ref())
    }

    /// Sends it with nothing in it as it should be: no version, a content that is no JSON and does
    /// not claim to be.
    pub fn send_spoiled(&self, portal: &LivePortal, asker: &Asker, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::new(self.method, &format!("{}{}", portal.url, self.path));
        request = request.with_body("text/plain", "{\"no");
        if let Some((name, value)) = asker.credential.header() {
            request = request.with(name, &value);
        }
        for (name, value) in headers {
            request = request.with(name, value);
        }
        Client::new().send(&request).unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.path))
    }
}

/// What a route can be asked about.
pub fn targets(route: &Route) -> &'static [Target] {
    match route.path {
        path if !path.contains('{') => &[Target::None],
        // No identity provider is there to go to.
        path if path.contains("{name}") => &[Target::Missing],
        // Nobody who asks has an identity or a passkey, and the other two are nobody's: whoever may
        // do it at all may do it to every one.
        "/api/v1/me/identities/{id}"
        | "/api/v1/me/passkeys/{id}"
        | "/api/v1/invitations/{id}"
        | "/api/v1/providers/{id}" => &[Target::Foreign, Target::Missing],
        _ => &[Target::Own, Target::Foreign, Target::Missing],
    }
}

/// Whether things of this route belong to somebody who may do it to their own only.
pub fn has_owner(route: &Route) -> bool {
    let kinds =
        ["/sessions/", "/tokens/", "/groups/", "/users/", "/identities/", "/passkeys/", "/webhooks/", "/deliveries/"];
    let is_staffs = route.method != "GET" && ["/groups/", "/users/"].iter().any(|kind| route.path.contains(kind));
    route.path.contains("{id}") && kinds.iter().any(|kind| route.path.contains(kind)) && !is_staffs
}

/// The request for a route.
///
/// # Panics
/// If this does not know how the route is asked: say so here when you add one.
pub fn wish(route: &Route, target: Target, asker: &Asker, cast: &mut Cast) -> Wish {
    let path = match target {
        Target::None if route.path == "/api/v1/device" => {
            format!("{}?user_code={}", route.path, cast.device().user_code)
        }
        Target::None => route.path.to_owned(),
        Target::Missing => route.path.replace("{id}", MISSING).replace("{name}", "nowhere"),
        Target::Own | Target::Foreign => {
            let owner = if target == Target::Own { asker.clone() } else { cast.owner.clone() };
            let is_session = matches!(asker.credential, Credential::Session(_));
            let standing =
                Some(cast.standing_session.clone()).filter(|_| !is_session && route.path.contains("/sessions/"));
            route.path.replace("{id}", &standing.unwrap_or_else(|| thing(route, &owner, cast)))
        }
    };
    let body = (route.method != "GET" && route.method != "DELETE").then(|| body(route, cast)).flatten();
    let versioned = [
        "PATCH /api/v1/me",
        "PUT /api/v1/settings",
        "DELETE /api/v1/groups/{id}",
        "DELETE /api/v1/providers/{id}",
        "DELETE /api/v1/webhooks/{id}",
        "POST /api/v1/webhooks/{id}/secret",
    ];
    let name = format!("{} {}", route.method, route.path);
    let is_versioned =
        versioned.contains(&name.as_str()) || (["PUT", "PATCH"].contains(&route.method) && route.path.contains("{id}"));
    Wish { method: route.method, path, is_versioned, body }
}

/// A new thing of somebody's, or the one that stays.
fn thing(route: &Route, owner: &Asker, cast: &mut Cast) -> String {
    let may_own = matches!(owner.credential, Credential::Session(_)) && !owner.roles.is_empty();
    let maker = cast.maker.clone();
    if route.path.contains("/users/") {
        return if owner.user.is_empty() { cast.owner.user.clone() } else { owner.user.clone() };
    }
    if route.path.contains("/groups/") {
        let members: Vec<&String> = Some(&owner.user).filter(|user| !user.is_empty()).into_iter().collect();
        let body = json!({ "name": cast.new_name("group"), "members": members });
        return text(&cast.must(&maker, "POST", "/api/v1/groups", Some(&body)).json(), "/id");
    }
    if route.path.contains("/invitations/") {
        let body = json!({ "roles": ["user"], "days": 1 });
        return text(&cast.must(&maker, "POST", "/api/v1/invitations", Some(&body)).json(), "/invitation/id");
    }
    if route.path.contains("/providers/") {
        return cast.kept("provider", &maker, |cast, maker| {
            let body = json!({ "name": "somewhere", "title": "Somewhere", "issuer": "https://id.example.org",
                "client_id": "culvert", "accounts": "linked-only" });
            text(&cast.must(maker, "POST", "/api/v1/providers", Some(&body)).json(), "/id")
        });
    }
    if route.path.contains("/identities/") {
        return cast.owners_identity.clone();
    }
    if route.path.contains("/passkeys/") {
        return cast.holders_passkey.clone();
    }
    if route.path.contains("/webhooks/") || route.path.contains("/deliveries/") {
        return hook(route, owner, cast);
    }
    if !may_own {
        // Whoever can have no such things is asked about those of somebody who can.
        let owner = cast.owner.clone();
        return thing(route, &owner, cast);
    }
    if route.path.contains("/sessions/") {
        return cast.session_of(owner);
    }
    if route.path.contains("/tokens/") {
        // Whoever's proof is old makes no token: whoever has made it, it must be theirs.
        let fresh = if owner.has_proved { owner.credential.clone() } else { cast.fresh_session_of(owner) };
        return cast.token_of(&fresh, &[Scope::TransfersRead]).0;
    }
    panic!("{} {}: say here how one of its things is made", route.method, route.path)
}

/// A webhook of somebody's that stays, or one of its deliveries.
fn hook(route: &Route, owner: &Asker, cast: &mut Cast) -> String {
    let makes_some = owner.roles.iter().any(|role| Action::WebhookEdit.access(*role) != Access::None);
    let person = if makes_some { cast.person_behind(owner) } else { cast.owner.credential.clone() };
    let webhook = cast.kept("webhook", &person, |cast, person| {
        let body = json!({ "url": "https://hooks.example.org/", "events": ["*"], "enabled": false });
        text(&cast.must(person, "POST", "/api/v1/webhooks", Some(&body)).json(), "/webhook/id")
    });
    if route.path.contains("/webhooks/") {
        return webhook;
    }
    cast.kept("delivery", &person, |cast, person| {
        text(&cast.must(person, "POST", &format!("/api/v1/webhooks/{webhook}/test"), None).json(), "/id")
    })
}

fn body(route: &Route, cast: &mut Cast) -> Option<Value> {
    let secret = |kind: &str| format!("culvert_{kind}_{}", "A".repeat(43));
    let name = cast.new_name("walk");
    let account = json!({ "name": name, "password": PASSWORD });
    Some(match (route.method, route.path) {
        ("POST", "/api/v1/setup") => json!({ "secret": secret("lnk"), "account": account }),
        ("POST", "/api/v1/sessions") => json!({ "name": "owner", "password": "this is not the one" }),
        ("POST", "/api/v1/registrations") => json!({ "name": name, "password": "aaaaaaaaaaaaaa" }),
        ("POST", "/api/v1/invitations/accept") => json!({ "secret": secret("inv"), "account": account }),
        ("POST", "/api/v1/password-resets") => json!({ "who": "owner" }),
        ("POST", "/api/v1/password-resets/complete") => json!({ "secret": secret("lnk"), "password": PASSWORD }),
        ("PATCH", "/api/v1/me") | ("PATCH", "/api/v1/users/{id}") => json!({ "display_name": "Walker" }),
        ("PUT", "/api/v1/me/password") => json!({ "current": "this is not the one", "password": "aaaaaaaaaaaaaa" }),
        ("POST", "/api/v1/me/step-up") => json!({ "password": "this is not the one" }),
        ("POST", "/api/v1/me/second-factor" | "/api/v1/me/recovery-codes" | "/api/v1/users/{id}/reset-link") => {
            return None;
        }
        ("POST", "/api/v1/me/second-factor/confirm" | "/api/v1/login/second-factor") => json!({ "code": "000000" }),
        ("POST", "/api/v1/me/passkeys/begin" | "/api/v1/login/passkey/begin") => return None,
        ("POST", "/api/v1/me/passkeys") => json!({
            "name": name, "credential": { "response": { "clientDataJSON": NO_OBJECT, "attestationObject": NO_OBJECT } }
        }),
        ("POST", "/api/v1/login/passkey" | "/api/v1/me/step-up/passkey") => json!({ "credential": { "id": "walk",
            "response": { "clientDataJSON": NO_OBJECT, "authenticatorData": NO_OBJECT, "signature": NO_OBJECT } } }),
        ("POST", "/api/v1/tokens") => json!({ "name": name, "scopes": ["people:read"], "days": 100_000 }),
        ("POST", "/api/v1/users") => json!({ "name": name, "roles": [], "email": "no address" }),
        ("PUT", "/api/v1/users/{id}/roles") => json!({ "roles": ["user"] }),
        ("POST", "/api/v1/groups") | ("PUT", "/api/v1/groups/{id}") => json!({ "name": name, "members": [] }),
        ("POST", "/api/v1/invitations") => json!({ "roles": ["user"], "days": 1 }),
        ("PUT", "/api/v1/settings") => {
            serde_json::to_value(culvert_portal_model::settings::Settings::default()).ok()?
        }
        ("POST", "/api/v1/device/code") => json!({ "client": "walk", "scopes": ["people:read"] }),
        ("POST", "/api/v1/device/token") => json!({ "device_code": cast.device().device_code }),
        ("POST", "/api/v1/device/approve") => {
            json!({ "user_code": cast.device().user_code, "scopes": ["people:read"], "days": 100_000 })
        }
        ("POST", "/api/v1/device/deny") => json!({ "user_code": cast.device().user_code }),
        ("POST", "/api/v1/providers") | ("PUT", "/api/v1/providers/{id}") => json!({
            "name": name, "title": "Walk", "issuer": "https://id.example.org/walk", "client_id": "culvert",
            "accounts": "linked-only", "scopes": ["\u{e4}"],
        }),
        ("POST", "/api/v1/webhooks") | ("PUT", "/api/v1/webhooks/{id}") => {
            json!({ "url": "https://hooks.example.org/", "events": ["nothing like this"], "enabled": false })
        }
        ("POST", path) if ["/webhooks/", "/deliveries/", "/providers/"].iter().any(|part| path.contains(part)) => {
            return None;
        }
        (method, path) => panic!("{method} {path}: say here what it is sent"),
    })
}

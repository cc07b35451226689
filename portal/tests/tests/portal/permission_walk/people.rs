//! Those who ask: people of every role, with every kind of credential, and those who have none.

use std::collections::BTreeMap;

use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_tests::http::{Answer, Client, Request};
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::program::PASSWORD;
use serde_json::{Value, json};

/// What somebody shows.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing.
    Nothing,
    /// A session's secret.
    Session(String),
    /// A session's secret that is no longer good.
    BadSession(String),
    /// A token and its scopes.
    Token(String, Vec<Scope>),
    /// A token that is no longer good, or never was.
    BadToken(String),
}

impl Credential {
    /// The header that shows it.
    pub fn header(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Nothing => None,
            Self::Session(secret) | Self::BadSession(secret) => Some(("cookie", format!("culvert={secret}"))),
            Self::Token(secret, _) | Self::BadToken(secret) => Some(("authorization", format!("Bearer {secret}"))),
        }
    }
}

/// Somebody who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// For people who read the test's output.
    pub name: String,
    /// Their account.
    pub user: String,
    /// What their account may do.
    pub roles: Vec<Role>,
    /// What they show.
    pub credential: Credential,
    /// Whether they have proved a moment ago who they are.
    pub has_proved: bool,
}

/// Everybody.
#[derive(Debug)]
pub struct Cast {
    /// Those who ask.
    pub askers: Vec<Asker>,
    /// An administrator who makes what is asked about, and never asks.
    pub maker: Credential,
    /// Somebody whose things are asked about, and who never asks.
    pub owner: Asker,
    /// A session of the owner's that nobody who asks with a token can end.
    pub standing_session: String,
    /// An identity of the owner's.
    pub owners_identity: String,
    /// A passkey of somebody who is not asked for it, and never asks.
    pub holders_passkey: String,
    kept: BTreeMap<String, String>,
    url: String,
    count: u32,
}

/// A device that waits to be let in.
#[derive(Debug)]
pub struct Device {
    /// What it asks with.
    pub device_code: String,
    /// What it shows.
    pub user_code: String,
}

impl Cast {
    /// Makes them.
    pub fn make(portal: &LivePortal) -> Self {
        portal.database().take_limits_off();
        let _ = portal.with_admin();
        let maker = Credential::Session(log_in(&portal.url, "ada"));
        let nobody = Asker {
            name: "nobody".to_owned(),
            user: String::new(),
            roles: Vec::new(),
            credential: Credential::Nothing,
            has_proved: false,
        };
        let mut cast = Self {
            askers: Vec::new(),
            maker,
            owner: nobody.clone(),
            standing_session: String::new(),
            owners_identity: "01a00000-0000-7000-8000-000000000001".to_owned(),
            holders_passkey: "01a00000-0000-7000-8000-000000000002".to_owned(),
            kept: BTreeMap::new(),
            url: portal.url.clone(),
            count: 0,
        };
        cast.open_registration();
        cast.owner = cast.person("owner", &[Role::User]);
        cast.standing_session = cast.session_of(&cast.owner);
        cast.link_owners_identity(portal);
        cast.give_holder_a_passkey(portal);
        let never = Credential::BadToken(format!("culvert_pat_{}", "A".repeat(43)));
        cast.askers = vec![nobody.clone(), Asker { name: "a made up token".to_owned(), credential: never, ..nobody }];
        for role in Role::ALL {
            let person = cast.person(role.word(), &[role]);
            cast.askers.push(person);
        }
        let roleless = cast.person("roleless", &[]);
        let several = cast.person("several", &[Role::User, Role::Auditor]);
        cast.askers.extend([roleless, several]);
        cast.add_tokens();
        cast.add_those_whose_proof_is_old(portal);
        cast.add_those_who_are_out();
        cast
    }

    /// One of those who ask.
    pub fn asker(&self, name: &str) -> Asker {
        self.askers.iter().find(|asker| asker.name == name).unwrap_or_else(|| panic!("no {name}")).clone()
    }

    /// A name that nobody has yet.
    pub fn new_name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{}", self.count)
    }

    /// Sends something as somebody, who must succeed.
    #[track_caller]
    pub fn must(&self, who: &Credential, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = send(&self.url, who, method, path, &[], body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// Another session of somebody.
    pub fn session_of(&self, asker: &Asker) -> String {
        let body = json!({ "name": asker.name, "password": PASSWORD });
        let made = self.must(&Credential::Nothing, "POST", "/api/v1/sessions", Some(&body));
        text(&made.json(), "/session/id")
    }

    /// Another session of somebody, who has just logged in.
    pub fn fresh_session_of(&self, asker: &Asker) -> Credential {
        Credential::Session(log_in(&self.url, &asker.name))
    }

    /// A new token of somebody who has logged in: its identifier and secret.
    pub fn token_of(&mut self, who: &Credential, scopes: &[Scope]) -> (String, String) {
        let body = json!({ "name": "walk", "scopes": scopes, "days": 1 });
        let made = self.must(who, "POST", "/api/v1/tokens", Some(&body)).json();
        (text(&made, "/token/id"), text(&made, "/secret"))
    }

    /// A thing of a kind and of somebody that is made once.
    pub fn kept(&mut self, kind: &str, of: &Credential, make: impl FnOnce(&mut Self, &Credential) -> String) -> String {
        let name = format!("{kind} {of:?}");
        if let Some(id) = self.kept.get(&name) {
            return id.clone();
        }
        let id = make(self, of);
        self.kept.insert(name, id.clone());
        id
    }

    /// The session of the person whose token somebody has, or their own.
    pub fn person_behind(&self, asker: &Asker) -> Credential {
        let is_theirs = |other: &&Asker| other.user == asker.user && matches!(other.credential, Credential::Session(_));
        self.askers.iter().find(is_theirs).unwrap_or(&self.owner).credential.clone()
    }

    /// A new device that waits to be let in.
    pub fn device(&self) -> Device {
        let body = json!({ "client": "walk", "scopes": ["people:read"] });
        let made = self.must(&Credential::Nothing, "POST", "/api/v1/device/code", Some(&body)).json();
        Device { device_code: text(&made, "/device_code"), user_code: text(&made, "/user_code") }
    }

    /// As if the owner had logged in at a provider, which no test of permissions needs.
    fn link_owners_identity(&self, portal: &LivePortal) {
        let body = json!({ "name": "elsewhere", "title": "Elsewhere", "issuer": "https://elsewhere.example.org",
            "client_id": "culvert", "accounts": "linked-only" });
        let provider = text(&self.must(&self.maker, "POST", "/api/v1/providers", Some(&body)).json(), "/id");
        portal.database().execute(&format!(
            "INSERT INTO identities (id, issuer, subject, user_id, provider_id, linked_at, last_used_at) \
             VALUES ('{}', 'https://elsewhere.example.org', 'owner', '{}', '{provider}', 0, 0)",
            self.owners_identity, self.owner.user
        ));
    }

    /// As if somebody had registered a passkey, for which it takes an authenticator.
    fn give_holder_a_passkey(&mut self, portal: &LivePortal) {
        let holder = self.person("holder", &[Role::User]);
        let bytes = if portal.options.database.is_some() { "'\\x00'" } else { "X'00'" };
        portal.database().execute(&format!(
            "INSERT INTO passkeys (id, user_id, name, credential_id, public_key, counter, created_at) \
             VALUES ('{}', '{}', 'key', 'key', {bytes}, 0, 0)",
            self.holders_passkey, holder.user
        ));
    }

    fn open_registration(&self) {
        let settings = self.must(&self.maker, "GET", "/api/v1/settings", None);
        let mut body = settings.json();
        body["registration"] = json!("approval");
        let tag = settings.header("etag").expect("a version").to_owned();
        let put = send(&self.url, &self.maker, "PUT", "/api/v1/settings", &[("if-match", &tag)], Some(&body));
        assert_eq!(put.status, 200, "{}", put.text());
    }

    fn person(&mut self, name: &str, roles: &[Role]) -> Asker {
        let body = json!({ "name": name, "roles": roles, "password": PASSWORD });
        let made = self.must(&self.maker, "POST", "/api/v1/users", Some(&body));
        Asker {
            name: name.to_owned(),
            user: text(&made.json(), "/id"),
            roles: roles.to_vec(),
            credential: Credential::Session(log_in(&self.url, name)),
            has_proved: true,
        }
    }

    /// A token of each scope alone and of all, of an administrator and of a user.
    fn add_tokens(&mut self) {
        for owner in [self.asker("admin"), self.asker("user")] {
            let alone = Scope::ALL.iter().map(|scope| (format!("{scope}"), vec![*scope]));
            let all: Vec<(String, Vec<Scope>)> =
                alone.chain([("all scopes".to_owned(), Scope::ALL.to_vec())]).collect();
            for (name, scopes) in all {
                let (_, secret) = self.token_of(&owner.credential, &scopes);
                let name = format!("{} with a token for {name}", owner.name);
                let credential = Credential::Token(secret, scopes);
                self.askers.push(Asker { name, credential, has_proved: false, ..owner.clone() });
            }
        }
    }

    /// Sessions whose last proof was yesterday.
    fn add_those_whose_proof_is_old(&mut self, portal: &LivePortal) {
        for (name, role) in [("tired-admin", Role::Admin), ("tired-user", Role::User)] {
            let person = self.person(name, &[role]);
            let age =
                format!("UPDATE sessions SET proved_at = proved_at - 86400000000 WHERE user_id = '{}'", person.user);
            portal.database().execute(&age);
            self.askers.push(Asker { has_proved: false, ..person });
        }
    }

    /// Somebody who was let in and is no longer: by session and by token.
    fn add_those_who_are_out(&mut self) {
        let person = self.person("dismissed", &[Role::Admin]);
        let (_, token) = self.token_of(&person.credential, &Scope::ALL);
        let path = format!("/api/v1/users/{}", person.user);
        let tag = self.must(&self.maker, "GET", &path, None).header("etag").expect("a version").to_owned();
        let body = json!({ "state": "deactivated" });
        let done = send(&self.url, &self.maker, "PATCH", &path, &[("if-match", &tag)], Some(&body));
        assert_eq!(done.status, 200, "{}", done.text());
        let Credential::Session(secret) = person.credential.clone() else { panic!("a session") };
        let by_session = Asker { credential: Credential::BadSession(secret), ..person.clone() };
        let by_token = Asker { credential: Credential::BadToken(token), ..person };
        self.askers.extend([by_session, by_token]);
    }
}

/// Sends a request with a credential, and reads the head of the answer and a body that ends.
pub fn send(
    url: &str,
    who: &Credential,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let mut request = Request::new(method, &format!("{url}{path}"));
    if let Some((name, value)) = who.header() {
        request = request.with(name, &value);
    }
    for (name, value) in headers {
        request = request.with(name, value);
    }
    if let Some(body) = body {
        request = request.with_body("application/json", body.to_string());
    }
    let mut client = Client::new();
    let sent =
        if path == "/api/v1/events" { client.open(&request).map(|open| open.answer) } else { client.send(&request) };
    sent.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// A text in a document.
pub fn text(document: &Value, place: &str) -> String {
    document.pointer(place).and_then(Value::as_str).unwrap_or_else(|| panic!("no {place} in {document}")).to_owned()
}

fn log_in(url: &str, name: &str) -> String {
    let body = json!({ "name": name, "password": PASSWORD });
    let answer = send(url, &Credential::Nothing, "POST", "/api/v1/sessions", &[], Some(&body));
    let cookie = answer.header("set-cookie").unwrap_or_else(|| panic!("{name}: {}", answer.text()));
    cookie.trim_start_matches("culvert=").split(';').next().unwrap_or_default().to_owned()
}

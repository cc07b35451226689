//! The portal's service in this process, on either database, with a clock that the test moves, mail
//! that it reads, and answers of other services that it writes.

use std::future::Future;
use std::sync::Arc;

use culvert_portal_model::audit::Who;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::{AccountState, User};
use culvert_portal_model::role::Role;
use culvert_portal_seams::clock::{Clock as _, ManualClock};
use culvert_portal_seams::http::ScriptedHttp;
use culvert_portal_seams::mail::MemoryMailer;
use culvert_portal_seams::randomness::SystemRandomness;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts::{self, NewUser, UserEdit, UserFilter};
use culvert_portal_service::people::credentials;
use culvert_portal_service::people::login::{self, Attempt, LoggedIn};
use culvert_portal_service::people::passwords::{Cost, Passwords};
use culvert_portal_service::portal::Portal;
use culvert_portal_service::sealing::Sealer;
use culvert_portal_service::world::{Options, Seams};
use culvert_portal_store::Database;
use tempfile::TempDir;

use crate::postgres::Postgres;
use crate::process;
use crate::sql::Sql;

/// The password of everybody in a room.
pub const PASSWORD: &str = "analytical engine one";
/// Where people in a room log in from.
pub const ADDRESS: &str = "192.0.2.7";
/// The cheapest hash: these tests are not about its cost.
const COST: Cost = Cost { memory_kib: 8, passes: 1 };

/// A portal's service and its world.
#[derive(Debug)]
pub struct Room {
    /// The portal.
    pub portal: Arc<Portal>,
    /// Its clock, which stands until it is moved.
    pub clock: Arc<ManualClock>,
    /// The mail that it sent.
    pub mailer: Arc<MemoryMailer>,
    /// What other services answer.
    pub http: Arc<ScriptedHttp>,
    /// The database's address.
    pub url: String,
    _folder: TempDir,
}

impl Room {
    /// One on SQLite.
    ///
    /// # Panics
    /// If the database cannot be made.
    pub async fn on_sqlite() -> Self {
        let folder = process::folder();
        let url = format!("sqlite:{}", folder.path().join("portal.db").display());
        Self::on(url, folder).await
    }

    /// One on PostgreSQL, if there is any.
    pub async fn on_postgresql() -> Option<Self> {
        let made = tokio::task::spawn_blocking(|| Postgres::shared().map(Postgres::new_database)).await;
        let url = made.expect("making a database does not panic")?;
        Some(Self::on(url, process::folder()).await)
    }

    /// Another portal on the same database: another process, as far as the database knows.
    ///
    /// # Panics
    /// If the database cannot be opened.
    pub async fn second_portal(&self) -> Arc<Portal> {
        let seams = Seams {
            clock: self.clock.clone(),
            randomness: Arc::new(SystemRandomness),
            mailer: self.mailer.clone(),
            http: self.http.clone(),
        };
        open(&self.url, seams).await
    }

    async fn on(url: String, folder: TempDir) -> Self {
        let clock = Arc::new(ManualClock::new("2026-12-01T12:00:00Z".parse().expect("a time")));
        let (mailer, http) = (Arc::new(MemoryMailer::default()), Arc::new(ScriptedHttp::default()));
        let seams = Seams {
            clock: clock.clone(),
            randomness: Arc::new(SystemRandomness),
            mailer: mailer.clone(),
            http: http.clone(),
        };
        let portal = open(&url, seams).await;
        Self { portal, clock, mailer, http, url, _folder: folder }
    }

    /// Makes an account with these roles and [`PASSWORD`].
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn person(&self, name: &str, roles: &[Role]) -> User {
        let new = NewUser {
            name: name.to_owned(),
            email: Some(format!("{name}@example.org")),
            roles: roles.to_vec(),
            password: Some(PASSWORD.to_owned()),
            ..NewUser::default()
        };
        accounts::create(&self.portal, &Actor::host(), &new).await.expect("an account can be made")
    }

    /// Logs somebody in who has no second factor.
    ///
    /// # Panics
    /// If that fails.
    pub async fn log_in(&self, name: &str) -> LoggedIn {
        let attempt = attempt(name, PASSWORD);
        login::log_in(&self.portal, &attempt).await.unwrap_or_else(|fault| panic!("{name} logs in: {fault:?}"))
    }

    /// Somebody who has just logged in, as the service sees them.
    ///
    /// # Panics
    /// If that fails.
    pub async fn actor(&self, name: &str) -> Actor {
        let logged_in = self.log_in(name).await;
        Actor {
            who: Who::Session { user: logged_in.user.id, session: logged_in.session.id },
            roles: logged_in.user.roles,
            has_second_factor: logged_in.user.second_factor,
            proved_at: Some(self.clock.now()),
            address: Some(ADDRESS.to_owned()),
            ..Actor::host()
        }
    }
}

impl Room {
    /// Whether a session's secret is somebody now.
    ///
    /// # Panics
    /// If the database fails.
    pub async fn portal_has(&self, secret: &str) -> bool {
        let found = credentials::who_has_session(&self.portal, secret, ADDRESS).await;
        found.expect("the database answers").is_some()
    }

    /// The database, past the portal.
    #[must_use]
    pub fn sql(&self) -> Sql {
        match self.url.strip_prefix("sqlite:") {
            Some(path) => Sql::File(path.into()),
            None => Sql::Server(self.url.clone()),
        }
    }

    /// Somebody's account.
    ///
    /// # Panics
    /// If there is none of that name.
    pub async fn user(&self, name: &str) -> User {
        let page = accounts::list(&self.portal, &Actor::host(), &UserFilter::default(), &PageRequest::default()).await;
        let users = page.expect("the database answers").items;
        users.into_iter().find(|user| user.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Ends everything by which somebody gets in.
    ///
    /// # Panics
    /// If that fails.
    pub async fn deactivate(&self, actor: &Actor, user: &User) {
        let edit = UserEdit { state: Some(AccountState::Deactivated), ..UserEdit::default() };
        accounts::edit(&self.portal, actor, user.id, &edit, user.version).await.expect("an account can be deactivated");
    }
}

/// An attempt to log in from [`ADDRESS`].
#[must_use]
pub fn attempt<'a>(name: &'a str, password: &'a str) -> Attempt<'a> {
    Attempt { name, password, code: None, address: ADDRESS, agent: "test", request: None }
}

/// Runs a test on SQLite.
///
/// # Panics
/// If the test does.
pub fn on_sqlite<F: Future<Output = ()>>(test: impl FnOnce(Room) -> F) {
    runtime().block_on(async { test(Room::on_sqlite().await).await });
}

/// Runs a test on PostgreSQL, if there is any.
///
/// # Panics
/// If the test does.
pub fn on_postgresql<F: Future<Output = ()>>(test: impl FnOnce(Room) -> F) {
    runtime().block_on(async {
        if let Some(room) = Room::on_postgresql().await {
            test(room).await;
        }
    });
}

/// Makes two tests of one: on SQLite, and on PostgreSQL.
#[macro_export]
macro_rules! on_both_databases {
    ($($(#[$doc:meta])* async fn $name:ident($room:ident) $body:block)*) => {
        $($(#[$doc])* mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn test($room: $crate::room::Room) $body

            #[test]
            fn on_sqlite() {
                $crate::room::on_sqlite(test);
            }

            #[test]
            fn on_postgresql() {
                $crate::room::on_postgresql(test);
            }
        })*
    };
}

async fn open(url: &str, seams: Seams) -> Arc<Portal> {
    let database = Database::open(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let passwords = Passwords::new(COST, &SystemRandomness).expect("the cheapest hash");
    let options = Options { public_url: "https://portal.example.org".to_owned(), password_list: None };
    let portal = Portal::open(database, seams, Sealer::new(&[7; 32], &[]), passwords, options).await;
    Arc::new(portal.expect("the portal opens"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

//! The portal: its database, its seams to the world, and what it keeps in memory.

use std::sync::atomic::AtomicI64;

use culvert_portal_model::audit::Who;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::Action;
use culvert_portal_model::settings::Settings;
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::Database;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::actor::{Actor, Reach};
use crate::credential_cache::Credentials;
use crate::current_settings::CurrentSettings;
use crate::fault::Fault;
use crate::mail_login::MailLogin;
use crate::oidc::cache::ProviderCache;
use crate::people::passwords::Passwords;
use crate::sealing::Sealer;
use crate::signing::SigningKey;
use crate::tally::Tally;
use crate::world::{Options, Seams};

/// The portal.
#[derive(Debug)]
pub struct Portal {
    /// Its tables.
    pub database: Database,
    /// Its touch with the world.
    pub seams: Seams,
    /// Seals what the database must not show.
    pub sealer: Sealer,
    /// Signs the audit trail.
    pub signing: SigningKey,
    /// What it was told when it started.
    pub options: Options,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// What credentials were found to be a moment ago.
    pub credentials: Credentials,
    /// The settings, as they were a moment ago.
    pub settings: CurrentSettings,
    /// What is known of identity providers.
    pub providers: ProviderCache,
    /// The number of the last entry of the audit trail that this portal has seen.
    pub end_seen: AtomicI64,
    /// Rung after each commit that said something: the sequencer listens.
    pub said: Notify,
    /// Rung after events got their numbers: those who follow listen.
    pub numbered: Notify,
    /// Rung when a delivery to a webhook is due: whoever delivers listens.
    pub due: Notify,
    /// Whether the mail server lets the portal in.
    pub mail_login: MailLogin,
    /// What operators count.
    pub tally: Tally,
}

impl Portal {
    /// Opens the portal on a database: makes its signing key if it has none, and checks that the
    /// sealing key is the one that the database was sealed under.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn open(
        database: Database,
        seams: Seams,
        sealer: Sealer,
        passwords: Passwords,
        options: Options,
    ) -> Result<Self, Fault> {
        let signing = SigningKey::of_database(&database, &seams, &sealer).await?;
        let settings = CurrentSettings::default();
        let portal = Self {
            database,
            seams,
            sealer,
            signing,
            options,
            passwords,
            credentials: Credentials::default(),
            settings,
            providers: ProviderCache::default(),
            end_seen: AtomicI64::new(0),
            said: Notify::new(),
            numbered: Notify::new(),
            due: Notify::new(),
            mail_login: MailLogin::default(),
            tally: Tally::default(),
        };
        Ok(portal)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`Fault`] if it does not.
    pub async fn ping(&self) -> Result<(), Fault> {
        Ok(self.database.ping().await?)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.seams.clock.now()
    }

    /// A new identifier.
    #[must_use]
    pub fn new_id(&self) -> Id {
        Id::new(self.now(), &bytes(&*self.seams.randomness))
    }

    /// The settings.
    ///
    /// # Errors
    /// [`Fault`] if the database cannot be read.
    pub async fn current_settings(&self) -> Result<Settings, Fault> {
        self.settings.get(&self.database, self.now()).await
    }

    /// Whether, and on whose things, somebody may do something.
    ///
    /// # Errors
    /// See [`Actor::reach`] and [`Actor::check_second_factor`].
    pub async fn permit(&self, actor: &Actor, action: Action) -> Result<Reach, Fault> {
        if matches!(actor.who, Who::Host | Who::Portal) {
            return Ok(Reach::Any);
        }
        let settings = self.current_settings().await?;
        if settings.second_factor_for_staff {
            actor.check_second_factor(action)?;
        }
        actor.reach(action, self.now(), settings.step_up_seconds)
    }
}

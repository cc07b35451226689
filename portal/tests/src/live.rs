//! The real program on either database, with its database at hand.

use std::ops::Deref;

use crate::direct::Direct;
use crate::postgres::Postgres;
use crate::program::{PortalOptions, RunningPortal};

/// A portal that runs, and how it was started.
#[derive(Debug)]
pub struct LivePortal {
    /// The portal.
    pub portal: RunningPortal,
    /// How it was started.
    pub options: PortalOptions,
}

impl Deref for LivePortal {
    type Target = RunningPortal;

    fn deref(&self) -> &RunningPortal {
        &self.portal
    }
}

/// Where it leaves its mail: nobody listens there.
const MAIL: [&str; 4] = ["--smtp", "smtp+plain://127.0.0.1:9", "--mail-from", "portal@example.org"];

impl LivePortal {
    /// One on SQLite, with further arguments.
    ///
    /// # Panics
    /// If it does not serve.
    #[must_use]
    pub fn on_sqlite(arguments: &[&str]) -> Self {
        Self::with(None, arguments)
    }

    /// One on PostgreSQL, if there is any, with further arguments.
    ///
    /// # Panics
    /// If it does not serve.
    #[must_use]
    pub fn on_postgresql(arguments: &[&str]) -> Option<Self> {
        Some(Self::with(Some(Postgres::shared()?.new_database()), arguments))
    }

    /// Its database.
    ///
    /// # Panics
    /// If it cannot be reached.
    #[must_use]
    pub fn database(&self) -> Direct {
        let sqlite = || format!("sqlite:{}", self.state.join("portal.db").display());
        Direct::connect(&self.options.database.clone().unwrap_or_else(sqlite))
    }

    fn with(database: Option<String>, arguments: &[&str]) -> Self {
        let arguments = MAIL.iter().chain(arguments).map(|&text| text.to_owned()).collect();
        let options = PortalOptions { database, arguments, ..PortalOptions::default() };
        Self { portal: RunningPortal::start(&options), options }
    }
}

/// Makes two tests of one that takes a [`LivePortal`]: on SQLite, and on PostgreSQL.
#[macro_export]
macro_rules! live_on_both_databases {
    ($($(#[$attribute:meta])* fn $name:ident($portal:ident) $body:block)*) => {
        $(mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn test($portal: $crate::live::LivePortal) $body

            #[test]
            $(#[$attribute])*
            fn on_sqlite() {
                test($crate::live::LivePortal::on_sqlite(&[]));
            }

            #[test]
            $(#[$attribute])*
            fn on_postgresql() {
                if let Some(portal) = $crate::live::LivePortal::on_postgresql(&[]) {
                    test(portal);
                }
            }
        })*
    };
}

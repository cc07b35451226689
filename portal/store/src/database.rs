//! Connections to the database, and transactions.
//!
//! Writing transactions of SQLite begin `IMMEDIATE` on one connection: one that reads first and
//! writes later would fail at once when another commit came between, whatever the busy timeout.
//! They take turns there (`writer.rs`). PostgreSQL has as many writers as
//! connections.

use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Executor as _, Transaction};

use crate::error::StoreError;
use crate::kind::Kind;
use crate::writer::{Turn, Writer};
use crate::{migrations, row};

/// Readers of SQLite: more than the cores that a portal's host usually has gain nothing.
const SQLITE_READERS: u32 = 4;
/// Connections to PostgreSQL of one portal. Its default limit is 100 for all.
const POSTGRESQL_CONNECTIONS: u32 = 16;
/// How long a transaction waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection to a file that was not used for so long is asked whether it is there still. One to
/// a server is asked every time: after a cut, each dead one would fail a request otherwise.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The database.
#[derive(Debug, Clone)]
pub struct Database {
    kind: Kind,
    readers: AnyPool,
    writers: AnyPool,
    /// Of SQLite.
    writer: Option<Writer>,
}

impl Database {
    /// Opens `sqlite:PATH` (made if it is not there) or `postgresql://…`, and brings the schema up
    /// to date.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let mut first = first_connection(&making(url)).await?;
        prepare(kind_of(url), &mut first).await?;
        first.close().await?;
        Self::connect(&making(url)).await?.brought_up_to_date().await
    }

    /// Opens the database of a portal that has been there before, and brings the schema up to
    /// date. Nothing is made, and nothing is changed in what is another program's.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoPortal`] if no portal has used it.
    pub async fn open_existing(url: &str) -> Result<Self, StoreError> {
        let mut first = first_connection(url).await?;
        let is_of_portal = migrations::were_run(kind_of(url), &mut first).await?;
        first.close().await?;
        if !is_of_portal {
            return Err(StoreError::NoPortal);
        }
        Self::connect(url).await?.brought_up_to_date().await
    }

    async fn brought_up_to_date(self) -> Result<Self, StoreError> {
        migrations::migrator(self.kind).run(&self.writers).await.map_err(migrations::failure)?;
        Ok(self)
    }

    async fn connect(url: &str) -> Result<Self, StoreError> {
        let kind = kind_of(url);
        let options = |connections| {
            let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
            options
                .after_connect(move |connection, _| Box::pin(prepare(kind, connection)))
                .test_before_acquire(false)
                .before_acquire(move |connection, used| {
                    Box::pin(async move {
                        if kind == Kind::Postgresql || used.idle_for >= TRUSTED_FOR {
                            connection.ping().await?;
                        }
                        Ok(!connection.is_in_transaction())
                    })
                })
        };
        match kind {
            Kind::Sqlite => {
                // The writer first: it makes the file and its journal.
                let writers = options(1).connect(url).await?;
                let readers = options(SQLITE_READERS).connect_lazy(url)?;
                let writer = Some(Writer::start(writers.clone()));
                Ok(Self { kind, readers, writers, writer })
            }
            Kind::Postgresql => {
                let writers = options(POSTGRESQL_CONNECTIONS).connect(url).await?;
                Ok(Self { kind, readers: writers.clone(), writers, writer: None })
            }
        }
    }

    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// A connection for single questions; each sees what is committed when it is asked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self) -> Result<Reading, StoreError> {
        Ok(Reading(self.readers.acquire().await?))
    }

    /// Begins a transaction that writes. Dropped without [`Writing::commit`], it changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write(&self) -> Result<Writing, StoreError> {
        if let Some(writer) = &self.writer {
            return Ok(Writing(Change::Turn(writer.turn(ACQUIRE_TIMEOUT).await?)));
        }
        let writers = self.writers.clone();
        // As a task: a future that is dropped while its BEGIN is on the wire would give back a
        // connection inside a transaction (decisions/0087). What the task has begun and nobody
        // takes any more is rolled back.
        let begun = tokio::spawn(async move { writers.begin().await });
        let transaction = begun.await.map_err(|error| StoreError::Failed(error.to_string()))??;
        Ok(Writing(Change::Transaction(transaction)))
    }

    /// Whether a question is answered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(self.read().await?.connection()).await?;
        Ok(())
    }

    /// Writes a copy of a SQLite database as of now, while others go on writing.
    ///
    /// # Errors
    /// [`StoreError`]; also if the database is not a file.
    pub async fn back_up_into(&self, path: &str) -> Result<(), StoreError> {
        if self.kind != Kind::Sqlite {
            return Err(StoreError::Failed("a PostgreSQL database is backed up with pg_dump".to_owned()));
        }
        sqlx::query("VACUUM INTO $1").bind(path.to_owned()).execute(self.read().await?.connection()).await?;
        Ok(())
    }

    /// How many connections other portals and commands have to this database, on a server.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connections_of_others(&self) -> Result<i64, StoreError> {
        if self.kind == Kind::Sqlite {
            return Ok(0);
        }
        let mut reading = self.read().await?;
        let query = sqlx::query(
            "SELECT COUNT(*) AS count FROM pg_stat_activity WHERE application_name = 'culvert-portal' \
             AND datname = current_database()",
        );
        let all = row::number(&query.fetch_one(reading.connection()).await?, "count")?;
        Ok(all - i64::from(self.writers.size()))
    }

    /// Ends all connections, after what runs on them.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }
}

/// Something that questions can be asked on.
pub trait Reads: Send {
    /// The connection.
    fn connection(&mut self) -> &mut AnyConnection;
}

/// A connection for single questions.
#[derive(Debug)]
pub struct Reading(PoolConnection<Any>);

impl Reads for Reading {
    fn connection(&mut self) -> &mut AnyConnection {
        &mut self.0
    }
}

/// A transaction that writes.
#[derive(Debug)]
pub struct Writing(Change);

#[derive(Debug)]
enum Change {
    /// Of SQLite.
    Turn(Turn),
    /// Of PostgreSQL.
    Transaction(Transaction<'static, Any>),
}

impl Writing {
    /// Makes all of it true.
    ///
    /// # Errors
    /// [`StoreError`]. If the connection was lost, nobody knows whether it is.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.0 {
            Change::Turn(turn) => turn.keep().await,
            Change::Transaction(transaction) => Ok(transaction.commit().await?),
        }
    }

    /// Which database it is in.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.0 {
            Change::Turn(_) => Kind::Sqlite,
            Change::Transaction(_) => Kind::Postgresql,
        }
    }
}

impl Reads for Writing {
    fn connection(&mut self) -> &mut AnyConnection {
        match &mut self.0 {
            Change::Turn(turn) => turn.connection(),
            Change::Transaction(transaction) => transaction,
        }
    }
}

fn kind_of(url: &str) -> Kind {
    if url.starts_with("sqlite:") { Kind::Sqlite } else { Kind::Postgresql }
}

/// An address under which SQLite makes the file.
fn making(url: &str) -> String {
    if kind_of(url) == Kind::Sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() }
}

/// A connection outside of the pool: that would try again what no other try mends, and in the end
/// say only that its time is over.
async fn first_connection(url: &str) -> Result<AnyConnection, StoreError> {
    sqlx::any::install_default_drivers();
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, AnyConnection::connect(url)).await;
    let silent = |_| StoreError::unreachable(format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs()));
    Ok(connected.map_err(silent)??)
}

async fn prepare(kind: Kind, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let statement = match kind {
        // FULL: what was answered as done is on the disk. decisions/0087 has what it costs.
        Kind::Sqlite => {
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
             PRAGMA busy_timeout = 5000; PRAGMA journal_size_limit = 67108864;"
        }
        // The second is a net below the tasks that no disconnect drops: a transaction that is left
        // open would hold its locks.
        Kind::Postgresql => {
            "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '30s'; \
             SET lock_timeout = '10s'; SET application_name = 'culvert-portal';"
        }
    };
    connection.execute(statement).await?;
    Ok(())
}

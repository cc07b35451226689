//! What a database answers when it does not do what it was asked.

/// Why something was not read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A name or key that must be unique is taken.
    #[error("it is there already")]
    Taken,
    /// Others hold what this needs; the whole transaction may be repeated.
    #[error("the database is busy")]
    Busy,
    /// There is no room on the database's disk.
    #[error("the database's disk is full")]
    Full,
    /// The database does not answer now: a server that cannot be reached, a file that cannot be
    /// used.
    #[error("{0}")]
    Unavailable(String),
    /// No portal has used the database.
    #[error("no portal has used it: a portal makes its tables when it serves for the first time")]
    NoPortal,
    /// A newer portal has made this database.
    #[error("the database has version {found}, this program knows versions up to {known}: use a newer program")]
    Newer {
        /// Of the database.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// A row holds what this program never writes.
    #[error("the database holds a {what} that cannot be read: {value}")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// A server that does not answer, and why.
    pub(crate) fn unreachable(cause: impl std::fmt::Display) -> Self {
        Self::Unavailable(format!("the database cannot be reached: {cause}"))
    }

    /// Whether another try of the whole transaction may succeed.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable(_) | Self::Full)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(told) if told.is_unique_violation() => Self::Taken,
            // The library's own text of it goes on with a line of PostgreSQL's source.
            sqlx::Error::Database(told) => of_code(told.code().as_deref().unwrap_or(""), told.message()),
            sqlx::Error::Io(cause) => Self::unreachable(cause),
            sqlx::Error::PoolTimedOut => {
                Self::unreachable("all connections are in use, or no new one was made in time")
            }
            sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::unreachable(&error)
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// SQLite's result codes are numbers (sqlite3.h), PostgreSQL's have five characters (its manual,
/// appendix A).
fn of_code(code: &str, message: &str) -> StoreError {
    if let (Ok(number), true) = (code.parse::<u32>(), code.len() < 5) {
        return match number & 0xFF {
            // SQLITE_BUSY and SQLITE_LOCKED.
            5 | 6 => StoreError::Busy,
            // SQLITE_FULL.
            13 => StoreError::Full,
            // SQLITE_IOERR, SQLITE_CANTOPEN, SQLITE_READONLY.
            10 | 14 | 8 => StoreError::Unavailable(format!("the database's file cannot be used: {message}")),
            // SQLITE_CORRUPT, SQLITE_NOTADB.
            11 | 26 => StoreError::Failed(format!("{message}: put a copy back with 'culvert-portal restore FILE'")),
            _ => StoreError::Failed(message.to_owned()),
        };
    }
    match code {
        // serialization_failure, deadlock_detected, lock_not_available.
        "40001" | "40P01" | "55P03" => StoreError::Busy,
        "53100" => StoreError::Full,
        // read_only_sql_transaction: a standby after a failover; and what ends connections.
        "25006" => StoreError::unreachable(message),
        code if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => StoreError::unreachable(message),
        _ => StoreError::Failed(message.to_owned()),
    }
}

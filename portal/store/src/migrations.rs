//! The schema's versions, and how a database gets from one to the next.
//!
//! A migration that was released is never changed: databases out there have its checksum.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, SqlSafeStr as _};

use crate::error::StoreError;
use crate::kind::Kind;
use crate::row;

/// The migrations, oldest first.
const MIGRATIONS: &[(&str, &str)] = &[("people", include_str!("../migrations/0001-people.sql"))];

/// The newest version that this program knows.
pub const NEWEST: i64 = MIGRATIONS.len() as i64;

/// The migrations for a kind of database.
pub(crate) fn migrator(kind: Kind) -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|((name, text), version)| {
        let text = in_dialect(kind, text);
        Migration::new(
            version,
            Cow::Borrowed(name),
            MigrationType::Simple,
            sqlx::AssertSqlSafe(text).into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

/// Whether a database has the tables of a portal, of whatever version.
pub(crate) async fn were_run(kind: Kind, connection: &mut AnyConnection) -> Result<bool, StoreError> {
    let query = sqlx::query(match kind {
        Kind::Sqlite => {
            "SELECT COUNT(*) AS count FROM sqlite_master \
             WHERE type = 'table' AND name IN ('_sqlx_migrations', 'keys', 'audit')"
        }
        Kind::Postgresql => {
            "SELECT COUNT(*) AS count FROM pg_tables \
             WHERE schemaname = current_schema() AND tablename IN ('_sqlx_migrations', 'keys', 'audit')"
        }
    });
    Ok(row::number(&query.fetch_one(connection).await?, "count")? == 3)
}

/// What went wrong with a migration.
pub(crate) fn failure(error: sqlx::migrate::MigrateError) -> StoreError {
    match error {
        sqlx::migrate::MigrateError::VersionMissing(found) => StoreError::Newer { found, known: NEWEST },
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        other => StoreError::Failed(format!("the schema cannot be brought up to date: {other}")),
    }
}

/// SQLite finds out a column's type by these words, and the driver reads no others. It compares
/// texts byte by byte, which in PostgreSQL is the collation "C".
fn in_dialect(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Postgresql => text.to_owned(),
        Kind::Sqlite => text.replace("BIGINT", "INTEGER").replace("BYTEA", "BLOB").replace(" COLLATE \"C\"", ""),
    }
}

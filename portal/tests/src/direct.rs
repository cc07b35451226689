//! A portal's database, read and changed behind its back: what only time or a thousand people would
//! bring about, and what no answer shows.

use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Row as _};
use tokio::runtime::Runtime;

/// A connection to a portal's database, of a test that waits for each statement.
#[derive(Debug, Clone)]
pub struct Direct {
    pool: AnyPool,
    runtime: Arc<Runtime>,
    is_sqlite: bool,
}

impl Direct {
    /// Connects to `sqlite:PATH` or `postgresql://…`.
    ///
    /// # Panics
    /// If it cannot be reached.
    #[must_use]
    pub fn connect(url: &str) -> Self {
        sqlx::any::install_default_drivers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let is_sqlite = url.starts_with("sqlite:");
        let options = AnyPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(30));
        let pool = runtime.block_on(options.connect(url)).unwrap_or_else(|error| panic!("{url}: {error}"));
        let direct = Self { pool, runtime: Arc::new(runtime), is_sqlite };
        if is_sqlite {
            direct.execute("PRAGMA busy_timeout = 30000");
        }
        direct
    }

    /// Runs statements.
    ///
    /// # Panics
    /// If the database refuses one.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        let done = self.runtime.block_on(statement.execute(&self.pool));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs statements; says whether the database has taken them.
    #[must_use]
    pub fn try_execute(&self, sql: &str) -> bool {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        self.runtime.block_on(statement.execute(&self.pool)).is_ok()
    }

    /// The whole number that a question is answered with.
    ///
    /// # Panics
    /// If it is not answered so.
    #[track_caller]
    #[must_use]
    pub fn number(&self, sql: &str) -> i64 {
        let question = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
        let row = self.runtime.block_on(question.fetch_one(&self.pool));
        row.and_then(|row| row.try_get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Takes the rate limits off: what a limit counts is forgotten at once. The program itself has
    /// no switch for this.
    ///
    /// # Panics
    /// If the database refuses.
    pub fn take_limits_off(&self) {
        let forget = "DELETE FROM limits WHERE name = NEW.name";
        let statements = if self.is_sqlite {
            ["INSERT", "UPDATE"]
                .map(|event| format!("CREATE TRIGGER no_limits_{event} AFTER {event} ON limits BEGIN {forget}; END;"))
        } else {
            [
                format!(
                    "CREATE FUNCTION forget_limit() RETURNS trigger LANGUAGE plpgsql \
                     AS $$ BEGIN {forget}; RETURN NULL; END $$;"
                ),
                "CREATE TRIGGER no_limits AFTER INSERT OR UPDATE ON limits FOR EACH ROW \
                 EXECUTE FUNCTION forget_limit();"
                    .to_owned(),
            ]
        };
        statements.iter().for_each(|statement| self.execute(statement));
        self.execute("DELETE FROM limits");
    }
}
